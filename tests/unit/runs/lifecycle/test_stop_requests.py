"""Whom a wish to end a run may wake or kill."""

import signal
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest

from conjure.errors import NotFoundError, StoreError
from conjure.runs.artifacts.outputs import Baseline
from conjure.runs.artifacts.run_folders import RunFolders
from conjure.runs.database.base import KILL, STOP
from conjure.runs.executors.cluster_executor import ClusterExecutor
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.host.process import KILL_SIGNAL, find_process, this_process
from conjure.runs.lifecycle import stop_requests
from conjure.runs.lifecycle.abandoned_runs import process_name
from conjure.runs.lifecycle.stop_requests import cancel_queued, end_runs, request_end
from conjure.runs.scheduling import scheduler_start
from conjure.runs.scheduling.scheduler_start import this_queue
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from support.casting import add_run, advance, finish
from support.repositories import read_files, write_files

NAME = process_name(7)


@pytest.fixture
def wake(monkeypatch):
    """Looks after run 7, whose supervisor and guard are these; what either is sent."""

    def wake(what, *, must_die=False, stopped=(), name=NAME, guards_name=NAME):
        supervisor = SimpleNamespace(name=name, parent=2, is_stopped="supervisor" in stopped)
        guard = SimpleNamespace(name=guards_name, is_stopped="guard" in stopped)
        sent = []

        def send(process, number):
            sent.append(("guard" if process is guard else "supervisor", number))

        monkeypatch.setattr(stop_requests, "find_supervisor", lambda _: supervisor)
        monkeypatch.setattr(stop_requests, "find_process", lambda _: guard if guards_name else None)
        monkeypatch.setattr(stop_requests, "send_signal", send)
        stop_requests._wake(SimpleNamespace(owner=None, number=7), what, must_die=must_die)
        return sent

    return wake


@pytest.mark.parametrize("what", [STOP, KILL])
def test_a_program_that_is_still_submitting_is_let_alone(wake, what):
    assert wake(what, name="python", must_die=True, stopped=("supervisor", "guard")) == []


def test_a_supervisor_that_can_hear_is_left_to_do_so(wake):
    assert wake(STOP) == []
    assert wake(STOP, must_die=True) == []
    assert wake(KILL) == []


def test_a_supervisor_that_hears_nothing_is_killed(wake):
    assert wake(KILL, must_die=True) == [("supervisor", signal.SIGKILL)]


def test_a_halted_supervisor_goes_on_to_stop_and_is_killed_for_a_kill(wake):
    assert wake(STOP, stopped=["supervisor"]) == [("supervisor", signal.SIGCONT)]
    assert wake(KILL, stopped=["supervisor"]) == [("supervisor", signal.SIGKILL)]


def test_a_halted_guard_goes_on_and_nobody_else_above_a_supervisor(wake):
    assert wake(STOP, stopped=["guard"]) == [("guard", signal.SIGCONT)]
    assert wake(STOP, stopped=["guard"], guards_name="bash") == []
    assert wake(STOP, guards_name=None) == []


# ---- where nothing can be written --------------------------------------------------------------------------


@pytest.fixture
def supervisor(store, monkeypatch):
    """What supervises run 1, whose database nothing can be written to."""

    def fail(*_):
        raise StoreError("the disk is full")

    number = add_run(store).number
    with subprocess.Popen(["sleep", "60"]) as process:
        started = find_process(process.pid).started
        store.set_facts(number, owner=replace(this_process(store.home), pid=process.pid, started=started))
        monkeypatch.setattr(store, "request_end", fail)
        yield process
        process.kill()


@pytest.mark.parametrize(("what", "number"), [(STOP, signal.SIGTERM), (KILL, KILL_SIGNAL)])
def test_a_supervisor_is_told_by_a_signal(store, supervisor, what, number):
    assert request_end(store, 1, what)
    assert supervisor.wait(timeout=30) == -number


