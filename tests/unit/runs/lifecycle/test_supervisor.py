"""What a supervisor does of its own before and after the run, in this process: no command is started."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from conjure.core.home import HOME_VARIABLE
from conjure.errors import ExecutorError, StoreError
from conjure.metric_logging import RUN_VARIABLE
from conjure.runs.database.base import SupersededError
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.host.capacity import Capacity
from conjure.runs.host.process import find_process, this_process
from conjure.runs.host.process_control import set_name
from conjure.runs.lifecycle import supervisor
from conjure.runs.lifecycle.abandoned_runs import process_name
from conjure.runs.lifecycle.submission import request_of_this_process
from conjure.runs.lifecycle.supervisor import (
    _begin_anew,
    _close_after_our_own_fault,
    _enter,
    _exclude,
    _is_taken_over,
    _keep_request,
    _leave_caller,
    _remove_if_empty,
)
from conjure.runs.scheduling.run_queue import write_request
from conjure.runs.scheduling.scheduler_start import SCHEDULER_NAME, SchedulerLock, this_queue
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.spec import ComputeRequest
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from conjure.runs.telemetry.metrics import Summary
from support.casting import add_run, advance, finish

ELSEWHERE = Owner("elsewhere", "boot", 2, "2")


def queued(store, **spec):
    """A run that waits in this machine's queue, and what its supervisor will be given."""
    record = add_run(store, **spec)
    request = request_of_this_process(store.home, record.spec, 0.0, "local")
    write_request(store.home, record.number, request)
    store.enqueue(record.number, this_queue(store.home))
    return record.number, request


@pytest.mark.parametrize("retry", [0, 1])
def test_what_a_supervisor_was_given_is_kept_only_for_a_further_attempt(store, retry):
    number, request = queued(store, retry=retry)
    assert _enter(store.home, store, number, request, None) == 1
    assert store.get(number).status is RunStatus.BUILDING
    assert store.home.queued_request(number).exists() == bool(retry)


def test_a_run_that_ended_while_it_waited_is_not_begun(store):
    number, request = queued(store)
    store.end_queued_run(number, Ending(EndReason.STOP_REQUESTED))
    assert _enter(store.home, store, number, request, None) is None


def test_a_run_that_was_begun_when_the_server_went_away_is_not_begun_again(store):
    number, request = queued(store)
    assert [_enter(store.home, store, number, request, None) for _ in range(2)] == [1, 1]
    assert store.newest_attempt(number) == 1


def test_an_attempt_that_another_process_has_begun_is_not_taken(store):
    number, request = queued(store)
    store.begin_attempt(number, ELSEWHERE)
    with pytest.raises(SupersededError):
        _enter(store.home, store, number, request, 1)


def test_a_run_for_which_there_is_no_room_after_all_waits_again(store):
    number, request = queued(store, resources=ComputeRequest(cpus=2))
    lacking = replace(request, capacity=Capacity(1, (), 1))
    assert _enter(store.home, store, number, lacking, None) is None
    assert store.get(number).waits_in_queue
    assert store.home.queued_request(number).exists()


def test_a_further_attempt_on_a_cluster_needs_nothing_that_is_kept_here(store):
    number, request = queued(store, retry=1)
    store.home.queued_request(number).unlink()
    _keep_request(store.home, number, replace(request, executor="gpu"))
    assert not store.home.queued_request(number).exists()


def test_a_run_goes_on_where_nothing_can_be_kept_for_a_further_attempt(store, monkeypatch, capsys):
    def fail(*_):
        raise ExecutorError("a waiting run cannot be stored in memory")

    number, request = queued(store, retry=1)
    monkeypatch.setattr(supervisor, "write_request", fail)
    assert _enter(store.home, store, number, request, None) == 1
    assert "cannot be stored in memory" in capsys.readouterr().err  # which is the supervisor's log


def test_a_further_attempt_finds_nothing_of_the_one_before(store):
    number, _ = queued(store, retry=1)
    store.begin_attempt(number, this_process())
    advance_from_queue(store, number)
    folder = RunFolder.of(store.home, number)
    folder.log.write_text("of the first attempt")
    store.set_summaries(number, [Summary("loss", 1, 0, 1.5, 1.5, 1.5)])
    store.retry_run(
        number, Ending(EndReason.SUPERVISOR_DIED), this_queue(store.home), host="here", delay_s=0.0
    )
    variables = {**os.environ, RUN_VARIABLE: str(number), HOME_VARIABLE: str(store.home.root)}
    with subprocess.Popen(["sleep", "60"], env=variables) as left_over:
        _begin_anew(store.home, store, number)
        assert left_over.wait(timeout=30) < 0
    assert folder.attempt(1).log.read_text() == "of the first attempt"
    assert store.summaries(number) == {}


