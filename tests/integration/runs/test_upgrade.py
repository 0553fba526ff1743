"""conjure is replaced while supervisors of 0.1.0 go on: they lose nothing, and the new code sees them."""

import os
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest

import conjure
from conjure.python_api import Run
from conjure.runs.database.record_files import read_record
from conjure.runs.host.capacity import Capacity
from conjure.runs.host.process import descendants, find_process
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.run_folder import LOG_FILE
from conjure.runs.schema.status import RunStatus
from conjure.runs.telemetry.logs import LogTail
from support.casting import (
    MADE_AFTER_GO,
    is_running,
    nap,
    outputs,
    release,
    supervisor_of,
    wait_for_status,
    wait_until,
)
from support.old_conjure import as_old_conjure, unpack_code
from support.terminal import conjure as command

NEW_PACKAGE = Path(conjure.__file__).parent


@pytest.fixture
def package(tmp_path):
    """The folder of the installed conjure: 0.1.0 to begin with."""
    return unpack_code(tmp_path / "site")


def run_with_old(client, package, line, **resources):
    """A run that 0.1.0 submitted and supervises."""
    asked = f"conjure.Client().run({line!r}, **{resources}).number"
    file, number = as_old_conjure(package, f"import conjure; print(conjure.__file__, {asked})").split()
    assert Path(file).parent == package
    return Run(client.home, int(number))


def upgrade(package):
    """What an upgrade in place does: no file of the old code is left, and the new lies where it was."""
    shutil.rmtree(package)
    package.symlink_to(NEW_PACKAGE)


def running_with_old(client, package, line, **resources):
    """A run whose command has begun. Nothing of the new code looks at the database before."""
    run = run_with_old(client, package, line, **resources)
    log = LogTail(run.home.run_folder(run.number) / LOG_FILE)
    wait_until(lambda: list(log.read()), "the command's start")
    return run


def has_queued(home, number):
    """Whether 0.1.0 has written that a run is queued; asked without opening the database as conjure does."""
    connection = sqlite3.connect(home.database)
    try:
        rows = connection.execute("SELECT queued_at FROM runs WHERE number = ?", (number,)).fetchall()
    finally:
        connection.close()
    return rows and rows[0][0] is not None


def test_a_run_goes_on_and_is_saved_by_the_supervisor_it_has(client, package):
    run = running_with_old(client, package, MADE_AFTER_GO)
    supervisor = supervisor_of(run)
    upgrade(package)
    for arguments in (["ps"], ["doctor"], ["info", "1"], ["logs", "1"]):
        done = command(*arguments)
        assert done.returncode == 0, done.stderr
    assert "1 active" in command("doctor").stdout
    assert run.status is RunStatus.RUNNING
    assert find_process(supervisor.pid) == supervisor
    release(run)
    assert run.wait(check=True).record.owner.pid == supervisor.pid
    assert outputs(run) == {"made.txt": "made\n"}
    assert command("verify", "1").returncode == 0
    again = client.run("cat made.txt", mounts={"runs/1/made.txt": "made.txt"}).wait(check=True)
    assert list(again.logs()) == ["made"]


@pytest.mark.parametrize(
    ("what", "status", "saved"), [("stop", "stopped", {"early.txt": "early\n"}), ("kill", "killed", {})]
)
def test_it_is_ended_by_a_request_of_the_new_code(client, package, what, status, saved):
    run = running_with_old(client, package, f"echo early > early.txt; echo ready; exec sleep {nap(88661)}")
    upgrade(package)
    done = command(what, "1")
    assert done.returncode == 0, done.stderr
    assert run.status == status
    folder = run.home.run_folder(run.number)
    assert (outputs(run) if (folder / "outputs").is_dir() else {}) == saved
    assert not is_running(nap(88661))
    if what == "kill":
        assert command("recover", "1").returncode == 0
        assert outputs(run) == {"early.txt": "early\n"}


def test_one_that_waits_in_the_queue_is_carried_through_by_the_code_it_has(client, package):
    cpus = Capacity.of_this_machine().cpus
    first = running_with_old(client, package, MADE_AFTER_GO, cpus=cpus)
    waiting = run_with_old(client, package, "echo late > late.txt", cpus=1)
    wait_until(lambda: has_queued(client.home, waiting.number), "that it waits")
    upgrade(package)
    behind = client.run("true", cpus=cpus, params={"note": "of the new code"})  # the old queue reads it too
    wait_for_status(behind, RunStatus.QUEUED)
    release(first)
    assert waiting.wait(check=True).record.ending.exit_code == 0
    assert outputs(waiting) == {"late.txt": "late\n"}
    behind.wait(check=True)


def test_a_command_reports_metrics_to_it_with_the_new_code(client, package):
    report = "from conjure import log_metric; log_metric('late', 7.0, step=3)"
    run = running_with_old(client, package, f'{MADE_AFTER_GO}; python -c "{report}"')
    upgrade(package)
    release(run)
    run.wait(check=True)
    with open_store(run.home) as store:
        assert store.summaries(run.number)["late"].last_value == 7.0


def test_when_it_is_killed_its_guard_leaves_no_process_and_the_run_is_interrupted(client, package):
    run = running_with_old(
        client,
        package,
        f"echo early > early.txt; (setsid sleep {nap(88662)} &) ; echo ready; exec sleep {nap(88662)}",
    )
    supervisor = supervisor_of(run)
    upgrade(package)
    processes = descendants(supervisor.pid)
    os.kill(supervisor.pid, signal.SIGKILL)
    # No command of the new code is called: it is the guard of 0.1.0 that ends them.
    wait_until(lambda: not is_running(nap(88662)), "the end of its processes")
    assert all(find_process(process.pid) != process for process in processes)
    assert run.wait().status is RunStatus.INTERRUPTED
    assert read_record(run.home.run_folder(run.number)).status is RunStatus.INTERRUPTED
    assert command("recover", "1").returncode == 0
    assert outputs(run) == {"early.txt": "early\n"}
