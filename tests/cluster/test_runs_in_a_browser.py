"""What pages and servers of one home show of runs and links of another."""

import asyncio

import pytest

from conjure.serve.links_version import LinksVersion
from conjure.web.export import export_page
from support.team_members import make_team
from support.web_sites import visiting

MAKES = (
    "mkdir d; echo one > d/a; echo two > d/b; head -c 600000 /dev/zero > big;"
    " echo {} > report.json; echo '<p>report' > report.html; echo printed $((40 + 2));"
    " python -c \"import conjure; [conjure.log_metric('loss', 1 / (step + 1)) for step in range(9)]\""
)


@pytest.fixture
def team(project, address, tmp_path):
    return make_team(project.parent, address, f"file://{tmp_path}/objects")


def fetched(member, number):
    outputs = member.home.fetched / str(number) / "outputs"
    return sorted(str(path.relative_to(outputs)) for path in outputs.rglob("*") if not path.is_dir())


def test_pages_fetch_the_files_that_are_asked_for_and_no_others(team):
    ada, bob = team
    ada.do("run", MAKES)
    ada.do("run", "echo > plain.txt")
    with visiting(bob.home.root) as visitor:
        assert ">Report</a>" in visitor.page("/runs/1")
        assert ">Report</a>" not in visitor.page("/runs/2")
        listed = visitor.page("/runs/1/files")
        assert "d/</a>" in listed
        assert "big</a>" in listed
        assert "/files/d/a" in visitor.page("/runs/1/files/d")
        assert visitor.get("/runs/1/files/none").status == 404
        assert fetched(bob, 1) == []
        assert "two" in visitor.page("/runs/1/files/d/b")
        assert fetched(bob, 1) == ["d/b"]
        assert "Download data" in visitor.page("/runs/1/report")
        assert fetched(bob, 1) == ["d/b", "report.html"]
        assert len(visitor.get("/runs/1/raw/big").content) == 600_000


def test_an_exported_page_has_the_curves_and_the_log(team):
    ada, bob = team
    ada.do("run", MAKES)
    page = export_page(bob.home, [1])
    assert "printed 42" in page
    assert "<svg" in page
    assert "loss" in page


def test_a_server_sees_links_move(team):
    ada, bob = team
    ada.do("run", "echo > 1.txt")
    ada.do("link", "best", "runs/1")

    async def look():
        version = LinksVersion(bob.home)
        assert await version() == [("best", "runs/1")]
        ada.do("unlink", "best")
        ada.do("link", "best", "runs/1/1.txt")
        while await version() != [("best", "runs/1/1.txt")]:
            await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(look(), 60))
