"""Commands that put a link in the place of one of their run's folders: nothing outside is ever touched."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conjure.runs.artifacts.uploads import upload
from conjure.runs.schema.status import EndReason
from support.casting import nap, supervisor_of, wait_until
from support.repositories import read_files, write_files
from support.terminal import conjure

_PRECIOUS = {"thesis.tex": "years of work", "letters/one": "dear", "letters/deep/two": "yours"}
_MODES = {"thesis.tex": 0o640, "letters/one": 0o600, "letters/deep": 0o700}


@pytest.fixture
def precious(tmp_path, monkeypatch):
    """Files of the user's own, which must be as they were when the test is over."""
    folder = tmp_path / "precious"
    write_files(folder, _PRECIOUS)
    for name, mode in _MODES.items():
        (folder / name).chmod(mode)
    monkeypatch.setenv("PRECIOUS", str(folder))
    before = _state(folder)
    yield folder
    assert _state(folder) == before


def _state(folder: Path) -> dict[str, tuple[int, int, int, str]]:
    paths = [folder, *sorted(folder.rglob("*"))]
    facts = {str(path.relative_to(folder)): (path.lstat(), path) for path in paths}
    return {
        name: (found.st_mode, found.st_ino, found.st_mtime_ns, path.read_text() if path.is_file() else "")
        for name, (found, path) in facts.items()
    }


SWAP = 'echo made > made.txt; cd ..; mv work elsewhere; ln -s "$PRECIOUS" work'


def test_the_working_folder(client, precious):
    done = conjure("run", SWAP)
    assert done.returncode == 125
    assert (
        "the run's working folder was replaced by a link, so nothing was saved;"
        " what is there now was not changed" in done.stdout + done.stderr
    )
    folder = client.home.run_folder(1)
    assert (folder / "work").is_symlink()
    assert not (folder / "outputs").exists()
    assert (folder / "elsewhere/made.txt").read_text() == "made\n"
    again = conjure("recover", "1")
    assert again.returncode == 1
    assert "working folder was replaced by a link" in again.stderr
    assert "Traceback" not in again.stderr
    for arguments in (("prune",), ("rm", "runs/1"), ("ls", "runs/1"), ("cp", "runs/1", "out")):
        assert "Traceback" not in conjure(*arguments).stderr
    assert not Path("out/thesis.tex").exists()


def test_the_working_folder_put_back_can_be_recovered(client, precious):
    conjure("run", SWAP)
    folder = client.home.run_folder(1)
    (folder / "work").unlink()
    (folder / "elsewhere").rename(folder / "work")
    assert conjure("recover", "1").returncode == 0
    assert read_files(folder / "outputs") == {"made.txt": "made\n"}
    assert not (folder / "work").exists()


def test_another_folder_in_place_of_the_working_folder(client, precious):
    conjure("run", 'cd ..; mv work elsewhere; cp -a "$PRECIOUS" work')
    folder = client.home.run_folder(1)
    before = _state(folder / "work")
    done = conjure("recover", "1")
    assert "was replaced by another folder" in done.stderr
    conjure("prune")
    assert _state(folder / "work") == before


def test_the_working_folder_removed(client, precious):
    done = conjure("run", "cd ..; rm -r work")
    assert "the run's working folder was moved away or removed" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "what", ['ln -s "$PRECIOUS" ../outputs', "mkdir ../outputs; cp /dev/null ../outputs/x"]
)
def test_the_outputs(client, precious, what):
    done = conjure("run", f"echo made > made.txt; {what}")
    assert "the run's outputs folder was " in done.stdout + done.stderr
    folder = client.home.run_folder(1)
    assert read_files(folder / "work") == {"made.txt": "made\n"}
    assert "outputs folder was " in conjure("recover", "1").stderr
    (folder / "outputs/x").unlink(missing_ok=True)
    (folder / "outputs").unlink() if (folder / "outputs").is_symlink() else (folder / "outputs").rmdir()
    assert conjure("recover", "1").returncode == 0
    assert read_files(folder / "outputs") == {"made.txt": "made\n"}


