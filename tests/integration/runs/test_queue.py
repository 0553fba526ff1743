"""Runs that wait for resources: who starts them, in which order, and what killing the scheduler costs."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from conjure.python_api import Run
from conjure.runs.database.base import PRUNE
from conjure.runs.database.record_files import read_record
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.executors.supervisor_request import Program
from conjure.runs.host.capacity import Capacity
from conjure.runs.host.process import find_process
from conjure.runs.scheduling.scheduler_start import SCHEDULER_NAME, scheduler_of, wake_scheduler
from conjure.runs.schema.status import EndReason, RunStatus
from support.casting import UNTIL_GO, outputs, release, wait_for_status, wait_until
from support.repositories import files_with
from support.terminal import Terminal

CORES = Capacity.of_this_machine().cpus


@pytest.fixture
def filler(client):
    """A run that has all cores until it is let go."""
    run = client.run(UNTIL_GO, cpus=CORES)
    wait_for_status(run, RunStatus.RUNNING)
    return run


def scheduler(home):
    """The home's scheduler, once it is there."""
    wait_until(lambda: scheduler_of(home), "a scheduler")
    return scheduler_of(home)


def kill_scheduler(home):
    process = scheduler(home)
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: find_process(process.pid) != process, "its end")


def ended_by_itself(run):
    """Wait for a run's end without any command of conjure's, which might start a scheduler."""
    folder = run.home.run_folder(run.number)
    wait_until(lambda: read_record(folder).status.is_final, f"the end of run {run.number}")
    return read_record(folder)


def start_of(run):
    return run.record.facts.entered[RunStatus.BUILDING]


def test_runs_that_wait_have_no_process(client, home, filler):
    waiting = [client.run(f"echo {number}", cpus=1) for number in range(3)]
    assert all(run.record.waits_in_queue for run in waiting)
    for run in waiting:
        with RunLock.possession(home.run_folder(run.number)) as nobody_has_it:
            assert nobody_has_it
    assert scheduler(home).name == SCHEDULER_NAME
    release(filler)
    assert [list(run.wait(check=True).logs()) for run in waiting] == [["0"], ["1"], ["2"]]
    wait_until(lambda: scheduler_of(home) is None, "the end of the scheduler, as nothing waits")
    assert not home.scheduler_log.exists()
    assert not home.queued_requests.exists()


def test_they_start_in_their_order_and_a_large_request_is_not_passed(client, filler):
    waiting = [client.run("true", cpus=cores) for cores in (1, CORES, 1, CORES)]
    release(filler)
    starts = [start_of(run.wait(check=True)) for run in waiting]
    assert starts == sorted(starts)


def test_each_has_the_surroundings_it_was_submitted_from(client, filler, monkeypatch):
    line = "echo $MARK > mark.txt; umask > umask.txt"
    monkeypatch.setenv("MARK", "one")
    first = client.run(line, cpus=CORES)
    monkeypatch.setenv("MARK", "two")
    before = os.umask(0o077)
    try:
        second = client.run(line, cpus=CORES)
    finally:
        os.umask(before)
    release(filler)
    first.wait(check=True)
    assert outputs(first)["mark.txt"] == "one\n"
    second.wait(check=True)
    assert outputs(second) == {"mark.txt": "two\n", "umask.txt": "0077\n"}


def test_one_of_another_conjure_is_carried_by_that(client, filler, monkeypatch):
    other = Program(sys.executable, "another state of the code")
    monkeypatch.setattr(Program, "of_this_process", lambda: other)
    waiting = client.run("echo made > made.txt", cpus=1)
    release(filler)
    waiting.wait(check=True)
    assert outputs(waiting) == {"made.txt": "made\n"}


# ---- ending what waits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("what", "status"), [("stop", "stopped"), ("kill", "killed")])
def test_one_that_waits_ends_at_once_and_lets_others_pass(client, home, filler, what, status):
    half = client.run("true", cpus=CORES)
    behind = client.run("true", memory="1MB", cpus=None)
    assert behind.wait(check=True).status == "complete"
    getattr(half, what)()
    record = half.record
    assert (record.status, record.ending.exit_code, record.outputs) == (status, None, None)
    assert record.total_s >= 0
    assert not (home.queued_requests / f"{half.number}.json").exists()
    assert filler.status == "running"


