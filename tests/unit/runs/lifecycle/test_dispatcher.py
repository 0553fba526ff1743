"""The process that hands runs to clusters: its right to be, and what it tells in its log."""

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from conjure.errors import ExecutorError, StoreError
from conjure.runs.database.open_database import open_database
from conjure.runs.executors.cluster import LimitReachedError
from conjure.runs.host.process import find_process
from conjure.runs.lifecycle import dispatcher
from conjure.runs.lifecycle.dispatcher import Refusals, dispatch
from conjure.runs.scheduling.scheduler_start import (
    SchedulerLock,
    dispatcher_lock_path,
    is_scheduler,
    start_dispatcher,
)
from conjure.runs.schema.process_facts import Owner
from support.casting import add_run, wait_until


@pytest.fixture
def lock(store):
    taken = SchedulerLock.take_if_free(store.home, dispatcher_lock_path(store.home))
    assert taken is not None
    return taken


def test_it_goes_when_no_run_is_on_a_cluster_and_leaves_its_place(store, lock):
    dispatch(store.home, lock)
    free = SchedulerLock.take_if_free(store.home, dispatcher_lock_path(store.home))
    assert free is not None
    free.release()


def test_it_looks_once_more_after_it_has_let_go(store, lock, monkeypatch):
    """Who submits a run at that moment meets the lock, and starts no other."""
    looks = []

    def look(*_):
        held = SchedulerLock.take_if_free(store.home, dispatcher_lock_path(store.home))
        if held is not None:
            held.release()
        looks.append("free" if held is not None else "held")
        return looks == ["held", "free"]  # a run came just then

    monkeypatch.setattr(dispatcher, "_look", look)
    dispatch(store.home, lock)
    assert looks == ["held", "free", "held", "free"]
    assert json.loads(dispatcher_lock_path(store.home).read_text())["pid"] == os.getpid()


def test_whose_place_somebody_took_meanwhile_goes(store, lock, monkeypatch):
    others = []

    def look(*_):
        other = SchedulerLock.take_if_free(store.home, dispatcher_lock_path(store.home))
        if other is not None:
            others.append(other)
        return bool(others)

    monkeypatch.setattr(dispatcher, "_look", look)
    dispatch(store.home, lock)
    (other,) = others
    other.release()


def test_a_server_that_is_away_is_told_of_and_asked_again(store, lock, monkeypatch, capsys):
    polls = []

    def poll(*_):
        polls.append(1)
        if len(polls) == 1:
            raise StoreError("the database is away")

    monkeypatch.setattr(dispatcher, "_AGAIN_AFTER_S", 0.0)
    monkeypatch.setattr(dispatcher, "poll_clusters", poll)
    dispatch(store.home, lock)
    assert len(polls) == 3
    assert capsys.readouterr().err == "the database is away\n"


def test_it_rests_between_two_looks(store, lock, monkeypatch):
    rests, found = [], iter([StoreError("the database is away"), 2.5, None, None])

    def poll(*_):
        answer = next(found)
        if isinstance(answer, StoreError):
            raise answer
        return answer

    monkeypatch.setattr(dispatcher, "poll_clusters", poll)
    monkeypatch.setattr(dispatcher, "time", SimpleNamespace(sleep=rests.append))
    dispatch(store.home, lock)
    assert rests == [10.0, 2.5]


def test_a_refusal_counts_after_five_minutes_and_a_limit_of_the_account_never(monkeypatch):
    now, refusals = [1000.0], Refusals()
    monkeypatch.setattr(dispatcher, "time", SimpleNamespace(monotonic=lambda: now[0]))
    refused = {7: ExecutorError("no such partition"), 8: LimitReachedError("only 4 jobs")}
    found = []
    for now[0] in (1000.0, 1299.0, 1300.0):
        found.append(refusals.note("gpu", refused))
    assert found == [[], [], [7]]


def test_a_refusal_is_told_once_and_with_its_run(capsys):
    refusals = Refusals()
    for _ in range(3):
        refusals.note("gpu", {7: ExecutorError("no such partition"), 8: LimitReachedError("only 4 jobs")})
    assert sorted(capsys.readouterr().err.splitlines()) == ["run 7: no such partition", "run 8: only 4 jobs"]
    refusals.note("gpu", {})
    refusals.note("gpu", {7: ExecutorError("again")})
    assert capsys.readouterr().err == "run 7: again\n"


@pytest.fixture
def process(member, monkeypatch):
    """A dispatcher that stays, for a run that waits for a cluster which does not answer."""
    member.config_file.write_text('[executors.gpu]\nkind = "ray"\naddress = "http://127.0.0.1:9"\n')
    with open_database(member) as store:
        number = add_run(store, on="gpu").number
        store.enqueue(number, Owner.queue_of_executor("gpu"))
    path = dispatcher_lock_path(member)
    lock = SchedulerLock.take_if_free(member, path)
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            monkeypatch.setattr(sys, "argv", ["dispatcher", str(lock.descriptor)])
            dispatcher.main()
        finally:
            os._exit(1)
    lock.release()
    try:
        assert os.waitpid(child, 0)[1] == 0  # who starts it waits for no more than that
        wait_until(path.read_text, "the holder of the lock", patience_s=30)
        yield find_process(json.loads(path.read_text())["pid"])
    finally:
        os.killpg(child, signal.SIGKILL)


def test_its_process_outlives_its_terminal_and_the_run_that_started_it(member, process):
    assert is_scheduler(member, process)  # who ends all that a run has left spares it
    assert ignored_signals(process.pid) >= {signal.SIGINT, signal.SIGHUP}
    assert not start_dispatcher(member)  # one is enough


def ignored_signals(pid):
    (line,) = (
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn")
    )
    mask = int(line.split()[1], 16)
    return {number for number in signal.valid_signals() if mask >> (number - 1) & 1}
