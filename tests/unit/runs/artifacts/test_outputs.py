"""Which files count as a run's outputs, and how they are kept."""

import mmap
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conjure.core.dir_fd import Folder
from conjure.runs.artifacts import outputs
from conjure.runs.artifacts.manifest import Manifest
from conjure.runs.artifacts.outputs import Baseline
from support.mounting import run_mounted
from support.repositories import read_files, write_files

_PROGRAM = Path(__file__).parents[3] / "support" / "collecting.py"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    write_files(folder, {"train.py": "code", "data/in.txt": "in", "pkg/x.py": "x"})
    (folder / "shared").symlink_to("data")
    return folder


def scan(work: Path) -> Baseline:
    """What lies in the working folder."""
    with Folder.open(work) as opened:
        return outputs.scan(opened)


def collect(work: Path, baseline: Baseline, destination: Path, **choice: list[str]) -> Manifest:
    """Collect into the outputs folder, made if missing."""
    return collect_and_tell(work, baseline, destination, **choice).manifest


def collect_and_tell(
    work: Path, baseline: Baseline, destination: Path, **choice: list[str]
) -> outputs.Collected:
    """The same, with what could not be saved."""
    destination.mkdir(exist_ok=True)
    with Folder.open(work) as opened, Folder.open(destination) as kept:
        return outputs.collect(opened, baseline, kept, **choice)


def belong_to_somebody_else(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    """Close files and folders as to an ordinary user; root may open any and change their modes."""
    opened, changed = os.open, os.chmod
    names, theirs = [path.name for path in paths], [path.stat() for path in paths]

    def refused(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path in names and not flags & getattr(os, "O_PATH", 0):
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, mode, dir_fd=dir_fd)

    def not_changed(path: str, mode: int, **folder: object) -> None:
        if not folder and any(os.path.samestat(Path(path).stat(), facts) for facts in theirs):
            raise PermissionError(1, "Operation not permitted")
        changed(path, mode, **folder)

    monkeypatch.setattr(os, "open", refused)
    monkeypatch.setattr(os, "chmod", not_changed)


def save(work: Path, baseline: Baseline, **choice: list[str]) -> tuple[dict[str, str], list[str]]:
    """Files in the outputs, and what was skipped."""
    manifest = collect(work, baseline, work.parent / "outputs", **choice)
    files = read_files(work.parent / "outputs")
    assert [entry.path for entry in manifest.entries] == sorted(files)
    assert manifest.find_faults(work.parent / "outputs") == []
    return files, list(manifest.skipped)


class TestWhatCounts:
    def test_nothing_new(self, work: Path) -> None:
        assert save(work, scan(work)) == ({}, [])

    def test_new_and_changed_files_only(self, work: Path) -> None:
        baseline = scan(work)
        write_files(work, {"out/model.bin": "m", "train.py": "changed", "data/new.txt": "n"})
        (work / "pkg/x.py").unlink()
        assert save(work, baseline)[0] == {"out/model.bin": "m", "train.py": "changed", "data/new.txt": "n"}
        assert (work / "data/in.txt").exists()

    def test_overwritten_in_place_at_once_with_the_same_size(self, work: Path) -> None:
        write_files(work, {"fresh": "aaa"})
        baseline = scan(work)
        with (work / "fresh").open("r+") as file:
            file.write("bbb")
        assert save(work, baseline)[0] == {"fresh": "bbb"}

    def test_replaced_by_a_file_of_the_same_size_and_time(self, work: Path) -> None:
        baseline = scan(work)
        times = (work / "train.py").stat()
        (work / "new").write_text("edoc")
        os.utime(work / "new", ns=(times.st_atime_ns, times.st_mtime_ns))
        (work / "new").rename(work / "train.py")
        assert save(work, baseline)[0] == {"train.py": "edoc"}

    @pytest.mark.parametrize("how", ["in place", "through memory", "by cp -p"])
    def test_a_change_whose_time_was_put_back(self, work: Path, how: str) -> None:
        baseline = scan(work)
        file, times = work / "train.py", (work / "train.py").stat()
        if how == "by cp -p":
            other = work.parent / "other"
            other.write_text("edoc")
            os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
            other.chmod(times.st_mode & 0o777)
            subprocess.run(["cp", "-p", other, file], check=True)
        elif how == "in place":
            file.write_text("edoc")
        else:
            with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 4) as content:
                content[:] = b"edoc"
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert (file.stat().st_size, file.stat().st_ino) == (times.st_size, times.st_ino)
        assert save(work, baseline)[0] == {"train.py": "edoc"}

    def test_another_name_elsewhere_is_no_output(self, work: Path) -> None:
        baseline = scan(work)
        os.link(work / "train.py", work.parent / "elsewhere")
        assert save(work, baseline)[0] == {}

    def test_a_change_of_mode_alone_is_no_output(self, work: Path) -> None:
        baseline = scan(work)
        (work / "train.py").chmod(0o755)
        assert save(work, baseline)[0] == {}

    def test_default_exclusions_unless_asked_for(self, work: Path) -> None:
        made = {
            "__pycache__/a.pyc": "",
            "venv/x": "",
            "node_modules/y/z": "",
            ".git/HEAD": "",
            "b.pyc": "b",
            "c": "c",
        }
        baseline = scan(work)
        write_files(work, made)
        assert set(save(work, baseline)[0]) == {"c"}
        assert set(save(work, baseline, include=["*.pyc"])[0]) == {"c", "b.pyc", "__pycache__/a.pyc"}

    def test_globs(self, work: Path) -> None:
        baseline = scan(work)
        write_files(work, {"a.csv": "", "deep/b.csv": "", "deep/c.txt": "", "logs/d.csv": ""})
        assert set(save(work, baseline, include=["*.csv"], exclude=["logs/"])[0]) == {"a.csv", "deep/b.csv"}


