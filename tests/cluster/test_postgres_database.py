"""PostgreSQL as a home's database: what every database must do, directly and behind a pooler; and more."""

import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from conjure.core.home import Home
from conjure.errors import ConflictError, StoreError
from conjure.runs.database import postgres_migrations
from conjure.runs.database.base import DatabaseAwayError, RunFilter, SupersededError
from conjure.runs.database.migrations import Migration, NewerSchemaError
from conjure.runs.database.postgres import PostgresDatabase, PostgresSession
from conjure.runs.database.postgres_migrations import NEWEST, schema_number, upgrade
from conjure.runs.database.sweep_rows import SweepState
from conjure.runs.lifecycle import heartbeat
from conjure.runs.lifecycle.heartbeat import when_reachable
from conjure.runs.lifecycle.submission import request_of_this_process
from conjure.runs.lifecycle.supervisor import _enter
from conjure.runs.objects.index import ObjectIndex, Streams
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.spec import ComputeRequest, RunSpec
from conjure.runs.schema.status import Ending, EndReason, IllegalMoveError, RunStatus
from support.casting import add_run, finish, wait_until
from support.database_contract import *  # noqa: F403
from support.database_contract import start_trial

HERE = Owner("here", "boot", 1, "1")
DONE = Ending(EndReason.COMPLETED, 0)


class PooledSession(PostgresSession):
    """Another connection for each transaction, as behind a pooler: what a session kept would be lost."""

    def _connection(self):
        if not self._in_transaction and self._open is not None:
            self._open.close()
            self._open = None
        return super()._connection()


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home").create()


@pytest.fixture
def address(postgres, home):
    address = postgres.new_database()
    session = PostgresSession(home, address)
    assert upgrade(session) == 0
    session.close()
    return address


@pytest.fixture(params=[PostgresSession, PooledSession], ids=["direct", "pooled"])
def store(request, home, address):
    with PostgresDatabase(request.param(home, address)) as store:
        yield store


@pytest.fixture
def second_store(home, address):
    with PostgresDatabase.open(home, address) as second:
        yield second


def test_what_was_sent_of_a_run_is_still_known_when_its_record_is_put_back(store):
    number = add_run(store).number
    index, sent = ObjectIndex(store.session), Streams(1, 20, 10)
    store.begin_attempt(number, HERE)
    index.set_streams(number, sent)
    finish(store, number, DONE)
    store.put_record(store.get(number))
    assert index.streams(number) == sent
    assert store.newest_attempt(number) == 1


@pytest.mark.parametrize("lost", range(3))
def test_a_supervisor_to_which_an_answer_is_lost_has_its_attempt(home, store, monkeypatch, lost):
    record = add_run(store, on="gpu")
    request = request_of_this_process(home, record.spec, 0.0, "gpu")
    monkeypatch.setattr(heartbeat, "_TRY_EVERY_S", 0)
    monkeypatch.setattr(store.session, "transact", losing_one_answer(store.session.transact, lost))
    assert when_reachable(lambda: _enter(home, store, record.number, request, 1), 60) == 1
    assert store.facts(record.number).status is RunStatus.BUILDING
    with pytest.raises(SupersededError):  # no other one has it, too
        store.begin_attempt(record.number, HERE, expected=1)


def losing_one_answer(transact, number):
    """Transactions of which one is done, and that is not heard of."""
    done = iter(range(99))

    def act(change):
        result = transact(change)
        if next(done) == number:
            raise DatabaseAwayError("the server went away")
        return result

    return act


# ---- the schema --------------------------------------------------------------------------------------------


def test_an_upgrade_is_done_once_and_by_one(home, postgres):
    address = postgres.new_database()
    sessions = [PostgresSession(home, address) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(upgrade, sessions))
    assert schema_number(sessions[0]) == NEWEST
    assert upgrade(sessions[0]) == NEWEST
    for session in sessions:
        session.close()


def test_only_an_upgrade_makes_the_schema(home, postgres):
    with pytest.raises(StoreError, match="does not contain conjure's tables") as caught:
        PostgresDatabase.open(home, postgres.new_database())
    assert caught.value.fix == "conjure team init"


def test_a_newer_and_an_older_schema_are_refused_in_one_sentence(home, address, monkeypatch):
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("INSERT INTO schema_migrations (number, name) VALUES (99, 'from the future')")
    with pytest.raises(NewerSchemaError, match=f"has schema 99, and this version .* up to {NEWEST}"):
        PostgresDatabase.open(home, address)
    monkeypatch.setattr("conjure.runs.database.postgres.NEWEST", 100)
    with pytest.raises(StoreError, match="has schema 99, and this version of conjure needs 100") as caught:
        PostgresDatabase.open(home, address)
    assert caught.value.fix == "conjure team upgrade"


def test_a_step_that_fails_leaves_the_schema_before_it(home, address, monkeypatch):
    broken = Migration(NEWEST + 1, "broken", ("CREATE TABLE halfway (x INTEGER)", "this is no SQL"))
    steps = (*postgres_migrations.POSTGRES_MIGRATIONS, broken)
    monkeypatch.setattr(postgres_migrations, "POSTGRES_MIGRATIONS", steps)
    session = PostgresSession(home, address)
    with pytest.raises(StoreError, match="syntax error"):
        upgrade(session)
    assert schema_number(session) == NEWEST
    assert session.query("SELECT to_regclass('halfway') AS found") == [{"found": None}]
    session.close()


