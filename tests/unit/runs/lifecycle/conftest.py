"""A team whose members are homes in this process."""

import pytest

from support.local_teams import LocalTeam


@pytest.fixture
def team(tmp_path, monkeypatch):
    return LocalTeam(tmp_path, monkeypatch)


@pytest.fixture
def member(team, home):
    """A home of the team."""
    return team.join(home)
