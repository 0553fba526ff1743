"""Runs that are started again: what ends an attempt, what the next one has of it, and what is recorded."""

import os
import signal
from contextlib import suppress

import psutil
import pytest

from conjure.runs.database.open_database import open_database
from conjure.runs.database.record_files import read_record
from conjure.runs.host.process import descendants
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.lifecycle.recovery import recover
from conjure.runs.maintenance.pruning import recoverable
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import EndReason, RunStatus
from support.casting import UNTIL_GO, is_running, nap, outputs, release, supervisor_of, wait_until
from support.terminal import conjure

SAY_AND_WAIT = f"echo ready; {UNTIL_GO}; echo made > made.txt"


def wait_for_attempt(run, number):
    """Wait until the command of that attempt has started."""

    def has_started():
        record = run.record
        return record.status is RunStatus.RUNNING and len(record.attempts) == number - 1 and list(run.logs())

    wait_until(has_started, f"attempt {number}")


def kill_supervisor(run):
    os.kill(supervisor_of(run).pid, signal.SIGKILL)


def kill_everything(run):
    supervisor = supervisor_of(run)
    processes = descendants(supervisor.pid)
    os.kill(supervisor.parent, signal.SIGSTOP)
    for pid in (supervisor.pid, *(process.pid for process in processes), supervisor.parent):
        with suppress(ProcessLookupError):  # the kernel ended the command with its supervisor
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("crash", [kill_supervisor, kill_everything])
def test_an_interrupted_run_is_started_again(client, home, crash):
    run = client.run(SAY_AND_WAIT, retry=1)
    wait_for_attempt(run, 1)
    before = run.record
    crash(run)
    wait_for_attempt(run, 2)
    release(run)
    run.wait(check=True)
    assert outputs(run) == {"made.txt": "made\n"}
    (attempt,) = run.record.attempts
    assert (attempt.number, attempt.host) == (1, os.uname().nodename)
    assert attempt.end_reason == EndReason.SUPERVISOR_DIED
    assert attempt.running_at == before.facts.entered[RunStatus.RUNNING]
    assert read_record(home.run_folder(run.number)) == run.record
    wait_until(lambda: not home.queued_request(run.number).exists(), "the removal of the request")


def test_only_so_many_attempts_follow(client, home):
    run = client.run(SAY_AND_WAIT, retry=1)
    for number in (1, 2):
        wait_for_attempt(run, number)
        kill_supervisor(run)
    run.wait()
    assert (run.status, len(run.record.attempts)) == (RunStatus.INTERRUPTED, 1)
    wait_until(lambda: not home.queued_request(run.number).exists(), "the removal of the request")


def test_a_guard_that_comes_late_keeps_no_request_of_a_run_that_was_closed(client, home):
    run = client.run(SAY_AND_WAIT, retry=1)
    wait_for_attempt(run, 1)
    kill_supervisor(run)
    wait_for_attempt(run, 2)
    supervisor = supervisor_of(run)
    guard = psutil.Process(supervisor.parent)
    guard.suspend()
    os.kill(supervisor.pid, signal.SIGKILL)
    run.wait()
    assert run.status is RunStatus.INTERRUPTED
    assert not home.queued_request(run.number).exists()
    guard.resume()
    guard.wait()
    assert not home.queued_request(run.number).exists()


def test_the_metrics_of_an_attempt_that_left_nothing_are_forgotten(client, home):
    point = '{"name": "loss", "step": 0, "value": 1.5, "time": 1}'
    run = client.run(
        f"test -e ../attempts/1 || echo '{point}' >> $CONJURE_METRICS_FILE; exit 3",
        retry=1,
        retry_on="failed",
    )
    run.wait()
    (attempt,) = run.record.attempts
    assert attempt.exit_code == 3
    assert RunFolder.of(home, run.number).attempt(1).metrics.read_text() == f"{point}\n"
    assert run.metrics() == {}


def test_each_attempt_has_its_own_log(client):
    run = client.run("echo in $(ls ../attempts | wc -l); exit 3", retry=2, retry_on="failed")
    run.wait()
    record = run.record
    assert (record.status, record.ending.exit_code) == (RunStatus.FAILED, 3)
    assert [(each.end_reason, each.exit_code) for each in record.attempts] == [("nonzero_exit", 3)] * 2
    assert list(run.logs()) == ["in 2"]
    number = str(run.number)
    assert [conjure("logs", number, "--attempt", str(each)).stdout for each in (1, 2, 3)] == [
        "in 0\n",
        "in 1\n",
        "in 2\n",
    ]
    assert (
        f"run {number} has no attempt 4; it has had 3 attempts"
        in conjure("logs", number, "--attempt", "4").stderr
    )
    shown = conjure("info", number).stdout
    assert "attempt" in shown
    assert shown.count("nonzero_exit (exit status 3)") == 2


