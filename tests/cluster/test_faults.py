"""What goes away, is halted, or happens at once, in two homes that share a database and an object store."""

import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psycopg
import pytest

from conjure.runs.host.process import descendants
from conjure.runs.schema.run_folder import LOG_FILE, MANIFEST
from conjure.runs.schema.status import RunStatus
from support.casting import UNTIL_GO, ending_runs, release, supervisor_of, wait_for_lines, wait_until
from support.repositories import write_files
from support.team_members import COUNTING, assert_agreement, digests, make_team, running_team


@pytest.fixture
def heartbeat_s(extent):
    return extent.heartbeat_s


@pytest.fixture
def team(project, address, store, heartbeat_s):
    with running_team(project.parent, address, store.new_address(), heartbeat_s=heartbeat_s) as members:
        yield members


def counted(text):
    """What `COUNTING` prints, if it is all there: as many numbers as it says."""
    numbers = text.split()
    return numbers == [str(number) for number in range(1, len(numbers) + 1)] and numbers


# ---- away --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["postgres", "s3"])
def test_a_run_goes_on_while_a_server_is_away(team, extent, what, request):
    ada, bob = team
    run = ada.client.run(f"{COUNTING}; echo made > made.txt")
    folder = ada.home.run_folder(run.number)
    assert next(bob.client.runs()[0].logs(follow=True)) == "1"
    server = request.getfixturevalue(what)
    server.stop()
    try:
        if what == "postgres":
            assert "the team's database cannot be reached" in bob.call("ps").stderr
        wait_for_lines(folder / LOG_FILE, extent.outage_s)
        if what == "s3":
            assert run.status is RunStatus.RUNNING
            release(run)
            wait_until(lambda: run.status is RunStatus.SAVING, "the command's end")
    finally:
        server.start()
    release(run)
    run.wait(check=True)
    wait_until(lambda: not ada.processes(), "the supervisor's end")
    assert counted(bob.do("logs", "1"))
    assert bob.do("ls", "runs/1") == "made.txt\n"
    assert ada.internal_errors() == ""
    assert_agreement(bob)


def test_runs_start_while_the_database_is_restarted(team, extent, postgres, rng):
    ada, _ = team
    for _ in range(extent.restarts):
        started = [ada.client.run("echo made > made.txt") for _ in range(rng.randrange(1, 4))]
        postgres.stop()
        postgres.start()
        wait_until(lambda: not ada.active(), "the end of the runs", every_s=0.1)
        assert [run.status for run in started] == [RunStatus.COMPLETE] * len(started)
    wait_until(lambda: not ada.processes(), "the supervisors' end")
    assert_agreement(ada, lambda _: digests({"made.txt": b"made\n"}))
    assert ada.internal_errors() == ""


class TestTakeOver:
    """Times that are short enough to wait for a take-over."""

    @pytest.fixture
    def heartbeat_s(self, extent):
        return extent.short_heartbeat_s

    def test_a_paused_machine_that_wakes_after_a_take_over_writes_nothing(self, team, extent, address, s3):
        ada, bob = team
        saving = ada.client.run(f"echo made > made.txt; head -c 2000000 /dev/urandom > large; {UNTIL_GO}")
        wait_until(lambda: saving.status is RunStatus.RUNNING, "its start")
        s3.pause()
        try:
            release(saving)
            manifest = ada.home.run_folder(saving.number) / MANIFEST
            wait_until(manifest.exists, "the saving")
            paused = pause(saving)
        finally:
            s3.go_on()
        try:
            point = "python -c \"import conjure; conjure.log_metric('loss', 0.5)\""
            running = ada.client.run(f"echo made > made.txt; {point}; {COUNTING}")
            assert next(bob.client.runs()[0].logs(follow=True)) == "1"
            paused += pause(running)
            wait_until(lambda: "unreachable" in bob.do("ps"), "missed heartbeats", every_s=0.2)
            wait_until(lambda: not bob.active(), "the take-over", patience_s=extent.take_over_s, every_s=0.2)
            before = [rows_of(address, number) for number in (1, 2)]
        finally:
            send(paused, signal.SIGCONT)
        wait_until(lambda: not ada.processes(), "the end of what woke")
        assert [rows_of(address, number) for number in (1, 2)] == before
        for number in (1, 2):
            assert json.loads(bob.do("info", str(number), "--json"))["status"] == "interrupted"
            assert "saved no outputs" in bob.call("ls", f"runs/{number}").stderr
        assert counted(bob.do("logs", "2"))
        ada.do("recover", "1")
        ada.do("recover", "2")
        assert bob.do("ls", "runs/1").split() == ["large", "made.txt"]
        assert bob.do("ls", "runs/2") == "made.txt\n"
        assert_agreement(bob)


