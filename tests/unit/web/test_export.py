"""Runs as one file."""

import re

from click.testing import CliRunner

from conjure.cli.commands.web import command
from support.web_homes import small_home


def test_a_file_holds_runs_without_scripts_or_requests(conjure_home, tmp_path):
    small_home(conjure_home)
    done = CliRunner().invoke(command, ["export", "1", "6", "-o", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "page.html").read_text()
    for text in ("Runs 1, 6", "python train.py --lr 0.001", "UserWarning", "2.13.0", "<svg"):
        assert text in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=|url\(|@import", page)
    assert "default-src 'none'" in page


def test_what_is_hostile_stays_text(conjure_home, tmp_path):
    from conjure.core.home import Home
    from conjure.runs.database.sqlite import SqliteDatabase
    from conjure.web.export import export_page
    from support.casting import add_run
    from support.web_homes import HOSTILE, log_points, print_lines

    home = Home(conjure_home)
    with SqliteDatabase.open(home) as store:
        for text in HOSTILE:
            number = add_run(store, text, description=text).number
            print_lines(home, number, [text])
            log_points(home, number, "".join(filter(str.isprintable, text))[:100], [1.0, 2.0])
    page = export_page(home, range(1, len(HOSTILE) + 1))
    assert "<script>alert" not in page
    assert "<img src=x" not in page


def test_a_run_that_is_not_there_is_said(conjure_home, tmp_path):
    small_home(conjure_home)
    done = CliRunner().invoke(command, ["export", "99", "-o", str(tmp_path / "page.html")])
    assert "there is no run 99" in str(done.exception)
    assert not (tmp_path / "page.html").exists()