def test_saved_outputs_replaced_by_a_link_are_not_fine(client, tmp_path):
    conjure("run", "echo made > made.txt")
    outputs = client.home.run_folder(1) / "outputs"
    outputs.rename(tmp_path / "same")
    outputs.symlink_to(tmp_path / "same")
    done = conjure("verify", "1")
    assert done.returncode == 1
    assert "outputs is now a link" in done.stdout + done.stderr
    conjure("rm", "runs/1")
    assert read_files(tmp_path / "same") == {"made.txt": "made\n"}


def test_a_folder_inside(client, precious):
    done = conjure(
        "run", 'mkdir sub; echo made > made.txt; rmdir sub; ln -s "$PRECIOUS" sub; ln -s sub/letters more'
    )
    assert done.returncode == 0
    assert read_files(client.home.run_folder(1) / "outputs") == {"made.txt": "made\n"}


def test_the_whole_run_folder(client, precious):
    done = conjure("run", 'cd ../..; mv 1 moved; ln -s "$PRECIOUS" 1')
    assert "the run's folder was replaced by something else" in done.stdout + done.stderr
    for arguments, undone in ((("recover", "1"), "saved"), (("rm", "-f", "runs/1"), "removed")):
        assert f"was replaced by something else, so nothing was {undone}" in conjure(*arguments).stderr
    for arguments in (("prune",), ("ps",)):
        assert "Traceback" not in conjure(*arguments).stderr


def test_recovery_after_the_supervisor_was_killed(client, precious):
    run = client.run(f"{SWAP}; echo swapped; sleep {nap(88333)}")
    wait_until(lambda: list(run.logs()), "the command's swap")
    os.kill(supervisor_of(run).pid, signal.SIGKILL)
    wait_until(lambda: run.record.status.is_final, "the end of the run")
    done = conjure("recover", "1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "working folder was replaced by a link" in done.stderr


def test_the_outputs_swapped_between_two_attempts_to_save(client, precious):
    run = client.run(f"echo made > made.txt; echo ready; sleep {nap(88444)}")
    wait_until(lambda: list(run.logs()), "the command's start")
    run.kill()
    folder = client.home.run_folder(1)
    program = (
        "import sys; from pathlib import Path; from conjure.runs.artifacts.run_folders import RunFolders;"
        "RunFolders(Path(sys.argv[1])).open_outputs()"
    )
    subprocess.run([sys.executable, "-c", program, folder], check=True)
    (folder / "outputs").rename(folder / "aside")
    (folder / "outputs").symlink_to(precious)
    refused = conjure("recover", "1").stderr
    assert "the run's outputs folder was replaced by a link" in refused
    (folder / "outputs").unlink()
    (folder / "outputs").mkdir()
    assert "was replaced by another folder" in conjure("recover", "1").stderr
    (folder / "outputs").rmdir()
    (folder / "aside").rename(folder / "outputs")
    assert conjure("recover", "1").returncode == 0
    assert read_files(folder / "outputs") == {"made.txt": "made\n"}


@pytest.mark.parametrize(
    ("place", "reason"), [("data", EndReason.CODE_FAILED), ("../data", EndReason.MOUNT_FAILED)]
)
def test_the_working_folder_swapped_while_it_is_filled(client, precious, place, reason):
    write_files(Path(place), {f"{n:04}": "" for n in range(6000)})
    upload(client.home, Path(place))
    run = client.run("true", mounts={} if place == "data" else {"uploads/data": "data"})
    folder = client.home.run_folder(1)
    wait_until((folder / "work/data/0001").exists, "the beginning of the copy")
    (folder / "work").rename(folder / "elsewhere")
    (folder / "work").symlink_to(precious)
    record = run.wait().record
    assert record.ending.reason is reason
    assert "was replaced by a link" in record.ending.message
    assert (folder / "elsewhere/data/5999").exists()
