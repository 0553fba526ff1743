"""Copying and removing folder trees."""

import errno
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conjure.core import trees
from conjure.core.dir_fd import Folder, walk
from conjure.core.trees import Copied, clone_file, remove_tree, tree_size_bytes
from support.mounting import run_mounted
from support.repositories import read_files, write_files


def test_walk_gives_folders_before_their_content_and_follows_no_link(tmp_path: Path) -> None:
    write_files(tmp_path, {"b/inner": "", "a": ""})
    (tmp_path / "link").symlink_to("b")
    assert [name for name, _ in walk(tmp_path)] == ["a", "b", "b/inner", "link"]
    assert [name for name, _ in walk(tmp_path, enter=lambda name, _: name != "b")] == ["a", "link"]


def test_walk_passes_over_what_cannot_be_read(tmp_path: Path, monkeypatch) -> None:
    write_files(tmp_path, {"a/inner": "", "b": ""})
    opened, told = os.open, []

    def refused(path: str, flags: int, **folder: int) -> int:
        if path == "a":
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, **folder)

    monkeypatch.setattr(os, "open", refused)
    found = walk(tmp_path, on_error=lambda name, error: told.append((name, error.errno)))
    assert ([name for name, _ in found], told) == (["a", "b"], [("a", 13)])
    with pytest.raises(PermissionError):
        list(walk(tmp_path))


@pytest.fixture
def abyss(tmp_path: Path):
    """Folders nested deeper than a path may be long, and than Python may nest calls."""
    start = os.open(tmp_path, os.O_RDONLY)
    here = start
    for _ in range(300):
        os.mkdir("sixteen-letters-", dir_fd=here)
        below = os.open("sixteen-letters-", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    yield tmp_path / "sixteen-letters-"
    sys.setrecursionlimit(limit)


def test_folders_nested_deeper_than_calls(abyss: Path) -> None:
    assert len(list(walk(abyss))) == 299
    assert tree_size_bytes(abyss) == 0
    remove_tree(abyss)
    assert not abyss.exists()


class TestCloneFile:
    def test_content_time_and_mode(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"x" * 100_000)
        os.utime(tmp_path / "a", ns=(1, 1_234_567_890_123_456_789))
        assert clone_file(tmp_path / "a", tmp_path / "b", mode=0o640) == 100_000
        assert (tmp_path / "b").read_bytes() == b"x" * 100_000
        facts = (tmp_path / "b").stat()
        assert (facts.st_mode & 0o777, facts.st_mtime_ns) == (0o640, 1_234_567_890_123_456_789)

    def test_without_help_of_the_kernel(self, tmp_path: Path, monkeypatch) -> None:
        def refused(*_: object) -> int:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "copy_file_range", refused)
        (tmp_path / "a").write_bytes(b"abc" * 1000)
        clone_file(tmp_path / "a", tmp_path / "b", mode=0o600)
        assert (tmp_path / "b").read_bytes() == b"abc" * 1000

    def test_full_disk_leaves_no_half_file(self, tmp_path: Path, monkeypatch) -> None:
        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "copy_file_range", full)
        (tmp_path / "a").write_bytes(b"abc")
        with pytest.raises(OSError, match="No space left"):
            clone_file(tmp_path / "a", tmp_path / "b", mode=0o600)
        assert not (tmp_path / "b").exists()

    def test_links_and_existing_files_are_refused(self, tmp_path: Path) -> None:
        write_files(tmp_path, {"a": "a", "b": "b"})
        (tmp_path / "link").symlink_to("a")
        with pytest.raises(OSError, match="symbolic links"):
            clone_file(tmp_path / "link", tmp_path / "new", mode=0o600)
        with pytest.raises(FileExistsError):
            clone_file(tmp_path / "a", tmp_path / "b", mode=0o600)
        assert (tmp_path / "b").read_text() == "b"


def copy_entry(source: Path, destination: Path, *, boundary: Path) -> Copied:
    with Folder.open(destination.parent) as into:
        return trees.copy_entry(source, into, destination.name, boundary=boundary)


class TestCopyEntry:
    def test_copy_is_private_and_writable(self, tmp_path: Path) -> None:
        write_files(tmp_path / "kept", {"run.sh": "#!", "deep/data": "d", "deep/empty/.x": ""})
        (tmp_path / "kept/deep/empty/.x").unlink()
        (tmp_path / "kept/run.sh").chmod(0o555)
        (tmp_path / "kept/deep/data").chmod(0o444)
        copied = copy_entry(tmp_path / "kept", tmp_path / "copy", boundary=tmp_path / "kept")
        (tmp_path / "copy/deep/data").write_text("changed")
        assert (tmp_path / "kept/deep/data").read_text() == "d"
        assert (tmp_path / "copy/run.sh").stat().st_mode & 0o777 == 0o755
        assert (tmp_path / "copy/deep/empty").is_dir()
        assert (copied.files, copied.size_bytes, copied.skipped) == (2, 3, [])

    def test_one_file(self, tmp_path: Path) -> None:
        write_files(tmp_path, {"a": "abc"})
        copied = copy_entry(tmp_path / "a", tmp_path / "b", boundary=tmp_path)
        assert ((tmp_path / "b").read_text(), copied.files) == ("abc", 1)

    def test_links(self, tmp_path: Path) -> None:
        write_files(tmp_path, {"outside": "o", "root/near": "n", "root/part/a": "a", "root/part/sub/b": "b"})
        part = tmp_path / "root/part"
        for name, target in {
            "inside": "sub/b",
            "sub/up": "../a",
            "absolute": str(part / "a"),
            "folder": "sub",
            "near": "../near",
            "away": "../../outside",
            "etc": "/etc/passwd",
            "nothing": "gone",
            "loop": "loop",
        }.items():
            (part / name).symlink_to(target)
        os.mkfifo(part / "pipe")
        copied = copy_entry(part, tmp_path / "copy", boundary=tmp_path / "root")
        assert read_files(tmp_path / "copy") == {
            "a": "a",
            "absolute": "-> a",
            "folder": "-> sub",
            "inside": "-> sub/b",
            "near": "n",
            "sub/b": "b",
            "sub/up": "-> ../a",
        }
        assert copied.skipped == [
            "away is a link that points outside",
            "etc is a link that points outside",
            "loop is a broken link",
            "nothing is a broken link",
            "pipe is not a file, folder or link",
        ]