# ---- many at once ------------------------------------------------------------------------------------------


def in_threads(home, address, count, act):
    """Let each of several connections do something at the same moment; what they gave."""
    ready = threading.Barrier(count)

    def work(index):
        with PostgresDatabase.open(home, address) as store:
            ready.wait()
            return act(store, index)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(work, range(count)))


def test_numbers_are_dense_whoever_asks(home, address):
    home.runs.mkdir()

    def create(store, _):
        spec = RunSpec(command=("true",), folder=home.root)
        return [
            store.create_run(spec, HERE, lambda number: home.run_folder(number).mkdir()).number
            for _ in range(10)
        ]

    given = in_threads(home, address, 6, create)
    assert sorted(number for numbers in given for number in numbers) == list(range(1, 61))


def test_no_more_is_admitted_than_there_is(home, address):
    with PostgresDatabase.open(home, address) as store:
        for _ in range(6):
            number = add_run(store, resources=ComputeRequest(cpus=1)).number
            store.enqueue(number, Owner.queue("host", "boot"))

    def admit(store, index):
        return store.admit(
            index + 1, lambda claims: () if sum(claim.started for claim in claims) < 2 else None
        )

    assert sum(in_threads(home, address, 6, admit)) == 2


def test_one_of_many_takes_a_link_or_ends_a_run(home, address):
    with PostgresDatabase.open(home, address) as store:
        add_run(store)

    def take(store, index):
        taken = []
        for act in (
            lambda: store.set_link("best", f"runs/{index}"),
            lambda: store.end_run(1, Ending(EndReason.KILL_REQUESTED)),
        ):
            try:
                act()
            except (ConflictError, IllegalMoveError):
                taken.append(0)
            else:
                taken.append(1)
        return taken

    assert [sum(each) for each in zip(*in_threads(home, address, 5, take), strict=True)] == [1, 1]


def test_who_ends_a_sweep_sees_the_trial_that_is_being_started(home, address, monkeypatch):
    with (
        PostgresDatabase.open(home, address) as store,
        PostgresDatabase.open(home, address) as onlooker,
        ThreadPoolExecutor(1) as thread,
    ):
        sweep = store.create_sweep({}, trials=1, parallel=1, rung_metric=None)
        take_trial, ending = store._take_trial, []

        def end(other, _):
            other.end_sweep(sweep, SweepState.STOPPED)
            return [row.run for row in other.trials(sweep)]

        def waits_for_lock():
            return onlooker._session.query(
                "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            )

        def take(*given):
            ending.append(thread.submit(in_threads, home, address, 1, end))
            wait_until(lambda: ending[0].done() or waits_for_lock(), "the end of the sweep")
            return take_trial(*given)

        monkeypatch.setattr(store, "_take_trial", take)
        run = start_trial(store, sweep, 0)
        assert ending[0].result() == [[run]]


def test_a_deadlock_is_done_again(home, address):
    with PostgresDatabase.open(home, address) as store:
        add_run(store)
        add_run(store)
    meet = threading.Barrier(2)

    def lock_both(store, index):
        tries = []

        def act():
            tries.append(1)
            store._session.lock_run(1 + index)
            if len(tries) == 1 and not meet.broken:
                meet.wait(timeout=30)
            store._session.lock_run(2 - index)
            store._set(1 + index, {"identity": f"of {index}"})

        store._session.transact(act)
        return len(tries)

    assert sorted(in_threads(home, address, 2, lock_both)) == [1, 2]
    with PostgresDatabase.open(home, address) as store:
        assert [store.get(number).identity for number in (1, 2)] == ["of 0", "of 1"]


# ---- trouble -----------------------------------------------------------------------------------------------


def test_a_server_that_restarts_is_met_again_by_the_same_object(home, postgres, address):
    with PostgresDatabase.open(home, address) as store:
        add_run(store)
        postgres.stop()
        with pytest.raises(StoreError, match="the team's database cannot be reached"):
            store.get(1)
        with pytest.raises(StoreError, match="the team's database cannot be reached"):
            store.move(1, RunStatus.QUEUED)
        postgres.start()
        store.move(1, RunStatus.QUEUED)
        assert store.get(1).status is RunStatus.QUEUED


def test_leases_go_by_the_servers_clock(home, address, monkeypatch):
    with PostgresDatabase.open(home, address) as store:
        number = add_run(store).number
        store.begin_attempt(number, HERE)
        monkeypatch.setattr("time.time", lambda: 0.0)  # whatever this machine believes
        assert store.leases()[number].heartbeat_age_s < 60


def test_a_text_that_postgresql_cannot_hold_is_shown(home, store):
    number = add_run(store, "echo", description="a\0b", labels=("café",)).number
    assert store.get(number).labels == ("café",)
    assert store.listing(RunFilter())[0].description == "a\\x00b"


def test_its_rows_are_rebuilt_from_the_folders(home, address, postgres):
    with PostgresDatabase.open(home, address) as store:
        finish(store, add_run(store, labels=("a",)).number, DONE)
        store.set_link("best", "runs/1")
        before = store.select(), store.links()
    session = PostgresSession(home, postgres.new_database())
    upgrade(session)
    with PostgresDatabase(session) as store:
        assert store.reindex() == ([1], [])
        assert (store.select(), store.links()) == before
        assert add_run(store).number == 2