def test_a_command_that_fails_is_no_interruption(client):
    run = client.run("exit 3", retry=2).wait()
    assert (run.status, run.record.attempts) == (RunStatus.FAILED, ())


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_what_its_user_ended_is_not_started_again(client, end):
    run = client.run(f"echo ready; sleep {nap(88777)}", retry=5, retry_on="failed")
    wait_for_attempt(run, 1)
    getattr(run, end)()
    assert run.status is {"stop": RunStatus.STOPPED, "kill": RunStatus.KILLED}[end]
    assert run.record.attempts == ()
    assert not is_running(nap(88777))


def test_one_that_waits_for_its_next_attempt_can_be_stopped(client, home):
    run = client.run("echo made > made.txt; exit 1", retry=9, retry_on="failed")
    wait_until(lambda: run.record.attempts, "the end of the first attempt")
    run.stop()
    assert run.status is RunStatus.STOPPED
    assert outputs(run) == {"made.txt": "made\n"}
    with open_database(home) as store:
        assert store.claims() == []


def test_what_an_attempt_made_can_be_recovered_when_no_other_started(client, home):
    run = client.run(SAY_AND_WAIT.replace("echo ready", "echo some > some.txt; echo ready"), retry=9)
    wait_for_attempt(run, 1)
    kill_supervisor(run)
    wait_until(lambda: run.record.attempts, "the end of the first attempt")
    run.kill()
    assert run.status is RunStatus.KILLED
    with open_database(home) as store:
        assert recoverable(home, store) == [run.number]
    assert recover(home, run.number).outputs.files == 1
    assert outputs(run) == {"some.txt": "some\n"}
    with open_database(home) as store:
        assert recoverable(home, store) == []


def test_the_next_attempt_goes_on_from_checkpoints(client, home):
    command = (
        "echo $(($(cat state/step 2> /dev/null || echo 0) + 1)) > step; mkdir -p state; mv step state/;"
        " python3 -c 'import conjure; conjure.log_metric(\"loss\", 1, step=1)'; touch state/step;"
        " python3 -c 'import conjure; conjure.log_metric(\"loss\", 9, step=2)';"
        " echo lost > lost.txt; cat state/step; [ $(cat state/step) = 3 ]"
    )
    run = client.run(command, retry=5, retry_on="failed", checkpoint=["state/"]).wait(check=True)
    assert outputs(run) == {"lost.txt": "lost\n", "state/step": "3\n"}
    # What was reported after the checkpoint was reported again.
    assert [point.step for point in run.metrics("loss")] == [1, 1, 1, 2]
    folder = RunFolder(home.run_folder(run.number))
    assert not folder.attempt(1).work.exists()
    assert not folder.attempt(2).work.exists()


def test_checkpoints_of_a_killed_attempt_are_given_to_the_next(client):
    command = f"cat kept.txt; echo one >> kept.txt; echo two > other.txt; echo ready; {UNTIL_GO}"
    run = client.run(command, retry=1, checkpoint=["kept.txt"])
    wait_until(lambda: "ready" in run.logs(), "the first attempt")
    kill_supervisor(run)
    wait_until(lambda: "one" in run.logs(), "the second attempt")
    release(run)
    run.wait(check=True)
    assert outputs(run) == {"kept.txt": "one\none\n", "other.txt": "two\n"}


def test_without_what_it_was_given_there_is_no_further_attempt(client, home):
    run = client.run(SAY_AND_WAIT, retry=3)
    wait_for_attempt(run, 1)
    supervisor = supervisor_of(run)
    os.kill(supervisor.parent, signal.SIGKILL)
    home.queued_request(run.number).unlink()
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_until(lambda: run.status.is_final, "its end")
    assert run.status is RunStatus.INTERRUPTED


def test_the_transcript_shows_all_attempts(client):
    done = conjure("run", "--retry", "1", "--retry-on", "failed", "ls ../attempts; [ -e ../attempts/1 ]")
    assert done.returncode == 0, done.stderr
    assert "another attempt follows" in done.stdout + done.stderr
    with open_store(client.home) as store:
        assert len(store.get(1).attempts) == 1