@pytest.mark.parametrize("has_ended", [True, False])
def test_who_cannot_be_told_is_not_said_to_have_been(store, supervisor, has_ended):
    """A run that has ended, whose number its supervisor's process may still have; or one that has none."""
    if has_ended:
        finish(store, 1, Ending(EndReason.COMPLETED, 0))
    else:
        store.set_facts(1, owner=replace(store.get(1).owner, started="before"))
    with pytest.raises(StoreError, match="the disk is full"):
        request_end(store, 1, STOP)
    assert supervisor.poll() is None


# ---- runs that wait ----------------------------------------------------------------------------------------

STOPPED = Ending(EndReason.STOP_REQUESTED)


@pytest.mark.parametrize("on", [None, "gpu"])
def test_a_run_that_waits_in_a_queue_of_ours_ends_at_once(store, on):
    number = add_run(store, on=on).number
    store.enqueue(number, this_queue(store.home) if on is None else Owner.queue_of_executor(on))
    assert cancel_queued(store, number, STOPPED)
    assert store.get(number).status is RunStatus.STOPPED


def test_who_may_start_because_another_was_stopped_is_told(store, monkeypatch):
    taken_back, woken = [], []
    executor = SimpleNamespace(end=taken_back.append)
    monkeypatch.setattr(ClusterExecutor, "named", lambda _home, name: {"gpu": executor}[name])
    monkeypatch.setattr(stop_requests, "wake_scheduler", woken.append)
    numbers = [add_run(store, on=on).number for on in ("gpu", None, None)]
    for number, queue in zip(numbers, (Owner.queue_of_executor("gpu"), this_queue(store.home)), strict=False):
        store.enqueue(number, queue)
    assert [cancel_queued(store, number, STOPPED) for number in numbers] == [True, True, False]
    assert taken_back == numbers[:1]  # its job, which may be there already
    assert woken == [store.home] * 2


@pytest.mark.parametrize(
    ("submitter", "on", "ends"),
    [
        ("this process", None, False),  # it hears of the wish, or its supervisor does
        ("this process", "gpu", True),
        ("another machine", None, True),
        ("an executor", None, False),
    ],
)
def test_a_run_that_is_still_submitted_ends_at_once_where_nobody_here_would_hear(store, submitter, on, ends):
    number = add_run(store, on=on).number
    owners = {"this process": this_process(store.home), "an executor": Owner.of_executor("memory")}
    store.set_facts(number, owner=owners.get(submitter, Owner("elsewhere", "boot", 2, "2")))
    assert request_end(store, number, STOP)
    assert store.get(number).status is (RunStatus.STOPPED if ends else RunStatus.REQUESTED)
    assert store.end_request(number) == (None if ends else STOP)


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


def test_a_number_that_no_run_has_ends_none(store):
    number = add_run(store).number
    with pytest.raises(NotFoundError):
        end_runs(store.home, [number, 99], STOP)
    assert store.end_request(number) is None


def test_a_run_of_another_machine_is_asked_and_not_waited_for(store):
    number = add_run(store).number
    store.begin_attempt(number, Owner("elsewhere", "boot", 2, "2"))
    ((record, was_going_on),) = end_runs(store.home, [number], STOP)
    assert (record.status, was_going_on) == (RunStatus.REQUESTED, True)
    assert store.end_request(number) == STOP


@pytest.mark.parametrize(("what", "saved"), [(STOP, {"made": "m"}), (KILL, {})])
def test_what_an_attempt_made_is_saved_when_the_run_is_stopped_before_the_next(
    store, monkeypatch, what, saved
):
    monkeypatch.setattr(scheduler_start, "start_scheduler", lambda _: None)
    number = add_run(store, retry=1).number
    files = RunFolder.of(store.home, number)
    store.begin_attempt(number, this_process(store.home))
    advance(store, number, RunStatus.RUNNING)
    with RunFolders(files.path) as folders:
        folders.make_work()
    Baseline({}).save(files.baseline)
    write_files(files.work, {"made": "m"})
    ending = Ending(EndReason.SUPERVISOR_DIED)
    store.retry_run(number, ending, this_queue(store.home), host="here", delay_s=60.0)
    end_runs(store.home, [number], what)
    assert read_files(files.outputs) == saved
