"""A database that fails at any one of its statements: one error of ours, and nothing is half done."""

import sqlite3
import time

import pytest

from conjure.errors import StoreError
from conjure.runs.database.base import STOP
from conjure.runs.database.sqlite import SqliteDatabase, SqliteSession
from conjure.runs.database.sweep_rows import SweepState, TrialClaim
from conjure.runs.schema.process_facts import Owner, Usage
from conjure.runs.schema.record import MountFacts, OutputFacts
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from conjure.runs.telemetry.metrics import Summary
from support.casting import OWNER, add_run, advance, finish

DONE = Ending(EndReason.COMPLETED, 0)
QUEUE = Owner.queue("host", "boot")
MOUNTS = (MountFacts("runs/1/x", "x", read_only=True, source="runs/1/x"),)
ENDED, REQUESTED, QUEUED, SAVING, TRIAL = 1, 2, 3, 4, 5
_STATEMENTS = 100  # more than any of them takes


class FailingConnection(sqlite3.Connection):
    """Fails once, at the statement whose turn it is."""

    fails_at = 0
    failed = False

    def execute(self, statement, *arguments):
        if self.fails_at and statement != "ROLLBACK":
            self.fails_at -= 1
            if self.fails_at == 0:
                self.failed = True
                raise sqlite3.OperationalError("disk I/O error")
        return super().execute(statement, *arguments)


@pytest.fixture
def home(home):
    """A home with a run at each of four points of its life, a label, a link and metrics."""
    with SqliteDatabase.open(home) as store:
        finish(store, add_run(store, labels=("a",), project="jokes").number, DONE)
        add_run(store)
        store.enqueue(add_run(store).number, QUEUE)
        advance(store, add_run(store).number, RunStatus.SAVING)
        store.begin_attempt(SAVING, OWNER)
        sweep = store.create_sweep({}, trials=2, parallel=2, rung_metric="loss")
        create(store, trial=TrialClaim(sweep, 0, 1, {}))
        store.set_link("best", "runs/1")
        store.set_summaries(ENDED, [Summary("loss", 1, 0, 1.0, 1.0, 1.0)])
    return home


def failing(home):
    connection = sqlite3.connect(home.database, isolation_level=None, factory=FailingConnection)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    return SqliteDatabase(SqliteSession(home, connection, time.time))


def content(home):
    """All rows of all tables."""
    with sqlite3.connect(home.database) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
    connection.close()
    del rows["sqlite_sequence"]  # a number that was given may be lost with the process that it was given to
    return rows


def create(store, **more):
    spec = RunSpec(command=("true",), folder=store.home.root)
    store.create_run(spec, OWNER, lambda number: store.home.run_folder(number).mkdir(), **more)