class TestHowTheyAreKept:
    def test_read_only_and_executable_bits(self, work: Path) -> None:
        baseline = scan(work)
        write_files(work, {"plain": "", "tool": "", "closed": "c"})
        (work / "plain").chmod(0o666)
        (work / "tool").chmod(0o700)
        (work / "closed").chmod(0)
        save(work, baseline)
        modes = {
            name: (work.parent / "outputs" / name).stat().st_mode & 0o7777
            for name in ("plain", "tool", "closed")
        }
        assert modes == {"plain": 0o444, "tool": 0o544, "closed": 0o444}

    def test_moved_not_copied(self, work: Path) -> None:
        baseline = scan(work)
        write_files(work, {"model": "m"})
        inode = (work / "model").stat().st_ino
        save(work, baseline)
        assert (work.parent / "outputs/model").stat().st_ino == inode
        assert not (work / "model").exists()

    def test_hard_links_are_cut(self, work: Path, tmp_path: Path) -> None:
        write_files(tmp_path, {"cache/package.py": "p"})
        baseline = scan(work)
        os.link(tmp_path / "cache/package.py", work / "package.py")
        write_files(work, {"one": "1"})
        os.link(work / "one", work / "two")
        files, _ = save(work, baseline)
        assert files == {"package.py": "p", "one": "1", "two": "1"}
        assert all((work.parent / "outputs" / name).stat().st_nlink == 1 for name in files)
        assert (tmp_path / "cache/package.py").stat().st_mode & 0o777 == 0o644

    def test_another_filesystem(self, work: Path, monkeypatch) -> None:
        baseline = scan(work)
        write_files(work, {"out/model": "m"})
        rename = os.rename

        def across(source: str, target: str, **folders: int) -> None:
            if source == target:
                raise OSError(18, "Invalid cross-device link")
            rename(source, target, **folders)

        monkeypatch.setattr(os, "rename", across)
        assert save(work, baseline)[0] == {"out/model": "m"}
        assert not (work / "out/model").exists()

    def test_files_of_somebody_else(self, work: Path, monkeypatch) -> None:
        baseline = scan(work)
        write_files(work, {"theirs": "t", "mine": "m"})
        chmod, theirs = os.chmod, (work / "theirs").stat()

        def refused(path: str, mode: int) -> None:
            if os.path.samestat(Path(path).stat(), theirs):
                raise PermissionError(1, "Operation not permitted")
            chmod(path, mode)

        monkeypatch.setattr(os, "chmod", refused)
        assert save(work, baseline) == ({"theirs": "t", "mine": "m"}, [])

    def test_files_of_somebody_else_that_we_may_not_read(self, work: Path, monkeypatch) -> None:
        baseline = scan(work)
        write_files(work, {"theirs": "t", "mine": "m"})
        saved = outputs._save_file

        def refused(move: object, name: str) -> None:
            if name == "theirs":
                raise PermissionError(13, "Permission denied")
            saved(move, name)

        monkeypatch.setattr(outputs, "_save_file", refused)
        assert save(work, baseline) == ({"mine": "m"}, ["theirs cannot be saved: Permission denied"])

    def test_what_cannot_be_read_is_told_from_what_is_no_output(self, work: Path, monkeypatch) -> None:
        write_files(work, {"data/base": "b"})
        baseline = scan(work)
        write_files(work, {"theirs": "t", "mine": "m", "closed/x": "x", "cache/closed/x": "x"})
        (work / "link").symlink_to("data/base")
        os.mkfifo(work / "pipe")
        belong_to_somebody_else(monkeypatch, work / "theirs", work / "closed", work / "data/base")
        collected = collect_and_tell(work, baseline, work.parent / "outputs", exclude=["cache/"])
        assert collected.unsaved == (
            "closed cannot be read: Permission denied",
            "link is a link to a file that cannot be saved: Permission denied",
            "theirs cannot be saved: Permission denied",
        )
        assert collected.manifest.skipped == ("pipe is not a file, folder or link", *collected.unsaved)
        monkeypatch.undo()
        collected = collect_and_tell(work, baseline, work.parent / "outputs", exclude=["cache/"])
        assert collected.unsaved == ()
        expected = {"theirs": "t", "mine": "m", "closed/x": "x", "link": "b"}
        assert read_files(work.parent / "outputs") == expected

    def test_names_that_are_not_utf8(self, work: Path) -> None:
        baseline = scan(work)
        odd = os.fsdecode(b"caf\xe9\n\xff")
        write_files(work, {odd: "o"})
        manifest = collect(work, baseline, work.parent / "outputs")
        assert [entry.path for entry in manifest.entries] == [odd]

    def test_closed_folders_are_opened(self, work: Path) -> None:
        baseline = scan(work)
        write_files(work, {"closed/inner/a": "a"})
        (work / "closed/inner").chmod(0)
        (work / "closed").chmod(0)
        assert save(work, baseline)[0] == {"closed/inner/a": "a"}