class TestRemoveTree:
    def test_closed_folders_and_links(self, tmp_path: Path) -> None:
        write_files(tmp_path, {"tree/a/b/c": "", "other/kept": "k"})
        (tmp_path / "tree/link").symlink_to(tmp_path / "other")
        for name in ("tree/a/b", "tree/a", "tree"):
            (tmp_path / name).chmod(0o500)
        remove_tree(tmp_path / "tree")
        assert not (tmp_path / "tree").exists()
        assert (tmp_path / "other/kept").read_text() == "k"

    def test_file_link_and_nothing(self, tmp_path: Path) -> None:
        write_files(tmp_path, {"file": "", "other/kept": "k"})
        (tmp_path / "link").symlink_to("other")
        for name in ("file", "link", "nothing"):
            remove_tree(tmp_path / name)
        assert [path.name for path in (tmp_path / "other").iterdir()] == ["kept"]


HOLE = 50_000_000


def sparse(path: Path, stretches: dict[int, bytes], size: int) -> Path:
    with path.open("wb") as file:
        for place, content in stretches.items():
            file.seek(place)
            file.write(content)
        file.truncate(size)
    return path


@pytest.mark.parametrize("quick", [True, False], ids=["copy_file_range", "read and write"])
@pytest.mark.parametrize(
    ("stretches", "size"),
    [
        ({0: b"start", HOLE: b"end"}, HOLE + 3),
        ({HOLE: b"in the middle"}, 2 * HOLE),
        ({0: b"start"}, HOLE),
        ({}, HOLE),
        ({}, 0),
        ({0: b"x" * 3_000_000}, 3_000_000),
    ],
)
def test_holes_stay_holes(
    tmp_path: Path, monkeypatch, stretches: dict[int, bytes], size: int, quick: bool
) -> None:
    source = sparse(tmp_path / "sparse", stretches, size)

    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "another filesystem")

    if not quick:
        monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    assert clone_file(source, tmp_path / "copy", mode=0o600) == size
    assert subprocess.run(["cmp", source, tmp_path / "copy"], check=False).returncode == 0
    blocks = (tmp_path / "copy").stat().st_blocks
    assert blocks <= source.stat().st_blocks + 64


_REMOVE = """
import sys
from pathlib import Path
from conjure.core.trees import remove_tree

remove_tree(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("place", [".", "inner"])
def test_what_another_process_puts_into_a_removed_folder_is_removed(
    tmp_path: Path, monkeypatch, place: str
) -> None:
    folder = tmp_path / "gone"
    write_files(folder, {"inner/file": ""})
    rmdir, busy = os.rmdir, [True, True]

    def rmdir_late(name: str, **of_folder: int) -> None:
        if busy and name == (folder / place).name:
            busy.pop()
            (folder / place / "lock").touch()
        rmdir(name, **of_folder)

    monkeypatch.setattr(os, "rmdir", rmdir_late)
    remove_tree(folder)
    assert (busy, folder.exists()) == ([], False)


def test_a_folder_that_never_gets_empty_is_not_waited_for(tmp_path: Path, monkeypatch) -> None:
    def refuse(name: str, **_of_folder: int) -> None:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), name)

    (tmp_path / "busy").mkdir()
    monkeypatch.setattr(os, "rmdir", refuse)
    with pytest.raises(OSError, match="not empty"):
        remove_tree(tmp_path / "busy")


@pytest.mark.parametrize("point", ["gone", "gone/inner", "gone/deeper/inner"])
def test_what_is_mounted_in_a_removed_folder_stays(tmp_path: Path, point: str) -> None:
    theirs = tmp_path / "theirs"
    write_files(theirs, {"a": "a", "b/c": "c"})
    theirs.chmod(0o500)
    (tmp_path / point).mkdir(parents=True)
    ended = run_mounted([(theirs, tmp_path / point)], sys.executable, "-c", _REMOVE, tmp_path / "gone")
    assert "it is a mount point" in ended.stderr
    assert (read_files(theirs), theirs.stat().st_mode & 0o777) == ({"a": "a", "b/c": "c"}, 0o500)
    remove_tree(tmp_path / "gone")
    assert not (tmp_path / "gone").exists()
