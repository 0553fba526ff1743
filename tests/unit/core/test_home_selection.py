"""Which home a command is for: --home before it, by a name."""

import pytest

from conjure.core.home import Home
from conjure.core.home_selection import find_home, find_team_home, take_home_option, with_home
from conjure.core.team_settings import TeamSettings, read_team, write_team
from conjure.errors import StoreError, UsageError


@pytest.fixture
def local(conjure_home):
    return Home(conjure_home).create()


def test_without_the_option_nothing_changes(local):
    assert take_home_option(["ps", "--home", "lab"]) == ["ps", "--home", "lab"]
    assert Home.from_environment() == local


@pytest.mark.parametrize("typed", [["--home", "lab"], ["--home=lab"]])
def test_a_home_is_chosen_by_its_name(local, typed):
    local.named("lab").root.mkdir(parents=True)
    assert take_home_option([*typed, "ps", "-a"]) == ["ps", "-a"]
    chosen = Home.from_environment()
    assert (chosen.name, chosen.local, chosen.config_file) == ("lab", local, local.config_file)
    assert with_home("conjure wait 3") == "conjure --home lab wait 3"
    assert find_home("local") == local  # from within a run of the other, too


def test_an_unknown_name_is_refused_except_where_it_begins(local):
    local.named("laboratory").root.mkdir(parents=True)
    with pytest.raises(UsageError, match="there is no home 'laboratori'; did you mean") as caught:
        take_home_option(["--home", "laboratori", "ps"])
    assert "conjure --home laboratori team join --database ADDRESS" in caught.value.in_full()
    assert take_home_option(["--home", "new", "team", "join"]) == ["team", "join"]
    assert not Home.from_environment().root.exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "x" * 51])
def test_a_name_that_cannot_be_one_is_refused(local, name):
    with pytest.raises(UsageError, match="cannot be the name of a home"):
        find_home(name, may_be_new=True)


def test_what_a_home_knows_of_its_team_is_read_again(local):
    assert read_team(local) is None
    for settings in (
        TeamSettings("postgresql://h/d"),
        TeamSettings("postgresql://h/d", "s3://b/p", "ada@x/1"),
    ):
        write_team(local, settings)
        assert read_team(local) == settings
        assert local.team_file.stat().st_mode & 0o777 == 0o600
    local.team_file.write_text('{"format": 3, "database": "x"}')
    with pytest.raises(StoreError, match="newer version"):
        read_team(local)


def test_a_job_finds_the_home_of_its_team(local, monkeypatch):
    ours = TeamSettings("postgresql://ada@db/x", "s3://bucket/a", "ada@host/1")
    theirs = TeamSettings("postgresql://nodes@other-name/x", "s3://bucket/a", "nodes@node/2")
    assert ours.identity == theirs.identity  # whatever name a member has, or calls the database by
    assert find_team_home(ours.identity) is None
    local.named("lab").root.mkdir(parents=True)
    write_team(local, TeamSettings("postgresql://ada@db/y", "s3://bucket/b", "ada@host/3"))
    write_team(local.named("lab"), theirs)
    assert find_team_home(ours.identity) == local.named("lab")
    monkeypatch.setenv("CONJURE_HOME", str(local.named("lab").root))
    assert find_team_home(ours.identity) == local.named("lab")