class TestLinks:
    def test_kept_when_they_lead_to_outputs(self, work: Path) -> None:
        baseline = scan(work)
        write_files(work, {"steps/1/w": "1", "steps/2/w": "2"})
        (work / "latest").symlink_to("steps/2")
        (work / "best").symlink_to(work / "steps/1/w")
        (work / "steps/chain").symlink_to("../latest")
        files, skipped = save(work, baseline)
        assert files["latest"] == "-> steps/2"
        assert files["best"] == "-> steps/1/w"
        assert files["steps/chain"] == "-> 2"
        assert skipped == []

    def test_content_is_kept_when_they_lead_to_a_file_that_is_no_output(self, work: Path) -> None:
        baseline = scan(work)
        (work / "used.txt").symlink_to("data/in.txt")
        assert save(work, baseline)[0] == {"used.txt": "in"}

    def test_left_out_when_they_lead_elsewhere(self, work: Path) -> None:
        baseline = scan(work)
        (work / "secret").symlink_to("/etc/passwd")
        (work / "up").symlink_to("..")
        (work / "gone").symlink_to("nowhere")
        (work / "loop").symlink_to("loop")
        (work / "code").symlink_to("pkg")
        os.mkfifo(work / "pipe")
        assert save(work, baseline) == (
            {},
            [
                "pipe is not a file, folder or link",
                "code is a link to a folder without outputs",
                "gone is a broken link",
                "loop is a broken link",
                "secret is a link that points outside the working folder",
                "up is a link that points outside the working folder",
            ],
        )

    def test_link_that_was_there_before(self, work: Path) -> None:
        baseline = scan(work)
        assert "shared" not in save(work, baseline)[0]
        (work / "shared").unlink()
        (work / "shared").symlink_to("pkg")
        assert save(work, baseline)[1] == ["shared is a link to a folder without outputs"]