def test_one_that_is_asked_to_end_through_the_database_alone_ends_for_that_reason(client, home, filler):
    waiting = client.run("true", cpus=CORES)
    with SqliteDatabase.open(home) as store:
        store.request_end(waiting.number, PRUNE)
    wake_scheduler(home)
    assert ended_by_itself(waiting).ending.reason is EndReason.PRUNED


def test_an_interrupt_while_it_waits_cancels_the_run(home, filler):
    terminal = Terminal("run", "--cpus", "1", "true")
    terminal.read_until(f"waiting for 1 core (0 of {CORES} free)")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.close() == 130
    assert "Cancel the run with ^C" in terminal.shown
    assert "Run 2 killed (cancelled while queued)" in terminal.shown
    record = Run(home, 2).record
    assert (record.status, record.ending.reason) == (RunStatus.KILLED, EndReason.KILL_REQUESTED)


# ---- crashes -----------------------------------------------------------------------------------------------


def test_when_the_scheduler_is_killed_the_next_command_starts_another(client, home, filler):
    waiting = [client.run("true", cpus=1) for _ in range(2)]
    kill_scheduler(home)
    assert client.get(waiting[0].number).status is RunStatus.QUEUED  # this is the next command
    assert scheduler(home)
    release(filler)
    assert [ended_by_itself(run).status for run in waiting] == ["complete", "complete"]


def test_when_the_scheduler_is_killed_the_next_supervisor_starts_another(client, home, filler):
    waiting = [client.run("true", cpus=1) for _ in range(2)]
    kill_scheduler(home)
    release(filler)
    assert [ended_by_itself(run).status for run in waiting] == ["complete", "complete"]


def test_schedulers_killed_again_and_again_lose_no_run_and_start_none_twice(client, home, filler):
    waiting = [client.run("echo started", cpus=1) for _ in range(6)]
    kill_scheduler(home)
    release(filler)
    for run in waiting:
        run.wait()  # each look is a command
        process = scheduler_of(home)
        if process is not None:
            with suppress(ProcessLookupError):  # with the last run it ends by itself
                os.kill(process.pid, signal.SIGKILL)
    assert [run.status for run in waiting] == ["complete"] * len(waiting)
    assert [list(run.logs()) for run in waiting] == [["started"]] * len(waiting)


def test_a_supervisor_killed_makes_room_too(client, filler):
    waiting = client.run("true", cpus=1)
    os.kill(filler.record.owner.pid, signal.SIGKILL)
    assert ended_by_itself(waiting).status == "complete"


def test_a_run_whose_request_is_lost_ends_and_says_so(client, home, filler):
    waiting = client.run("true", cpus=1)
    wait_until(lambda: scheduler_of(home), "a scheduler")
    os.kill(scheduler_of(home).pid, signal.SIGSTOP)
    (home.queued_requests / f"{waiting.number}.json").unlink()
    os.kill(scheduler_of(home).pid, signal.SIGKILL)
    waiting.wait()
    assert waiting.status is RunStatus.INTERRUPTED
    assert waiting.record.ending.message == "its variables and settings were lost from memory"


def test_a_scheduler_started_within_a_run_outlives_it(client, home, filler, write):
    write("cast.py", "import conjure\nprint(conjure.Client().run('true', cpus=1).number)\n")
    outer = client.run("python cast.py").wait(check=True)
    inner = Run(home, int(next(outer.logs())))
    assert scheduler_of(home) is not None
    release(filler)
    assert ended_by_itself(inner).status == "complete"


# ---- secrets -----------------------------------------------------------------------------------------------


def test_secrets_of_a_run_that_waits_are_on_no_disk(client, home, filler):
    run = client.run("test ${#API_KEY} = 10", cpus=1, env={"API_KEY": "hunter2xyz"})
    assert files_with(home.root, "hunter2xyz") == []
    request = home.queued_requests / f"{run.number}.json"
    assert request.is_relative_to(Path("/dev/shm"))
    assert (request.stat().st_mode & 0o777, request.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    release(filler)
    run.wait(check=True)
