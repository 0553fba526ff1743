"""SIGKILL at any moment: whatever dies, the next command tells the truth and no process is left."""

import json
import os
import signal
import socket
import subprocess
import threading
from contextlib import contextmanager, suppress

import pytest

from conjure.python_api import Client, Run
from conjure.runs.database.record_files import read_record
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.host.process import descendants, find_process
from conjure.runs.lifecycle import stop_requests as termination
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.lifecycle.recovery import recover
from conjure.runs.lifecycle.submission import rerun
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.status import EndReason, RunStatus
from support.casting import (
    UNTIL_GO,
    is_running,
    nap,
    outputs,
    release,
    supervisor_of,
    wait_for_status,
    wait_until,
)
from support.terminal import CONJURE


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def kill_supervisor(run):
    kill(supervisor_of(run).pid)


def kill_supervisor_and_guard(run):
    supervisor = supervisor_of(run)
    os.kill(supervisor.parent, signal.SIGSTOP)  # so that it can do nothing before it dies itself
    kill(supervisor.pid)
    kill(supervisor.parent)


def kill_everything(run):
    supervisor = supervisor_of(run)
    processes = descendants(supervisor.pid)
    os.kill(supervisor.parent, signal.SIGSTOP)
    kill(supervisor.pid)
    for process in processes:
        kill(process.pid)
    kill(supervisor.parent)


def assert_interrupted(run, where):
    """The run is closed as interrupted, in the database and in its folder, and named so in words."""
    wait_until(lambda: run.status is RunStatus.INTERRUPTED, "the end of the run")
    record = run.record
    assert record.ending.reason is EndReason.SUPERVISOR_DIED
    assert record.ending.message == f"its supervisor died while the run was {where}"
    assert read_record(run.home.run_folder(run.number)) == record