def test_a_first_attempt_has_nothing_to_leave_behind(store):
    number, _ = queued(store)
    folder = RunFolder.of(store.home, number)
    folder.log.write_text("note of the submission")
    _begin_anew(store.home, store, number)
    assert folder.log.read_text() == "note of the submission"


def advance_from_queue(store, number):
    for phase in (RunStatus.BUILDING, RunStatus.MOUNTING, RunStatus.RUNNING):
        store.move(number, phase)


def test_a_fault_of_our_own_ends_the_run_and_says_where_to_look(member, shared_store):
    number = add_run(shared_store).number
    shared_store.begin_attempt(number, this_process(member))
    advance(shared_store, number, RunStatus.RUNNING)
    _close_after_our_own_fault(member, number, ValueError("a bug"))
    record = shared_store.get(number)
    assert record.ending.reason is EndReason.SUPERVISOR_DIED
    where = RunFolder.of(member, number).supervisor_log
    assert record.ending.message == f"internal error (ValueError: a bug); see {where}"


def test_a_fault_after_another_machine_took_the_run_over_ends_nothing(member, shared_store):
    number = add_run(shared_store).number
    shared_store.begin_attempt(number, ELSEWHERE)
    advance(shared_store, number, RunStatus.RUNNING)
    _close_after_our_own_fault(member, number, ValueError("a bug"))
    assert shared_store.get(number).status is RunStatus.RUNNING


def test_a_fault_after_the_end_changes_nothing(store):
    number = finish(store, add_run(store).number, Ending(EndReason.COMPLETED, 0)).number
    _close_after_our_own_fault(store.home, number, ValueError("a bug"))
    assert store.get(number).status is RunStatus.COMPLETE


def test_a_fault_that_cannot_be_written_down_is_in_the_log(store, monkeypatch, capsys):
    def fail(*_, **__):
        raise StoreError("the disk is full")

    number = add_run(store).number
    monkeypatch.setattr(SqliteDatabase, "end_run", fail)
    _close_after_our_own_fault(store.home, number, ValueError("a bug"))
    assert "the disk is full" in capsys.readouterr().err


def test_only_another_supervisor_has_taken_a_run_over(member, shared_store):
    me = this_process(member)
    assert _is_taken_over(shared_store, ELSEWHERE)
    assert _is_taken_over(shared_store, replace(me, pid=1))
    assert not _is_taken_over(shared_store, me)
    for nobody in (None, Owner.queue_of_executor("gpu"), Owner.of_executor("gpu")):
        assert not _is_taken_over(shared_store, nobody)


def test_in_a_home_of_its_own_nobody_takes_a_run_over(store):
    assert not _is_taken_over(store, ELSEWHERE)


@pytest.mark.parametrize("content", [None, "", "a fault of ours"])
def test_only_a_log_in_which_something_stands_is_kept(store, content):
    log = RunFolder.of(store.home, add_run(store).number).supervisor_log
    if content is not None:
        log.write_text(content)
    _remove_if_empty(store.home, 1)
    assert log.exists() == bool(content)


def test_what_another_run_or_the_queue_has_is_not_ended_with_a_run(store):
    home, lock = store.home, RunLock.take_if_free(store.home.run_folder(add_run(store).number))
    exclude = _exclude(home, 7)
    process = find_process(os.getpid())
    assert exclude(process._replace(name=process_name(1)))
    assert not exclude(process)
    lock.release()
    assert not exclude(process._replace(name=process_name(1)))
    scheduler = SchedulerLock.take_if_free(home)
    scheduler.write_holder()
    set_name(SCHEDULER_NAME)
    try:
        assert exclude(find_process(os.getpid()))
    finally:
        set_name(process.name)
        scheduler.release()


def test_a_guard_is_known_by_its_name_from_its_first_moment(store):
    """A run whose command submits another one may end at any moment, and spares that one's processes."""
    number, request = queued(store)
    reading, writing = os.pipe()

    def tell():
        os.write(writing, Path("/proc/self/comm").read_bytes())
        os._exit(0)

    child = os.fork()
    if child == 0:
        os.fork = tell
        try:
            _leave_caller(store.home, number, RunLock(None), request)
        finally:
            os._exit(1)
    os.close(writing)
    assert os.read(reading, 100).decode() == f"{process_name(number)}\n"
    os.close(reading)
    assert os.waitpid(child, 0)[1] == 0
