"""Saving outputs, killed at any moment: nothing that a run made is lost, and a second try finishes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conjure.core.dir_fd import Folder
from conjure.runs.artifacts import outputs
from conjure.runs.artifacts.manifest import Manifest
from support.repositories import read_files, write_files

_PROGRAM = Path(__file__).parents[2] / "support" / "collecting.py"
_FILES = 350


def start(root: Path) -> subprocess.Popen[bytes]:
    arguments = [root / "work", root / "before.json", root / "outputs"]
    return subprocess.Popen([sys.executable, _PROGRAM, *arguments])


def saved_so_far(root: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(root / "outputs"))


@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again(tmp_path: Path, seed: int) -> None:
    work = tmp_path / "work"
    write_files(work, {"code.py": "c"})
    with Folder.open(work) as opened:
        outputs.scan(opened).save(tmp_path / "before.json")
    made = {f"d{n % 7}/f{n}": f"{n}" for n in range(_FILES)}
    write_files(work, made)
    for n in range(0, _FILES, 50):  # kept elsewhere too: these are copied
        os.link(work / f"d{n % 7}/f{n}", tmp_path / f"elsewhere{n}")
    (work / "latest").symlink_to("d3")
    chance = random.Random(seed)
    for _ in range(4):
        process, before = start(tmp_path), saved_so_far(tmp_path)
        enough = before + chance.randrange(1, _FILES // 5)
        while process.poll() is None and saved_so_far(tmp_path) < enough:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = read_files(work) | read_files(tmp_path / "outputs")
        assert {name: found.get(name) for name in made} == made
    assert start(tmp_path).wait() == 0
    assert read_files(tmp_path / "outputs") == made | {"latest": "-> d3"}
    assert read_files(work) == {"code.py": "c", "latest": "-> d3"}
    manifest = Manifest.load(tmp_path / "manifest.json")
    assert (len(manifest.entries), manifest.find_faults(tmp_path / "outputs")) == (_FILES + 1, [])


def collect_all(root: Path) -> Manifest:
    """Save everything in the working folder, all of it new."""
    (root / "outputs").mkdir()
    with Folder.open(root / "work") as work, Folder.open(root / "outputs") as kept:
        return outputs.collect(work, outputs.Baseline({}), kept).manifest


@pytest.mark.large
def test_twenty_thousand_files(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    made = {f"work/d{n % 100}/f{n}": "" for n in range(20_000)}
    write_files(tmp_path, made)
    manifest = collect_all(tmp_path)
    assert len(manifest.entries) == 20_000


@pytest.mark.large
def test_two_gigabytes_are_moved_not_copied(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with (tmp_path / "work/model.bin").open("wb") as file:
        for _ in range(2000):
            file.write(os.urandom(1_000_000))
    inode = (tmp_path / "work/model.bin").stat().st_ino
    manifest = collect_all(tmp_path)
    assert (manifest.size_bytes, (tmp_path / "outputs/model.bin").stat().st_ino) == (2_000_000_000, inode)