class TestCutOff:
    @pytest.mark.parametrize("moves", range(6))
    def test_second_call_finishes_what_the_first_began(self, work: Path, monkeypatch, moves: int) -> None:
        baseline = scan(work)
        write_files(work, {f"out/{n}": str(n) for n in range(4)})
        os.link(work / "out/0", work / "out/linked")
        (work / "latest").symlink_to("out/3")
        saved, left = outputs._save_file, [moves]

        class Killed(BaseException):
            pass

        def save_some(move: object, name: str) -> None:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            saved(move, name)

        monkeypatch.setattr(outputs, "_save_file", save_some)
        if moves < 5:
            with pytest.raises(Killed):
                collect(work, baseline, work.parent / "outputs")
        monkeypatch.setattr(outputs, "_save_file", saved)
        files, skipped = save(work, baseline)
        assert files == {"out/linked": "0", "latest": "-> out/3"} | {f"out/{n}": str(n) for n in range(4)}
        assert skipped == []

    def test_what_was_there_before_survives_in_a_file(self, work: Path, tmp_path: Path) -> None:
        write_files(work, {os.fsdecode(b"caf\xe9"): ""})
        baseline = scan(work)
        baseline.save(tmp_path / "before.json")
        assert Baseline.load(tmp_path / "before.json") == baseline
        write_files(work, {"new": "n"})
        assert save(work, Baseline.load(tmp_path / "before.json"))[0] == {"new": "n"}


def test_removed_while_saving(work: Path, monkeypatch) -> None:
    baseline = scan(work)
    write_files(work, {"a": "a", "b/c": "c"})
    saved = outputs._save_file

    def save_and_remove(move: object, name: str) -> None:
        shutil.rmtree(work / "b", ignore_errors=True)
        saved(move, name)

    monkeypatch.setattr(outputs, "_save_file", save_and_remove)
    assert save(work, baseline)[0] == {"a": "a"}


class TestMountPoints:
    def test_what_is_mounted_stays_as_it_is(self, work: Path, tmp_path: Path) -> None:
        theirs = tmp_path / "theirs"
        write_files(theirs, {"big/a.bin": "a", "b.bin": "b", "one.txt": "1"})
        theirs.chmod(0o500)
        (work / "mounted").mkdir()
        write_files(work, {"one.txt": ""})
        facts = tree_facts(theirs)
        scan(work).save(tmp_path / "before.json")
        write_files(work, {"made.txt": "m", "later/x": "x"})
        (work / "link").symlink_to("mounted/b.bin")
        arguments = [work, tmp_path / "before.json", tmp_path / "outputs"]
        mounts = [(theirs, work / "mounted"), (theirs / "one.txt", work / "one.txt")]
        ended = run_mounted(mounts, sys.executable, _PROGRAM, *arguments)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert read_files(tmp_path / "outputs") == {"made.txt": "m", "later/x": "x"}
        assert sorted(Manifest.load(tmp_path / "manifest.json").skipped) == [
            "link is a link that points outside the working folder",
            "mounted is a mount point",
            "one.txt is a mount point",
        ]
        assert tree_facts(theirs) == facts

    def test_mounted_in_the_place_of_the_outputs(self, work: Path, tmp_path: Path) -> None:
        write_files(tmp_path / "theirs", {"a": "a"})
        facts = tree_facts(tmp_path / "theirs")
        scan(work).save(tmp_path / "before.json")
        write_files(work, {"out/a": "new"})
        (tmp_path / "outputs/out").mkdir(parents=True)
        arguments = [work, tmp_path / "before.json", tmp_path / "outputs"]
        mounts = [(tmp_path / "theirs", tmp_path / "outputs/out")]
        ended = run_mounted(mounts, sys.executable, _PROGRAM, *arguments)
        assert "the output folder of out/a was replaced by a link, a file or a mount" in ended.stderr
        assert (tree_facts(tmp_path / "theirs"), read_files(work)["out/a"]) == (facts, "new")


def tree_facts(folder: Path) -> dict[str, tuple[int, ...]]:
    """What tells whether anything in a folder was written to, moved or given another mode."""
    facts = {str(path): path.lstat() for path in (folder, *folder.rglob("*"))}
    return {
        path: (each.st_mode, each.st_ino, each.st_mtime_ns, each.st_ctime_ns) for path, each in facts.items()
    }
