"""Runs that wait for other runs: they start once those have completed, and end if one of them does not."""

import os
import signal

import pytest

from conjure.errors import NotFoundError, UsageError
from conjure.runs.schema.status import EndReason, RunStatus
from support.casting import UNTIL_GO, outputs, release, wait_for_status, wait_until
from support.terminal import conjure


@pytest.fixture
def first(client):
    """A run that writes a file once it is let go."""
    run = client.run(f"{UNTIL_GO}; echo 7 > number.txt")
    wait_for_status(run, RunStatus.RUNNING)
    return run


def test_a_run_starts_after_another_has_completed(client, first):
    second = client.run("true", after=[first.number])
    assert second.record.waits_in_queue
    release(first)
    assert second.wait(check=True).record.facts.entered[RunStatus.BUILDING] >= first.record.facts.ended_at


def test_what_an_active_run_will_have_made_is_mounted(client, first):
    second = client.run("expr $(cat number.txt) + 1 > next.txt", mounts=["runs/1/number.txt"])
    third = client.run("cat n > last.txt", mounts=["runs/2/next.txt:n"])
    assert (second.record.spec.after, third.record.spec.after) == ((1,), (2,))
    assert third.record.waits_in_queue
    release(first)
    third.wait(check=True)
    assert outputs(third) == {"last.txt": "8\n"}


def test_a_file_that_it_did_not_make_after_all(client, first):
    second = client.run("true", mounts=["runs/1/other.txt"])
    release(first)
    assert second.wait().record.ending.reason is EndReason.MOUNT_FAILED


@pytest.mark.parametrize(
    ("command", "how"), [("exit 3", "failed"), ("kill -9 $$", "failed"), ("sleep 60", "was killed")]
)
def test_a_run_ends_if_the_other_does_not_complete(client, command, how):
    first = client.run(f"{UNTIL_GO}; {command}")
    wait_for_status(first, RunStatus.RUNNING)
    second, third = client.run("true", after=[1]), client.run("true", after=[2])
    if how == "was killed":
        first.kill()
    release(first)
    assert third.wait().record.ending.message == "run 2 was stopped"
    ending = second.record.ending
    assert (ending.reason, ending.message) == (EndReason.DEPENDENCY_FAILED, f"run 1 {how}")
    assert second.record.status is RunStatus.STOPPED
    shown = conjure("ps", "-a").stdout
    assert f"stopped (run 1 {how})" in shown
    assert conjure("wait", "2").returncode == 125


def test_a_supervisor_that_is_killed_leaves_nobody_waiting(client, first):
    second = client.run("true", after=[1])
    os.kill(first.record.owner.pid, signal.SIGKILL)
    ending = second.wait().record.ending
    assert (ending.reason, ending.message) == (EndReason.DEPENDENCY_FAILED, "run 1 was interrupted")


def test_one_that_waits_can_be_stopped(client, first):
    second = client.run("true", after=[1])
    second.stop()
    assert second.record.ending.reason is EndReason.STOP_REQUESTED
    release(first)
    first.wait(check=True)


def test_the_command_says_what_it_waits_for(client, first):
    release(first)
    first.wait(check=True)
    blocker = client.run(UNTIL_GO)
    wait_for_status(blocker, RunStatus.RUNNING)
    assert conjure("run", "-b", "--after", "last", "true").returncode == 0
    assert "after" in conjure("info", "3").stdout
    wait_until(lambda: "queued" in conjure("ps").stdout, "the run in the queue")
    release(blocker)
    assert conjure("wait", "3").returncode == 0


def test_what_cannot_be_waited_for(client):
    client.run("exit 1").wait()
    with pytest.raises(UsageError, match="run 1 failed, so a run after it would never start"):
        client.run("true", after=[1])
    with pytest.raises(NotFoundError):
        client.run("true", after=[8])
    refused = conjure("run", "conjure run --after $CONJURE_RUN true")
    assert "a run started by run 2 cannot wait for it to complete" in refused.stdout + refused.stderr
    assert conjure("ps", "-a", "--json").stdout.count('"number"') == 2


def test_a_rerun_waits_for_nobody(client, first):
    second = client.run("true", after=[1])
    release(first)
    second.wait(check=True)
    assert conjure("rerun", "2").returncode == 0
    assert client.get(3).record.spec.after == ()
