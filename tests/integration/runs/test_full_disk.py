"""Homes on disks that are full or closed, each a small filesystem of its own."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.errors import StoreError
from conjure.python_api import Client
from conjure.runs.database.base import RunFilter
from conjure.runs.database.record_files import read_record
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.lifecycle.recovery import recover
from conjure.runs.maintenance.doctor import examine
from conjure.runs.maintenance.pruning import prune
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from support.casting import (
    add_run,
    ending_runs,
    finish,
    is_running,
    nap,
    supervisor_of,
    wait_for_supervisors,
    wait_until,
)
from support.terminal import conjure

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small filesystem")


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A filesystem of 4 MB and 600 inodes."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=600", "tmpfs", place]).returncode
        != 0
    ):
        pytest.skip("this machine does not let us mount a filesystem")
    monkeypatch.setenv("CONJURE_HOME", str(place / "home"))
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def client(disk, folder):
    with ending_runs(Home(disk / "home")) as client:
        yield client


def fill(disk: Path) -> Path:
    """Leave no byte free; the file that takes them all."""
    reserve = disk / "ballast"
    with reserve.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return reserve


def test_a_run_that_fills_the_disk_is_closed_truthfully(client, disk):
    run = client.run("echo made > made.txt; head -c 20000000 /dev/zero > big").wait()
    record = run.record
    assert (record.status, record.ending.exit_code) == (RunStatus.FAILED, 1)
    assert record.outputs.files == 2
    assert read_record(client.home.run_folder(run.number)) == record
    # And the next run finds the disk as full as it is, or room again.
    (client.home.run_folder(run.number) / "outputs" / "big").unlink()
    assert client.run("true").wait().status == "complete"


def test_nothing_is_cast_on_a_full_disk(client, disk):
    client.run("true").wait(check=True)
    wait_for_supervisors(client.home)
    reserve = fill(disk)
    with pytest.raises(StoreError) as caught:
        client.run("true")
    assert "full" in str(caught.value) or "No space left" in str(caught.value)
    assert caught.value.fix or caught.value.hint
    reserve.unlink()
    later = client.run("true").wait()
    assert later.status == "complete"
    assert later.number >= 2
    assert client.get(1).status == "complete"


def test_what_could_not_be_saved_is_recovered_when_there_is_room(client, disk):
    # Outputs that have another name elsewhere are copied, not moved, so saving them needs room.
    line = "head -c 1500000 /dev/zero > a; ln a b; cat /dev/zero > ../../../filler 2>/dev/null; true"
    run = client.run(line).wait()
    record = run.record
    assert (record.status, record.ending.reason) == (RunStatus.FAILED, "save_failed")
    assert record.ending.message == "No space left on device"  # copying names no file
    (disk / "home" / "filler").unlink()
    assert recover(client.home, run.number).outputs.size_bytes == 3_000_000


def test_looking_is_possible_on_a_full_disk(client, disk):
    run = client.run("echo hello").wait(check=True)
    reserve = fill(disk)
    assert client.get(run.number).status == "complete"
    assert list(run.logs()) == ["hello"]
    reserve.unlink()


def remount(disk: Path, how: str) -> bool:
    return subprocess.run(["mount", "-o", f"remount,{how}", disk], capture_output=True).returncode == 0


def test_a_read_only_home_can_be_looked_at_and_else_is_one_sentence(client, disk):
    run = client.run("echo hello").wait(check=True)
    wait_until(lambda: remount(disk, "ro"), "the end of the supervisor, which keeps files open")
    try:
        with pytest.raises(StoreError) as caught:
            client.run("true")
        seen = client.get(run.number)
        assert (seen.status, list(seen.logs())) == ("complete", ["hello"])
    finally:
        remount(disk, "rw")
    assert "CONJURE_HOME" in caught.value.hint
    assert client.run("true").wait().number == 2


def test_a_home_that_cannot_be_made_is_one_sentence():
    with pytest.raises(StoreError, match="conjure's home folder /proc/nowhere cannot be used"):
        open_store(Home(Path("/proc/nowhere")))


def test_the_record_of_an_abandoned_run_waits_for_room(client, disk):
    with open_store(client.home) as store:
        number = add_run(store).number
        store._session.connection.execute("UPDATE runs SET owner = NULL")
    reserve = fill(disk)
    assert client.get(number).status is RunStatus.INTERRUPTED  # nobody carries it, written or not
    assert client.get(number).wait().status is RunStatus.INTERRUPTED
    assert read_record(client.home.run_folder(number)).status is RunStatus.REQUESTED
    reserve.unlink()
    assert client.get(number).status is RunStatus.INTERRUPTED
    assert read_record(client.home.run_folder(number)).status is RunStatus.INTERRUPTED


def test_a_client_can_be_given_its_home(disk, folder):
    client = Client(disk / "elsewhere")
    assert client.run("true").wait().number == 1
    assert (disk / "elsewhere" / "runs" / "1" / "run.json").exists()


def use_up_inodes(disk: Path) -> Path:
    """Leave room for bytes, and for no further file; the folder with all the files that take it."""
    folder = disk / "small-files"
    folder.mkdir()
    with suppress(OSError):
        for number in range(100_000):
            (folder / str(number)).touch()
    return folder


FULL = {"bytes": fill, "inodes": use_up_inodes}


def waiting_run(client):
    """A run that goes on, and has printed ``ready``."""
    run = client.run(f"echo ready; exec sleep {nap(89111)}")
    wait_until(lambda: list(run.logs()), "the command's start")
    return run


@pytest.mark.parametrize("lacks", FULL)
def test_a_run_is_killed_on_a_full_disk(client, disk, lacks):
    run = waiting_run(client)
    FULL[lacks](disk)
    assert run.kill().status is RunStatus.KILLED
    wait_until(lambda: not is_running(nap(89111)), "the end of the command")
    assert read_record(client.home.run_folder(run.number)).status is RunStatus.KILLED


@pytest.mark.parametrize("lacks", FULL)
def test_a_run_is_stopped_on_a_full_disk(client, disk, lacks):
    run = waiting_run(client)
    FULL[lacks](disk)
    assert run.stop().status is RunStatus.STOPPED
    assert read_record(client.home.run_folder(run.number)).status is RunStatus.STOPPED


@pytest.mark.parametrize("lacks", FULL)
def test_a_run_whose_supervisor_died_on_a_full_disk_is_interrupted(client, disk, lacks):
    run = waiting_run(client)
    supervisor = supervisor_of(run)
    FULL[lacks](disk)
    os.kill(supervisor.parent, signal.SIGKILL)
    os.kill(supervisor.pid, signal.SIGKILL)
    assert run.wait().status is RunStatus.INTERRUPTED
    assert not is_running(nap(89111))
    # What the run had set aside for this is enough to write it down, too.
    assert read_record(client.home.run_folder(run.number)).status is RunStatus.INTERRUPTED


@pytest.mark.parametrize("lacks", FULL)
def test_a_run_that_takes_all_room_itself_does_not_stay_in_saving(client, disk, lacks):
    many = "i=0; while touch ../../../f$i 2>/dev/null; do i=$((i+1)); done"
    large = "cat /dev/zero > ../../../filler 2>/dev/null"
    run = client.run(f"mkdir made; echo x > made/x; {many if lacks == 'inodes' else large}; true").wait()
    assert (run.status, run.record.outputs.files) == (RunStatus.COMPLETE, 1)


def test_what_is_not_written_down_is_told_in_lists_too(client, disk):
    with open_store(client.home) as store:
        number = add_run(store).number
        store._session.connection.execute("UPDATE runs SET owner = NULL")
        finish(store, add_run(store).number, Ending(EndReason.COMPLETED, 0))
    reserve = fill(disk)
    with open_store(client.home) as store:
        interrupted = RunFilter(statuses=(RunStatus.INTERRUPTED,))
        assert [listed.number for listed in store.listing(interrupted)] == [number]
        assert [record.number for record in store.select(interrupted)] == [number]
        assert store.listing(RunFilter(statuses=(RunStatus.REQUESTED,))) == []
        assert (store.active(), store.facts(number).status) == ([], RunStatus.INTERRUPTED)
    reserve.unlink()


@pytest.mark.parametrize("lacks", FULL)
def test_pruning_on_a_full_disk_frees_what_it_can(client, disk, write, lacks):
    write("code.py", "x" * 100_000)
    run = client.run(f"head -c 300000 /dev/zero > made; echo ready; exec sleep {nap(89222)}")
    wait_until(lambda: list(run.logs()), "the command's start")
    run.kill()
    wait_for_supervisors(client.home)
    FULL[lacks](disk)
    with open_store(client.home) as store:
        freed = prune(client.home, store)
    assert freed.working_folders == (run.number,)
    assert freed.size_bytes > 300_000
    # There is a little room again, but still no inode for each file of a further run.
    assert lacks == "inodes" or client.run("true").wait().status == "complete"


@pytest.mark.parametrize(("lacks", "words"), [("bytes", "is full"), ("inodes", "has no inodes left")])
def test_a_full_disk_is_called_so(client, disk, write, lacks, words):
    client.run("true").wait(check=True)
    wait_for_supervisors(client.home)
    write("big", "x" * 5_000_000)
    FULL[lacks](disk)
    with pytest.raises(StoreError, match=words) as caught:
        client.run("true")
    assert "read" not in str(caught.value)
    assert "conjure prune" in caught.value.fix
    findings = {finding.name: finding for finding in examine(client.home)}
    assert (findings["disk"].state, findings["disk"].fix) == ("warning", "conjure prune")


def test_a_mounted_file_that_there_is_no_room_for_is_named(client, disk, write):
    big = write("big", "x" * 5_000_000)
    done = conjure("run", "-m", "./big", "true")
    assert done.returncode == 125
    assert f"{big} (5.0 MB) could not be stored for the run: the disk that contains" in done.stderr
    assert client.runs() == []