def pause(run):
    """Halt all that carries out a run, as a machine does that is suspended; the processes."""
    supervisor = supervisor_of(run)
    paused = [supervisor.parent, supervisor.pid]
    send(paused, signal.SIGSTOP)
    for _ in range(2):  # what is just being started is found the next time
        paused += [each.pid for each in descendants(supervisor.pid) if each.pid not in paused]
        send(paused, signal.SIGSTOP)
    return paused


def send(pids, number):
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def rows_of(address, number):
    """All that the database holds of a run."""
    with psycopg.connect(address) as connection:
        return {
            (table, column): connection.execute(
                f"SELECT row_to_json({table}) FROM {table} WHERE {column} = %s", (number,)
            ).fetchall()
            for table, column in (
                *(("runs", "number"), ("leases", "run"), ("run_streams", "run"), ("metrics", "run")),
                *(("run_labels", "run"), ("requests", "run")),
            )
        }


# ---- at once -----------------------------------------------------------------------------------------------


def test_runs_of_two_homes_started_at_once_are_all_carried_out(team, extent):
    def start(index):
        return team[index % 2].call("run", "-b", f"echo {index} > made.txt; echo printed {index}")

    with ThreadPoolExecutor(16) as threads:
        for done in threads.map(start, range(extent.runs_at_once)):
            assert done.returncode == 0, done.stderr
    for member in team:
        wait_until(lambda member=member: not member.active(), "their end", patience_s=600, every_s=0.5)
        wait_until(lambda member=member: not member.processes(), "the supervisors' end")
        assert member.internal_errors() == ""
    records = assert_agreement(
        team[0], lambda record: digests({"made.txt": f"{record.spec.command[0].split()[1]}\n".encode()})
    )
    assert [record.number for record in records] == list(range(1, extent.runs_at_once + 1))
    assert {record.status for record in records} == {RunStatus.COMPLETE}


OPERATIONS = ("run", "run", "run", "mount", "mount", "stop", "kill", "rm", "prune", "link", "verify")


def test_two_machines_change_the_same_runs_at_once(team, extent, address, rng):
    ada, _ = team
    for _ in range(3):
        ada.do("run", command_of("first"))
    with psycopg.connect(address, autocommit=True) as connection:  # so that a prune may remove what they made
        connection.execute("UPDATE objects SET last_used = 0")
    plans = [[plan(rng) for _ in range(extent.operations)] for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(lambda index: carry_out(team[index % 2], plans[index]), range(4)))
    for member in team:
        with ending_runs(member.home):
            pass
        wait_until(lambda member=member: not member.active(), "the end of all runs", every_s=0.1)
        wait_until(lambda member=member: not member.processes(), "the supervisors' end")
        assert member.internal_errors() == ""
    assert [line for lines in told for line in lines if "Traceback" in line or "internal" in line] == []
    records = assert_agreement(team[1], lambda record: made_by(record.spec.command[0].split()[1]))
    assert sum(record.status is RunStatus.COMPLETE for record in records) > 3


def command_of(name):
    """A command whose files `made_by` gives: some that others make too, large ones and small ones."""
    return f"echo {name} > own.txt; seq 3000 > same.txt; head -c 400000 /dev/zero > large"


