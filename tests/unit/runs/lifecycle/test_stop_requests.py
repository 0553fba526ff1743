"""Whom a wish to end a run may wake or kill."""

import os
from types import SimpleNamespace

import pytest

from conjure.runs.database.base import KILL, STOP
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.host.process import find_process, this_process
from conjure.runs.lifecycle import stop_requests
from conjure.runs.lifecycle.abandoned_runs import process_name
from conjure.runs.lifecycle.stop_requests import cancel_queued, end_runs
from conjure.runs.scheduling.scheduler_start import this_queue
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from support.casting import add_run, finish


@pytest.fixture
def signalled(monkeypatch):
    """The owner of run 7, as somebody else sees it, and what it is sent."""
    sent = []
    monkeypatch.setattr(stop_requests, "send_signal", lambda process, number: sent.append(number))

    def look_like(name):
        this = find_process(os.getpid())
        process = SimpleNamespace(name=name, parent=this.parent, is_stopped=False)
        monkeypatch.setattr(stop_requests, "find_supervisor", lambda owner: process)
        return sent

    return look_like


@pytest.mark.parametrize("what", [STOP, KILL])
def test_a_program_that_is_still_submitting_is_let_alone(signalled, what):
    sent = signalled("python")
    stop_requests._wake(SimpleNamespace(owner=None, number=7), what, must_die=True)
    assert sent == []


def test_a_supervisor_that_hears_nothing_is_killed(signalled):
    sent = signalled(process_name(7))
    stop_requests._wake(SimpleNamespace(owner=None, number=7), KILL, must_die=True)
    assert len(sent) == 1


# ---- runs that wait ----------------------------------------------------------------------------------------

STOPPED = Ending(EndReason.STOP_REQUESTED)


@pytest.mark.parametrize("on", [None, "gpu"])
def test_a_run_that_waits_in_a_queue_of_ours_ends_at_once(store, on):
    number = add_run(store, on=on).number
    store.enqueue(number, this_queue(store.home) if on is None else Owner.queue_of_executor(on))
    assert cancel_queued(store, number, STOPPED)
    assert store.get(number).status is RunStatus.STOPPED


def test_a_run_that_waits_in_another_machines_queue_ends_too(store):
    number = add_run(store).number
    store.enqueue(number, Owner.queue("another machine", "boot"))
    assert cancel_queued(store, number, STOPPED)
    assert store.get(number).status is RunStatus.STOPPED


def test_a_run_that_has_a_supervisor_is_left_to_it(store):
    number = add_run(store).number
    store.begin_attempt(number, this_process())
    assert not cancel_queued(store, number, STOPPED)
    assert not store.get(number).status.is_final


def test_who_waits_for_runs_to_end_is_told_which_ones(store):
    """The supervisor of one is gone, which is found while it is waited for."""
    going_on, ended = add_run(store).number, add_run(store).number
    finish(store, ended, Ending(EndReason.COMPLETED, 0))
    with RunLock.possession(store.home.run_folder(going_on)):
        store.set_facts(going_on, owner=this_process(store.home))
        lock = RunLock.take_if_free(store.home.run_folder(going_on))
        assert lock is None
        told = []

        def tick(waiting):
            told.append(list(waiting))
            store.end_run(going_on, STOPPED)

        found = end_runs(store.home, [going_on, ended], STOP, tick=tick)
    assert told == [[going_on]]
    assert [(record.number, str(record.status), was) for record, was in found] == [
        (going_on, "stopped", True),
        (ended, "complete", False),
    ]
