"""What a supervisor does of its own before and after the run, in this process: no command is started."""

import os
import subprocess
from pathlib import Path

import pytest

from conjure.core.home import HOME_VARIABLE
from conjure.metric_logging import RUN_VARIABLE
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.host.process import this_process
from conjure.runs.lifecycle.abandoned_runs import process_name
from conjure.runs.lifecycle.submission import request_of_this_process
from conjure.runs.lifecycle.supervisor import (
    _begin_anew,
    _close_after_our_own_fault,
    _enter,
    _leave_caller,
)
from conjure.runs.scheduling.run_queue import write_request
from conjure.runs.scheduling.scheduler_start import this_queue
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from conjure.runs.telemetry.metrics import Summary
from support.casting import add_run, advance

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
