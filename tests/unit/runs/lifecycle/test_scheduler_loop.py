"""Which runs a scheduler starts, how often it tries to, and when it goes."""

import json
import os
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from conjure.core.trees import remove_tree
from conjure.errors import StoreError
from conjure.runs.database.base import STOP, ResourceClaim
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.executors.supervisor_request import LOCAL
from conjure.runs.host.capacity import Capacity
from conjure.runs.host.process import machine_id, this_process
from conjure.runs.lifecycle import scheduler_loop
from conjure.runs.lifecycle.scheduler_loop import _Scheduler, _wait_for_signal
from conjure.runs.lifecycle.submission import request_of_this_process
from conjure.runs.scheduling import scheduler_start
from conjure.runs.scheduling.run_queue import numbers_of_requests, write_request
from conjure.runs.scheduling.scheduler_start import SchedulerLock, this_queue
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.spec import ComputeRequest
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from support.casting import add_run, finish


@pytest.fixture
def scheduler(home, monkeypatch):
    """A scheduler that has run 1 in its queue and only notes whether it starts it or gives it up."""
    home.create().run_folder(1).mkdir(parents=True)
    made = _Scheduler(home, None)
    made.done = []
    made._requests[1] = SimpleNamespace(capacity=Capacity.of_this_machine(), program=made._program)
    monkeypatch.setattr(made, "_fork_supervisor", lambda *_: made.done.append("started"))
    monkeypatch.setattr(made, "_give_up", lambda *_: made.done.append("given up"))
    return made


def look(scheduler, retry_at):
    claim = ResourceClaim(
        1, ComputeRequest(cpus=0.1), machine_id(scheduler._home), in_queue=True, retry_at=retry_at
    )
    for number in scheduler._ready(SimpleNamespace(claims=lambda: [claim])):
        scheduler._start(number)


def test_one_whose_supervisor_never_comes_is_given_up(scheduler):
    for _ in range(6):
        look(scheduler, None)
    assert scheduler.done == ["started"] * 5 + ["given up"]


def test_each_attempt_of_a_run_that_is_retried_has_its_own_tries(scheduler):
    for attempt in range(20):
        look(scheduler, float(attempt))
    assert scheduler.done == ["started"] * 20


def test_a_supervisor_of_the_same_conjure_is_a_copy_and_of_another_one_is_started(scheduler, monkeypatch):
    monkeypatch.setattr(scheduler, "_launch_supervisor", lambda *_: scheduler.done.append("launched"))
    look(scheduler, None)
    scheduler._requests[1].program = "another conjure"
    look(scheduler, None)
    assert scheduler.done == ["started", "launched"]


def test_one_that_somebody_has_is_let_alone_and_one_without_a_folder_is_given_up(scheduler):
    folder = scheduler._home.run_folder(1)
    with RunLock.possession(folder):
        look(scheduler, None)
    assert scheduler.done == []
    with RunLock.possession(folder) as nobody_has_it:
        assert nobody_has_it
    remove_tree(folder)
    look(scheduler, None)
    assert scheduler.done == ["given up"]


def test_one_that_is_given_up_says_where_to_look(home, store):
    number = queue(store)
    _Scheduler(home, None)._give_up(number)
    where = RunFolder.of(home, number).supervisor_log
    message = f"its supervisor could not start; see {where}"
    assert store.get(number).ending == Ending(EndReason.SUPERVISOR_DIED, message=message)


# ---- a look at the queue -----------------------------------------------------------------------------------


def queue(store, **spec):
    """A run that waits in this machine's queue."""
    record = add_run(store, **spec)
    write_request(store.home, record.number, request_of_this_process(store.home, record.spec, 0.0, LOCAL))
    store.enqueue(record.number, this_queue(store.home))
    return record.number


@pytest.fixture
def looking(home, store, monkeypatch):
    """A scheduler that only notes which runs it would start, or that would have another one be started."""
    made = _Scheduler(home, None)
    made.started = []
    monkeypatch.setattr(made, "_start", made.started.append)
    monkeypatch.setattr(scheduler_start, "start_scheduler", lambda _: None)
    return made


def test_what_has_room_is_started_and_what_is_there_waits_for_it(store, looking):
    number = queue(store)
    assert looking._look()
    assert looking.started == [number]
    assert looking._longest_wait_s == 5.0
    store.begin_attempt(number, this_process(store.home))
    with RunLock.possession(store.home.run_folder(number)):
        assert not looking._look()
    assert looking.started == [number]


def test_what_is_not_to_start_any_more_is_closed(store, looking):
    failed = finish(store, add_run(store).number, Ending(EndReason.NONZERO_EXIT, 1)).number
    unwanted, follower, lost = queue(store), queue(store, after=(failed,)), queue(store)
    elsewhere = add_run(store).number
    store.enqueue(elsewhere, Owner.queue("another machine", "boot"))
    for number in (unwanted, elsewhere):
        store.request_end(number, STOP)
    store.home.queued_request(lost).unlink()
    looking._look()
    reasons = {number: store.get(number).ending for number in (unwanted, follower, lost, elsewhere)}
    assert reasons == {
        unwanted: Ending(EndReason.STOP_REQUESTED),
        follower: Ending(EndReason.DEPENDENCY_FAILED, message=f"run {failed} failed"),
        lost: Ending(EndReason.SUPERVISOR_DIED, message="its variables and settings were lost from memory"),
        elsewhere: None,  # that is for the other machine
    }