def made_by(name):
    same = "".join(f"{number}\n" for number in range(1, 3001))
    return digests({"own.txt": f"{name}\n".encode(), "same.txt": same.encode(), "large": bytes(400_000)})


def plan(rng):
    return rng.choice(OPERATIONS), rng.random(), rng.randrange(10**9)


def carry_out(member, operations):
    """Give commands, each for one of the newest runs; what they told."""
    told = []
    for what, where, name in operations:
        last = len(json.loads(member.do("ps", "-a", "--json")))
        number = max(1, last - int(where * 6))
        words = {
            "run": ("run", "-b", f"{command_of(name)}; sleep {where / 2:.2f}"),
            "mount": ("run", "-m", f"runs/{number}/own.txt:given.txt", f"{command_of(name)}; cat given.txt"),
            "rm": ("rm", *(["-f"] if where > 0.5 else []), f"runs/{number}"),
            "prune": ("prune", "-f"),
            "link": ("link", f"to-{name}", f"runs/{number}"),
        }
        done = member.call(*words.get(what, (what, str(number))))
        told.append(f"{what} {number}: {done.returncode}\n{done.stdout}{done.stderr}")
    return told


# ---- half done ---------------------------------------------------------------------------------------------


def test_an_upload_that_is_killed_half_way_is_not_there(team, s3, project, rng):
    ada, bob = team
    data = {f"data/{number}": rng.randbytes(4_000_000) for number in range(12)}
    write_files(project.parent, data | {"data/small.txt": "small"})
    with ada.files() as files:
        started = ada.start("upload", "../data")
        wait_until(lambda: files.index.size()[0], "a first object")
    s3.pause()
    started.send_signal(signal.SIGKILL)
    started.communicate()
    s3.go_on()
    assert started.returncode == -signal.SIGKILL
    for member in team:
        assert "data" not in member.do("ls", "uploads")
    assert "version 1" in ada.call("upload", "../data").stderr
    bob.do("cp", "uploads/data", "out")
    assert {f"data/{path.name}": path.read_bytes() for path in (project / "out").iterdir()} == data | {
        "data/small.txt": b"small"
    }


@pytest.fixture
def disk(tmp_path):
    """A filesystem of 20 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small filesystem")
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", place]).returncode != 0:
        pytest.skip("this machine does not let us mount a filesystem")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_member_whose_disk_is_full_tells_the_truth(disk, project, address, store, extent):
    ada, bob = make_team(
        project.parent, address, store.new_address(), heartbeat_s=extent.heartbeat_s, ada=disk / "ada"
    )
    with ending_runs(ada.home):
        ada.do("run", "echo kept > kept.txt")
        run = ada.client.run("echo made > made.txt; head -c 50000000 /dev/zero > big; exit 3").wait()
        assert (run.status, run.record.ending.exit_code) == (RunStatus.FAILED, 3)
        ada.do("rm", "runs/2")
        going = ada.client.run(f"echo made > made.txt; {UNTIL_GO}")
        wait_until(lambda: going.status is RunStatus.RUNNING, "its start")
        with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        refused = ada.call("run", "true")
        assert refused.returncode != 0
        assert "Traceback" not in refused.stderr
        going.stop()
        assert going.status is RunStatus.STOPPED
        (disk / "filler").unlink()
        wait_until(lambda: not ada.processes(), "the supervisor's end")
        assert ada.client.run("true").wait(check=True).number >= 4
    wait_until(lambda: not ada.processes(), "the supervisor's end")
    kept = digests({"kept.txt": b"kept\n"})
    assert_agreement(bob, lambda record: kept if record.number == 1 else None, missing=1)
    bob.do("run", "head -c 30000000 /dev/zero > large")
    refused = ada.call("cp", "runs/" + str(bob.client.runs()[0].number), "out")
    assert refused.returncode == 1
    assert "cannot be written" in refused.stderr
    assert not (project / "out" / "large").exists()
    assert ada.do("ls", "runs/1") == "kept.txt\n"
