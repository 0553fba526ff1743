"""A run whose supervisor another one has replaced, and what is told of one that is out of reach."""

import json
import subprocess

import pytest

from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.host.process import find_process, this_process
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import RunStatus
from support.casting import add_run, advance, is_running, nap, supervisor_of, wait_until
from support.old_conjure import unpack_home
from support.terminal import conjure

ELSEWHERE = Owner("elsewhere", "boot", 2, "2")


@pytest.mark.slow
def test_a_supervisor_that_was_replaced_ends_its_processes_and_writes_nothing_more(client, home):
    run = client.run(f"echo early > early.txt; echo ready; exec sleep {nap(88671)}")
    wait_until(lambda: list(run.logs()), "the command's start")
    supervisor = supervisor_of(run)
    with SqliteDatabase.open(home) as store:
        assert store.begin_attempt(run.number, ELSEWHERE) == 2
        wait_until(lambda: find_process(supervisor.pid) != supervisor, "the end of the supervisor")
        assert not is_running(nap(88671))
        record = store.get(run.number)
        assert (record.status, record.owner, record.usage) == (RunStatus.RUNNING, ELSEWHERE, None)
        assert store.leases()[run.number].attempt == 2
        assert (RunFolder(home.run_folder(run.number)).work / "early.txt").exists()
        assert "was taken over" in RunFolder(home.run_folder(run.number)).supervisor_log.read_text()


def test_a_run_whose_supervisor_is_out_of_reach_is_told_of_as_such(home):
    times = [1_700_000_000.0]
    with SqliteDatabase.open(home, clock=lambda: times[0]) as store:
        for owner in (ELSEWHERE, this_process()):
            number = add_run(store).number
            store.begin_attempt(number, owner)
            advance(store, number, RunStatus.RUNNING)
    with open_store(home) as store:
        assert store.get(1).status is RunStatus.RUNNING
        assert store.get(2).status is RunStatus.INTERRUPTED  # nobody here holds its lock
    shown = conjure("ps").stdout
    assert "unreachable (last heartbeat" in shown
    assert "unreachable (last heartbeat" in conjure("info", "1").stdout
    listed = json.loads(conjure("ps", "--json").stdout)
    assert [run["status"] for run in listed] == ["interrupted", "running"]
    assert listed[1]["heartbeat_age_s"] > 15
    assert listed[0]["heartbeat_age_s"] is None
    with SqliteDatabase.open(home) as store:
        assert store.renew_lease(1, 1)
    assert "unreachable" not in conjure("ps").stdout


def test_a_scheduler_that_is_older_than_the_database_is_ended(conjure_home):
    home = unpack_home(conjure_home)
    with subprocess.Popen(["sleep", nap(88672)]) as scheduler:
        started = find_process(scheduler.pid).started
        home.scheduler_lock.write_text(json.dumps({"pid": scheduler.pid, "started": started}))
        open_store(home).close()  # the first look of the new conjure
        assert scheduler.wait(timeout=100) < 0


def test_a_scheduler_as_old_as_the_database_stays(conjure_home):
    home = unpack_home(conjure_home)
    open_store(home).close()
    with subprocess.Popen(["sleep", nap(88673)]) as scheduler:
        started = find_process(scheduler.pid).started
        home.scheduler_lock.write_text(json.dumps({"pid": scheduler.pid, "started": started}))
        open_store(home).close()
        assert scheduler.poll() is None
        scheduler.kill()
