"""When links are looked up again, without a team: its records are made up."""

import asyncio
import threading

import pytest

from conjure.core.home import Home
from conjure.errors import StoreError
from conjure.serve import links_version
from conjure.serve.links_version import LinksVersion


class Records:
    """The links of a team, which another machine may change."""

    def __init__(self):
        self.links, self.asked, self.hangs = [("jokes", "runs/1")], 0, threading.Event()
        self.hangs.set()

    def __call__(self, _):
        self.asked += 1
        self.hangs.wait()
        if self.links is None:
            raise StoreError("the database cannot be reached")
        return list(self.links)


@pytest.fixture
def records(monkeypatch):
    records = Records()
    monkeypatch.setattr(links_version, "known_links", records)
    yield records
    records.hangs.set()


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home").create()
    home.team_file.write_text("{}")
    return home


async def changed(version, before):
    """What it is once it is not what it was."""
    while (now := await version()) == before:
        await asyncio.sleep(0.01)
    return now


def test_a_link_that_another_machine_moved_is_seen(records, home, monkeypatch):
    monkeypatch.setattr(links_version, "_EVERY_S", 0.05)

    async def look():
        version = LinksVersion(home)
        before = await changed(version, None)
        records.links = [("jokes", "runs/2")]
        assert await asyncio.wait_for(changed(version, before), 30) == [("jokes", "runs/2")]

    asyncio.run(look())


def test_the_records_are_read_once_a_second_whoever_asks(records, home, monkeypatch):
    monkeypatch.setattr(links_version, "_EVERY_S", 60)

    async def look():
        version = LinksVersion(home)
        for _ in range(3):
            await asyncio.gather(*(version() for _ in range(20)))

    asyncio.run(look())
    assert records.asked == 1


def test_without_the_records_links_mean_what_they_meant(records, home, monkeypatch):
    monkeypatch.setattr(links_version, "_EVERY_S", 0.01)

    async def look():
        version = LinksVersion(home)
        before = await changed(version, None)
        records.links, asked = None, records.asked
        while records.asked < asked + 3:
            assert await version() == before
            await asyncio.sleep(0.01)

    asyncio.run(look())


def test_records_that_do_not_answer_hold_nobody_up(records, home, monkeypatch):
    monkeypatch.setattr(links_version, "_EVERY_S", 0.05)
    records.hangs.clear()

    async def look():
        version = LinksVersion(home)
        for _ in range(3):
            assert await asyncio.wait_for(version(), 30) is None

    asyncio.run(look())
    assert records.asked == 1


def test_a_home_of_its_own_has_them_in_a_file(records, tmp_path):
    home = Home(tmp_path / "home").create()

    async def look():
        version = LinksVersion(home)
        before = await version()
        home.links_file.write_text("{}")
        assert await version() != before

    asyncio.run(look())
    assert records.asked == 0
