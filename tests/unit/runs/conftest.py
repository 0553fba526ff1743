"""What tests of the run half share."""

import pytest

from conjure.runs.database.open_database import open_database
from conjure.runs.database.sqlite import SqliteDatabase
from support.local_teams import LocalTeam


@pytest.fixture
def store(home):
    with SqliteDatabase.open(home) as store:
        yield store


@pytest.fixture
def team(tmp_path, monkeypatch):
    """A team whose members are homes in this process."""
    return LocalTeam(tmp_path, monkeypatch)


@pytest.fixture
def member(team, home):
    """A home of the team."""
    return team.join(home)


@pytest.fixture
def shared_store(member):
    """The team's records, as that home has them."""
    with open_database(member) as store:
        yield store
