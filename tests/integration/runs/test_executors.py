"""Runs whose supervisors an executor starts: the whole of conjure goes by its three answers."""

import os
import subprocess

import pytest

from conjure.errors import ExecutorError
from conjure.python_api import Client
from conjure.runs.database.base import STOP, SupersededError
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.executors.base import SupervisorState
from conjure.runs.executors.local import LocalExecutor
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.lifecycle.abandoned_runs import mark_interrupted
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.lifecycle.stop_requests import end_runs
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.status import EndReason, RunStatus
from support.casting import nap, outputs, wait_for_status
from support.memory_executor import ELSEWHERE, MemoryExecutor, complete, play_supervisor
from support.terminal import conjure


@pytest.fixture
def executor():
    return MemoryExecutor()


@pytest.fixture
def client(home, folder, executor):
    return Client(home.root, executor=executor)


def test_a_run_waits_there_until_its_supervisor_takes_it(home, client, executor):
    run = client.run("echo hello", cpus=10_000)  # more than there is here: that is for the executor to judge
    assert executor.requests[run.number].spec.command == ("echo hello",)
    assert run.record.owner == Owner.of_executor("memory")
    assert "requested" in conjure("ps").stdout  # by a command that does not know the executor
    assert run.status is RunStatus.REQUESTED
    store = play_supervisor(home, executor, run.number, to=RunStatus.SAVING)
    assert run.record.owner == ELSEWHERE
    assert run.status is RunStatus.SAVING
    complete(store, run.number)
    assert run.wait(check=True).status is RunStatus.COMPLETE


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_one_that_is_ended_while_it_waits_is_never_started(client, executor, end):
    run = client.run("true")
    getattr(run, end)()
    assert executor.state(run.number) is SupervisorState.GONE
    assert run.end_reason == f"{end}_requested"


def test_one_whose_supervisor_may_still_come_only_notes_the_wish(home, client, executor, monkeypatch):
    run = client.run("true")
    monkeypatch.setattr(executor, "end", lambda _: None)
    executor.states[run.number] = SupervisorState.UNKNOWN
    end_runs(home, [run.number], STOP, executor=executor)
    assert run.status is RunStatus.REQUESTED
    with play_supervisor(home, executor, run.number, to=RunStatus.QUEUED) as store:
        assert store.end_request(run.number) == "stop"


@pytest.mark.parametrize("state", [SupervisorState.WAITING, SupervisorState.STARTED, SupervisorState.UNKNOWN])
def test_nothing_but_gone_ends_a_run(home, client, executor, state):
    run = client.run("true")
    executor.states[run.number] = state
    with open_store(home) as store:
        mark_interrupted(store, store.supervised(), executor)
        assert store.get(run.number).status is RunStatus.REQUESTED
    executor.states[run.number] = SupervisorState.GONE
    assert run.wait().end_reason is EndReason.SUPERVISOR_DIED
    assert run.record.ending.message == "executor memory lost its supervisor"


def test_a_supervisor_that_lost_its_run_and_wakes_up_writes_nothing(home, client, executor):
    run = client.run("true")
    paused = play_supervisor(home, executor, run.number, to=RunStatus.RUNNING)
    with paused, SqliteDatabase.open(home) as other:
        other.begin_attempt(run.number, Owner("third", "boot", 9, "9"))
        with pytest.raises(SupersededError):
            paused.move(run.number, RunStatus.SAVING)
        other.move(run.number, RunStatus.SAVING)
        complete(other, run.number)
        before = run.record
        with pytest.raises(SupersededError):
            paused.set_facts(run.number, identity="of the paused one")
    assert run.record == before


def test_an_executor_that_fails_ends_the_run_with_its_reason(client, executor, monkeypatch):
    def refuse(number, request):
        raise ExecutorError("the cluster has no such queue")

    monkeypatch.setattr(executor, "start", refuse)
    with pytest.raises(ExecutorError, match="no such queue"):
        client.run("true")
    record = client.get(1).record
    assert (record.status, record.ending.message) == (RunStatus.BUILD_FAILED, "the cluster has no such queue")


# ---- the entry point that executors start, and this machine as one ----------------------------------------


def test_a_supervisor_started_by_its_command_and_request_alone_carries_the_run_out(
    home, client, executor, monkeypatch
):
    monkeypatch.setenv("OF_THE_CALLER", "and as it was called")
    run = client.run("echo $MARK $OF_THE_CALLER > mark.txt", env={"MARK": "from the request"})
    request = executor.requests[run.number]
    own = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}  # the conjure that is tested, and nothing else
    subprocess.run(request.arguments(run.number), input=request.to_json(), text=True, check=True, env=own)
    executor.states[run.number] = SupervisorState.STARTED
    run.wait(check=True)
    assert outputs(run) == {"mark.txt": "from the request and as it was called\n"}
    again = subprocess.run(request.arguments(run.number), input=request.to_json(), text=True, env=own)
    assert again.returncode == 0  # it finds the run ended, and does nothing
    assert run.status is RunStatus.COMPLETE


def test_this_machine_is_an_executor_too(home, folder, client, executor):
    run = client.run(f"exec sleep {nap(88681)}")
    here = LocalExecutor(home)
    assert here.state(run.number) is SupervisorState.GONE
    here.start(run.number, executor.requests[run.number])
    wait_for_status(run, RunStatus.RUNNING)
    assert here.state(run.number) is SupervisorState.STARTED
    with pytest.raises(ExecutorError, match="has a supervisor"):
        here.start(run.number, executor.requests[run.number])
    here.end(run.number)
    RunLock.take_when_free(home.run_folder(run.number), patience_s=60.0).release()
    assert here.state(run.number) is SupervisorState.GONE
    assert Client(home.root).get(run.number).wait().status is RunStatus.INTERRUPTED