def test_room_that_a_killed_supervisor_had_is_given_to_the_next(home, store, looking):
    everything = ComputeRequest(cpus=Capacity.of_this_machine().cpus)
    killed = add_run(store, resources=everything).number
    store.begin_attempt(killed, replace(this_process(home), started="before"))
    store.move(killed, RunStatus.QUEUED)
    store.admit(killed, lambda _: ())
    number = queue(store, resources=everything)
    looking._look()
    assert store.get(killed).ending.reason is EndReason.SUPERVISOR_DIED
    assert looking.started == [number]


def test_what_waited_when_the_machine_was_restarted_is_closed(home, store, looking):
    number = add_run(store).number
    store.enqueue(number, Owner.queue(machine_id(home), "before the restart"))
    looking._look()
    assert store.get(number).ending.reason is EndReason.MACHINE_RESTARTED


def test_what_its_supervisor_is_given_outlasts_the_session_that_kept_it(store, looking):
    number = queue(store)
    looking._look()
    store.home.queued_request(number).unlink()
    looking._look()
    assert looking.started == [number] * 2


def test_of_a_run_that_another_machine_ended_no_secret_is_kept(home, store, looking):
    ended, waits, starts = (queue(store, after=after) for after in ((), (add_run(store).number,), ()))
    looking._look()
    store.end_queued_run(ended, Ending(EndReason.STOP_REQUESTED))
    store.begin_attempt(starts, this_process(home))
    with RunLock.possession(home.run_folder(starts)):
        looking._look()
    assert numbers_of_requests(home) == {waits, starts}  # of the latter its supervisor will decide
    assert looking._requests.keys() == {waits}


def test_a_further_attempt_is_started_when_it_is_due(store, looking):
    number = queue(store, retry=1)
    store.begin_attempt(number, this_process(store.home))
    for phase in (RunStatus.BUILDING, RunStatus.MOUNTING, RunStatus.RUNNING):
        store.move(number, phase)
    with RunLock.possession(store.home.run_folder(number)):
        looking._look()
    assert looking._longest_wait_s == 5.0
    ending = Ending(EndReason.SUPERVISOR_DIED)
    store.retry_run(number, ending, this_queue(store.home), host="here", delay_s=3.0)
    assert looking._look()
    assert looking.started == []
    assert 1.0 < looking._longest_wait_s <= 3.0


def test_a_database_that_cannot_be_read_is_tried_again_while_it_is_there(home, store, looking, monkeypatch):
    def fail(*_, **__):
        raise StoreError("the disk is full")

    monkeypatch.setattr(scheduler_loop, "open_database", fail)
    assert looking._look()
    for path in home.root.glob("conjure.db*"):
        path.unlink()
    assert not looking._look()


# ---- its place ---------------------------------------------------------------------------------------------


@pytest.fixture
def serving(home, store, monkeypatch):
    """Has a scheduler look so often as answers are given; how often it waited."""

    def serve(*answers):
        made, waits, answer = _Scheduler(home, SchedulerLock.take_if_free(home)), [], iter(answers)
        monkeypatch.setattr(made, "_look", lambda: next(answer))
        monkeypatch.setattr(scheduler_loop, "_wait_for_signal", waits.append)
        made.run()
        return len(waits)

    return serve


def test_it_goes_when_nothing_waits_and_leaves_its_place_and_no_empty_log(home, serving):
    home.scheduler_log.touch()
    assert serving(True, True, False) == 2
    SchedulerLock.take_if_free(home).release()
    assert not home.scheduler_log.exists()


def test_a_log_in_which_something_stands_stays(home, serving):
    home.scheduler_log.write_text("a fault of ours")
    assert serving(False) == 0
    assert home.scheduler_log.exists()


def test_it_looks_again_where_something_was_queued_when_it_was_about_to_go(home, store, monkeypatch):
    """Who queued it at that moment met the lock, and started no other."""
    number, looks, lock = queue(store), [], SchedulerLock.take_if_free(home)
    made = _Scheduler(home, lock)

    def look():
        looks.append(json.loads(home.scheduler_lock.read_text() or "{}").get("pid"))
        if len(looks) == 2:
            store.end_queued_run(number, Ending(EndReason.STOP_REQUESTED))
        return False

    monkeypatch.setattr(made, "_look", look)
    made.run()
    assert looks == [None, os.getpid()]  # who wakes it finds it again
    SchedulerLock.take_if_free(home).release()


def test_it_goes_with_its_home(home, store, serving):
    store.close()
    for path in home.root.glob("conjure.db*"):
        path.unlink()
    assert serving() == 0


def test_where_nobody_can_wake_it_it_looks_often(monkeypatch):
    slept = []
    monkeypatch.delattr(signal, "sigtimedwait")  # as on a Mac
    monkeypatch.setattr(time, "sleep", slept.append)
    for longest_s in (5.0, 0.1):
        _wait_for_signal(longest_s)
    assert slept == [0.5, 0.1]
