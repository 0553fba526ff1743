"""What `conjure team` refuses before it meets a server."""

import pytest

from conjure.core.team_settings import TeamSettings
from conjure.errors import ConflictError, StoreError, UsageError
from conjure.runs.database.migrations import NewerSchemaError
from conjure.runs.database.open_database import open_database, share, shared_address, stop_sharing
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.host.process import host_id
from conjure.runs.maintenance import team
from conjure.runs.scheduling.scheduler_start import lock_path
from conjure.runs.schema.status import Ending, EndReason
from support.casting import add_run, finish


@pytest.mark.parametrize(
    "address",
    ["sqlite:///x", "host/db", "postgresql://me:hunter2@host/db", "postgres://h/d?password=hunter2"],
)
def test_an_address_that_cannot_be_is_refused_without_its_password(home, address):
    with pytest.raises(UsageError) as caught:
        team.init(home, address)
    assert caught.value.field == "database"
    assert "hunter2" not in f"{caught.value} {caught.value.fix} {caught.value.hint}"
    assert not home.root.exists()


def test_an_active_run_keeps_a_home_where_it_is(home, store):
    add_run(store)
    with pytest.raises(ConflictError, match="1 run has not ended: 1") as caught:
        team.init(home, "postgresql://host/db")
    assert caught.value.fix == "conjure wait 1"
    assert shared_address(home) is None


def test_a_home_that_shares_nothing_says_so(home, store):
    for ask in (team.status, team.leave, team.upgrade_schema):
        with pytest.raises(StoreError, match="in its own database file"):
            ask(home)


def test_a_home_that_shares_is_closed_to_whoever_looks_for_a_file(home):
    with SqliteDatabase.open(home) as store:
        finish(store, add_run(store, labels=("a",)).number, Ending(EndReason.COMPLETED, 0))
        before = store.select()
    share(home, TeamSettings("postgresql://host/db"))
    assert shared_address(home) == "postgresql://host/db"
    assert home.team_file.stat().st_mode & 0o777 == 0o600
    assert lock_path(home).name == f"scheduler-{host_id()}.lock"  # each machine starts its own
    with pytest.raises(NewerSchemaError):
        SqliteDatabase.open(home)
    stop_sharing(home)
    assert lock_path(home) == home.scheduler_lock
    with open_database(home) as store:
        assert store.select() == before


def test_a_damaged_file_is_one_sentence(home):
    home.create().team_file.write_text("{")
    with pytest.raises(StoreError, match=r"team\.json, which says where this home's records are"):
        open_database(home)