CHANGES = {
    "create_run": create,
    "create_run as a trial": lambda store: create(store, trial=TrialClaim(1, 1, 1, {"lr": "1e-3"})),
    "move": lambda store: store.move(REQUESTED, RunStatus.QUEUED),
    "admit": lambda store: store.admit(QUEUED, lambda _: (0,)),
    "enqueue": lambda store: store.enqueue(REQUESTED, QUEUE),
    "end_queued_run": lambda store: store.end_queued_run(QUEUED, Ending(EndReason.KILL_REQUESTED)),
    "cancel_submission": lambda store: store.cancel_submission(REQUESTED, Ending(EndReason.KILL_REQUESTED)),
    "end_run": lambda store: store.end_run(SAVING, DONE),
    "retry_run": lambda store: store.retry_run(
        SAVING, Ending(EndReason.SUPERVISOR_DIED), QUEUE, host="host", delay_s=9.0
    ),
    "request_end": lambda store: store.request_end(SAVING, STOP),
    "set_facts": lambda store: store.set_facts(
        ENDED, mounts=MOUNTS, outputs=OutputFacts(1, 2), usage=Usage(1.0), identity="same"
    ),
    "set_request": lambda store: store.set_request(SAVING, "{}"),
    "begin_attempt": lambda store: store.begin_attempt(SAVING, OWNER),
    "renew_lease": lambda store: store.renew_lease(SAVING, 1),
    "add_label": lambda store: store.add_label(ENDED, "b"),
    "remove_label": lambda store: store.remove_label(ENDED, "a"),
    "set_archived": lambda store: store.set_archived(ENDED, archived=True),
    "rename_project": lambda store: store.rename_project("jokes", "puns"),
    "set_link": lambda store: store.set_link("worst", "runs/2"),
    "remove_link": lambda store: store.remove_link("best"),
    "set_summaries": lambda store: store.set_summaries(
        SAVING, [Summary(name, 1, 0, 1.0, 1.0, 1.0) for name in ("a", "b")]
    ),
    "refresh_summaries": lambda store: store.refresh_summaries(ENDED),
    "create_sweep": lambda store: store.create_sweep({}, trials=2, parallel=1, rung_metric=None),
    "end_sweep": lambda store: store.end_sweep(1, SweepState.STOPPED),
    "continue_sweep": lambda store: store.continue_sweep(1, trials=9),
    "settle_trial": lambda store: store.settle_trial(1, 0, TRIAL, 0.5, 3),
    "set_rung": lambda store: store.set_rung(TRIAL, 4, 0.5),
    "put_record": lambda store: store.put_record(store.get(ENDED)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_done_whole_or_not_at_all(home, change):
    for statement in range(1, _STATEMENTS):
        before = content(home)
        with failing(home) as store:
            store._session.connection.fails_at = statement
            message = error_of(lambda store=store: CHANGES[change](store))
            if message is None:
                assert not store._session.connection.failed
                assert content(home) != before or change == "put_record"
                return
        assert "disk I/O error" in message
        assert content(home) == before, f"{change} failed at statement {statement}"
    raise AssertionError("it never succeeded")


def error_of(act):
    """What the store says where it fails; None where it does not."""
    try:
        act()
    except StoreError as error:
        return str(error)
    return None


def test_every_change_there_is_is_tried():
    """A method that changes something and is not in the list above is an oversight."""
    looks = {
        name
        for name in dir(SqliteDatabase)
        if not name.startswith("_") and name not in CHANGES and callable(getattr(SqliteDatabase, name))
    }
    assert looks == {
        *(
            "open",
            "close",
            "presume_ended",
            "write_as",
            "while_no_number_is_given",
            "reconnect",
            "forbid_writing",
        ),  # no row changes
        "reindex",  # is done in batches
        *(
            "get",
            "facts",
            "select",
            "listing",
            "listing_page",
            "count",
            "active",
            "supervised",
            "claims",
            "queued",
            "leases",
        ),
        *("supervised_by", "newest_attempt", "request", "age_s"),
        *("active_numbers", "numbers", "newest_number", "last_number", "users_of", "sources_in_use"),
        *("kinships", "completed_equal", "end_request", "link", "links", "lookup_link", "summaries"),
        *("latest_values", "metric_names", "sizes", "environments_in_use", "code_trees", "kept_parts"),
        *("sweep", "sweeps", "trials", "rung_metric", "rungs"),
        *("projects", "project_names", "stray_rows", "damaged_rows", "suspects", "holds"),
    }


def test_a_rebuilding_that_was_cut_short_is_done_again(home):
    with SqliteDatabase.open(home) as store:
        before = store.select(), store.links(), store.summaries(ENDED)
    cut_short = 0
    for statement in range(1, _STATEMENTS, 3):
        with failing(home) as store:
            store._session.connection.fails_at = statement
            if error_of(store.reindex) is not None:
                cut_short += 1
                store.reindex()
            store._session.connection.fails_at = 0
            assert (store.select(), store.links()) == before[:2]
    assert cut_short > 3
