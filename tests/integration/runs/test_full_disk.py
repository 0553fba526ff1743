"""Homes on disks that are full or closed, each a small filesystem of its own."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.errors import StoreError
from conjure.python_api import Client
from conjure.runs.database.sqlite import read_record
from conjure.runs.lifecycle.ownership import open_store
from conjure.runs.lifecycle.recovery import recover
from conjure.runs.schema.status import RunStatus
from support.casting import add_run, ending_runs, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small filesystem")


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A filesystem of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place]).returncode != 0:
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
    reserve = fill(disk)
    with pytest.raises(StoreError) as caught:
        client.run("true")
    assert "full" in str(caught.value) or "No space left" in str(caught.value)
    assert caught.value.fix
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
    assert "No space left" in record.ending.message
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
    assert "CONJURE_HOME" in caught.value.fix
    assert client.run("true").wait().number == 2


def test_a_home_that_cannot_be_made_is_one_sentence():
    with pytest.raises(StoreError, match="conjure's home folder /proc/nowhere cannot be used"):
        open_store(Home(Path("/proc/nowhere")))


def test_the_record_of_an_abandoned_run_waits_for_room(client, disk):
    with open_store(client.home) as store:
        number = add_run(store).number
        store._connection.execute("UPDATE runs SET owner = NULL")
    reserve = fill(disk)
    assert (
        client.get(number).status is RunStatus.REQUESTED
    )  # it is not said to have ended while that cannot last
    with pytest.raises(StoreError):
        client.get(number).wait()
    reserve.unlink()
    assert client.get(number).status is RunStatus.INTERRUPTED


def test_a_client_can_be_given_its_home(disk, folder):
    client = Client(disk / "elsewhere")
    assert client.run("true").wait().number == 1
    assert (disk / "elsewhere" / "runs" / "1" / "run.json").exists()