@contextmanager
def silent_server():
    """A server that takes calls and never answers: what is asked of it hangs."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        calls = []
        threading.Thread(target=lambda: _take_calls(server, calls), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", calls
        server.shutdown(socket.SHUT_RDWR)
        for call in calls:
            call.close()


def _take_calls(server, calls):
    while True:
        try:
            calls.append(server.accept()[0])
        except OSError:
            return


COMMAND = (
    f"trap '' TERM; (setsid sleep {nap(88111)} &) ; echo made > made.txt;"
    f" echo ready; sleep {nap(88111)} & wait"
)


@pytest.mark.parametrize("crash", [kill_supervisor, kill_supervisor_and_guard, kill_everything])
def test_while_running(client, home, crash):
    run = client.run(COMMAND)
    wait_until(lambda: list(run.logs()), "the command's start")
    crash(run)
    assert_interrupted(run, "running")
    wait_until(lambda: not is_running(nap(88111)), "the end of its processes")
    assert recover(home, run.number).outputs.files == 1
    assert outputs(run) == {"made.txt": "made\n"}


def test_a_run_whose_command_removed_its_lock_goes_on(client, home):
    run = client.run(f"rm ../lock; echo ready; {UNTIL_GO}; echo made > made.txt")
    wait_until(lambda: list(run.logs()), "the command's start")
    for _ in range(2):  # the first look makes a new lock
        with open_store(home) as store:
            assert store.get(run.number).status is RunStatus.RUNNING
    release(run)
    run.wait(check=True)
    assert outputs(run) == {"made.txt": "made\n"}


@pytest.mark.parametrize("crash", [kill_supervisor_and_guard, kill_everything])
@pytest.mark.parametrize("replace", ["ln -sf nowhere ../lock", "rm ../lock; mkfifo ../lock"])
def test_a_run_whose_command_replaced_its_lock_is_closed_and_recovered(client, home, replace, crash):
    run = client.run(f"{replace}; {COMMAND}")
    wait_until(lambda: list(run.logs()), "the command's start")
    crash(run)
    assert_interrupted(run, "running")
    assert recover(home, run.number).outputs.files == 1


def test_a_run_whose_command_closed_its_folder_is_saved(client, home):
    run = client.run("echo made > made.txt; ln -sf nowhere ../lock; chmod 000 ..").wait(check=True)
    assert outputs(run) == {"made.txt": "made\n"}
    assert home.run_folder(run.number).stat().st_mode & 0o700 == 0o700
    assert RunLock.take_when_free(home.run_folder(run.number)) is not None


def test_the_guard_ends_and_closes_without_any_further_command(client, home):
    run = client.run(COMMAND)
    wait_until(lambda: list(run.logs()), "the command's start")
    kill_supervisor(run)
    # Looking at the file alone: no command of conjure's that could close the run is called.
    wait_until(lambda: read_record(home.run_folder(run.number)).status is RunStatus.INTERRUPTED, "the guard")
    assert not is_running(nap(88111))


def test_a_run_goes_on_when_its_guard_is_killed(client):
    run = client.run(f"echo ready; {UNTIL_GO}; echo done > done.txt")
    wait_until(lambda: list(run.logs()), "the command's start")
    kill(supervisor_of(run).parent)
    release(run)
    assert run.wait(check=True).record.outputs.files == 1


def test_the_command_killed(client):
    run = client.run(f"touch made; echo ready; exec sleep {nap(88222)}")
    wait_until(lambda: list(run.logs()), "the command's start")
    (command,) = descendants(supervisor_of(run).pid)
    kill(command.pid)
    run.wait()
    assert (run.status, run.record.ending.signal, run.record.outputs.files) == ("failed", 9, 1)


@pytest.mark.parametrize("crash", [kill_supervisor, kill_supervisor_and_guard])
def test_while_building(client, home, monkeypatch, crash):
    with silent_server() as (address, calls):
        monkeypatch.setenv("PIP_INDEX_URL", address)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        run = client.run("true", pip=["some-package"])
        supervisor = supervisor_of(run)
        wait_until(lambda: calls, "the builder's call")
        (builder,) = [process for process in descendants(supervisor.pid) if process.name == "uv"]
        crash(run)
        assert_interrupted(run, "building")
        wait_until(lambda: find_process(builder.pid) != builder, "the end of the builder")
        monkeypatch.delenv("PIP_INDEX_URL")
    assert client.run("true").wait().status == "complete"


MANY = 10_000


def many_files(client):
    """A run whose outputs take a while to be mounted, and to be saved."""
    line = f"mkdir d; python3 -c \"for i in range({MANY}): open(f'd/{{i}}', 'w').write(str(i))\""
    run = client.run(line)
    wait_for_status(run, RunStatus.SAVING)
    return run


def test_while_saving_and_while_mounting(client, home):
    run = many_files(client)
    kill_supervisor_and_guard(run)
    if run.wait().status is RunStatus.INTERRUPTED and run.record.outputs is None:  # else it was quicker
        assert_interrupted(run, "saving")
        recover(home, run.number)
    assert run.record.outputs.files == MANY
    assert len(outputs(run)) == MANY
    mounting = client.run("true", mounts={f"runs/{run.number}/d": "d"})
    wait_for_status(mounting, RunStatus.MOUNTING)
    kill_supervisor_and_guard(mounting)
    assert_interrupted(mounting, "mounting")
    assert len(outputs(run)) == MANY


def test_while_being_cast(client, home, folder):
    with silent_server() as (address, _):
        caster = subprocess.Popen(
            [CONJURE, "run", "--git-url", f"{address}/repo.git", "true"], stdout=subprocess.PIPE, text=True
        )
        wait_until(lambda: Client(home.root).runs(), "the number")
        caster.kill()
        caster.communicate()
        assert_interrupted(Run(home, 1), "requested")
    assert client.run("true").wait().number == 2


def test_killed_at_any_moment(client, home):
    """Not a status in particular, but many moments: what is recorded fits what is there."""
    struck = 0
    for step in range(12):
        run = client.run("for i in $(seq 60); do echo $i > o$i; done", labels=["x"])
        wait_until(lambda run=run: run.record.owner.pid != os.getpid(), "a supervisor")
        supervisor = find_process(run.record.owner.pid)  # None where the run was quicker than we
        deadline = threading.Event()
        deadline.wait(0.02 * step)
        if supervisor is not None and find_process(supervisor.pid) == supervisor:
            with suppress(ProcessLookupError):
                kill(supervisor.pid)
                struck += 1
        run.wait()
        record = run.record
        assert record.status in (RunStatus.COMPLETE, RunStatus.INTERRUPTED)
        assert read_record(home.run_folder(run.number)) == record
        if record.status is RunStatus.INTERRUPTED and RunStatus.RUNNING in record.facts.entered:
            kept = {path.name for path in home.run_folder(run.number).rglob("o[0-9]*")}
            if (home.run_folder(run.number) / "work").is_dir() and not record.outputs:
                recover(home, run.number)
            assert {path.name for path in (home.run_folder(run.number) / "outputs").iterdir()} == kept
        if record.status is RunStatus.COMPLETE:
            assert record.outputs.files == 60
    assert struck


def test_a_restarted_machine_and_a_database_from_before_its_end(client, home):
    run = client.run("echo made > made.txt").wait(check=True)
    ended = run.record
    # As after a power cut: the folder has the end, the database has lost it.
    with SqliteDatabase.open(home) as store:
        store._session.connection.execute(
            "UPDATE runs SET end_reason = NULL, saving_at = NULL WHERE number = 1"
        )
        assert store.get(1).status is RunStatus.RUNNING
    wait_until(lambda: run.record == ended, "the end of its supervisor, which has told of the run's end")
    # And a run of another boot, without an end anywhere.
    with SqliteDatabase.open(home) as store:
        other = store.create_run(
            ended.spec,
            Owner(ended.owner.host_id, "another-boot", 1, "1"),
            lambda number: home.run_folder(number).mkdir(),
        )
    record = Run(home, other.number).record
    assert record.ending.reason is EndReason.MACHINE_RESTARTED
    assert record.ending.message == "the machine was restarted while the run was requested"


def test_a_run_of_another_machine_is_never_closed_from_here(client, home):
    with SqliteDatabase.open(home) as store:
        spec = client.run("true").wait().record.spec
        other = store.create_run(
            spec, Owner("elsewhere", "boot", 1, "1"), lambda number: home.run_folder(number).mkdir()
        )
    assert Run(home, other.number).status is RunStatus.REQUESTED


def test_a_lost_database_gives_no_number_twice_and_ends_no_run_that_goes_on(client, home):
    done = client.run("true").wait(check=True)
    going_on = client.run(f"echo ready; {UNTIL_GO}; touch made")
    wait_until(lambda: list(going_on.logs()), "the command's start")
    before = done.record
    with open_store(home) as store:
        store.reindex()
        assert store.get(going_on.number).status is RunStatus.RUNNING
    release(going_on)
    going_on.wait(check=True)
    for path in home.root.glob("conjure.db*"):
        path.unlink()
    assert done.record == before
    assert going_on.record.outputs.files == 1
    assert client.run("true").wait().number == 3


def test_a_supervisor_that_hangs_can_be_killed(client, home, monkeypatch):
    monkeypatch.setattr(termination, "DEAF_AFTER_S", 0.5)
    run = client.run(f"echo ready; sleep {nap(88444)}")
    wait_until(lambda: list(run.logs()), "the command's start")
    os.kill(supervisor_of(run).pid, signal.SIGSTOP)
    run.kill()
    assert run.status in ("killed", "interrupted")
    wait_until(lambda: not is_running(nap(88444)), "the end of its processes")


def test_a_record_that_cannot_be_read_hides_no_other(client, home):
    client.run("true").wait(check=True)
    client.run("true").wait(check=True)
    (home.run_folder(1) / "run.json").write_text("{half")
    for path in home.root.glob("conjure.db*"):
        path.unlink()
    assert [run.number for run in client.runs()] == [2]
    assert client.run("true").wait().number == 3


def test_an_exact_rerun_of_what_was_interrupted(client, home):
    run = client.run(["bash", "-c", f"test -e ../../2 || sleep {nap(88555)}; echo second > out.txt"])
    wait_for_status(run, RunStatus.RUNNING)
    kill_supervisor(run)
    assert_interrupted(run, "running")
    again = Run(home, rerun(home, run.number).record.number).wait(check=True)
    assert json.loads((home.run_folder(again.number) / "run.json").read_text())["rerun_of"] == run.number
