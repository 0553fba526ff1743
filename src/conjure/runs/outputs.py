"""A run's outputs: the files that are new or changed when its command has ended.

`scan` notes what is there before the command starts; `collect` moves what differs afterwards into the run's
outputs. Moving is a rename, so size costs nothing, and the digests are taken where the files then lie.

Main entries: `scan`, `collect`. Invariant: `collect` may be killed at any moment and called again: a file is
always in the working folder or in the outputs, and the second call finishes what the first began.
"""

import errno
import json
import os
import posixpath
import stat
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from conjure.core.files import write_atomically
from conjure.runs.globs import GlobSet
from conjure.runs.manifest import Manifest, take_manifest
from conjure.runs.trees import clone_file, walk
from conjure.runs.worktree import DEFAULT_EXCLUSIONS

_TICK_LIMIT_S = 0.05  # the coarsest clock a local filesystem keeps its times by


@dataclass(frozen=True, slots=True)
class Before:
    """What lay in a working folder before the command started.

    Attributes:
        files: For each name, what tells whether the file has been written to since.
    """

    files: Mapping[str, tuple[int, ...] | str]

    def save(self, path: Path) -> None:
        """Write it down, so that another process can collect if this one dies.

        Raises:
            OSError: The disk is full or the folder not writable.
        """
        write_atomically(path, json.dumps(self.files))

    @classmethod
    def load(cls, path: Path) -> "Before":
        """What `save` wrote.

        Raises:
            OSError, ValueError: It is not there or damaged.
        """
        stored = json.loads(path.read_bytes())
        return cls({name: mark if isinstance(mark, str) else tuple(mark) for name, mark in stored.items()})


def scan(workdir: Path) -> Before:
    """Note every file below `workdir`.

    Raises:
        OSError: The folder cannot be read.
    """
    files, newest = {}, 0
    for name, entry in walk(workdir):
        if not entry.is_dir(follow_symlinks=False):
            files[name] = _mark(entry)
            newest = max(newest, entry.stat(follow_symlinks=False).st_mtime_ns)
    _await_next_tick(workdir, newest)
    return Before(files)


def _mark(entry: os.DirEntry[str]) -> tuple[int, ...] | str:
    if entry.is_symlink():
        return str(Path(entry.path).readlink())
    facts = entry.stat(follow_symlinks=False)
    return (facts.st_size, facts.st_mtime_ns, facts.st_ino)


def _await_next_tick(folder: Path, newest_ns: int) -> None:
    """Wait until a write gets a later time than any file has, so that no change can hide (milliseconds)."""
    end = time.monotonic() + _TICK_LIMIT_S
    while _filesystem_time_ns(folder) <= newest_ns and time.monotonic() < end:
        time.sleep(0.001)


def _filesystem_time_ns(folder: Path) -> int:
    os.utime(folder)
    return folder.stat().st_mtime_ns


def collect(
    workdir: Path,
    before: Before,
    destination: Path,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Manifest:
    """Move what is new or changed in `workdir` to `destination`, read-only, and list all that is there then.

    Args:
        workdir: Where the command ran.
        before: What `scan` noted.
        destination: The run's outputs, on the same filesystem for speed; made if missing.
        include: Globs of files to keep; none means all but the default exclusions.
        exclude: Globs of files not to keep; they have the last word.

    Raises:
        OSError: The disk is full or a folder not writable; calling again goes on from there.
    """
    destination.mkdir(parents=True, exist_ok=True)
    found = _find_changed(workdir, before, _Choice(GlobSet(include), GlobSet(exclude)))
    # Links first: once the files have moved, where a link leads can no longer be seen.
    for name in found.links:
        _save_link(workdir, destination, name, found)
    for name in found.files:
        try:
            _save_file(workdir / name, destination / name)
        except FileNotFoundError:
            continue  # a process that outlived the command has removed it
        except PermissionError as error:  # it belongs to somebody else, as containers like to have it
            found.skipped.append(f"{name} cannot be saved: {error.strerror}")
    return take_manifest(destination, skipped=found.skipped)


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which names are wanted."""

    include: GlobSet
    exclude: GlobSet
    default: GlobSet = field(default_factory=lambda: GlobSet(DEFAULT_EXCLUSIONS))

    def wants(self, name: str) -> bool:
        if self.exclude.matches(name):
            return False
        return self.include.matches(name) if self.include else not self.default.matches(name)


@dataclass(slots=True)
class _Changed:
    files: dict[str, None] = field(default_factory=dict)  # in order, and quick to look up
    folders: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def _find_changed(workdir: Path, before: Before, choice: _Choice) -> _Changed:
    found = _Changed()

    def enter(name: str, entry: os.DirEntry[str]) -> bool:
        with suppress(PermissionError):
            _open_up(entry)
        return bool(choice.include) or not choice.default.matches(name)

    def pass_over(name: str, error: OSError) -> None:
        found.skipped.append(f"{name[:200]} cannot be read: {error.strerror}")

    for name, entry in walk(workdir, enter=enter, on_error=pass_over):
        if entry.is_dir(follow_symlinks=False) or not choice.wants(name):
            continue
        with suppress(FileNotFoundError):
            if before.files.get(name) == _mark(entry):
                continue
        if entry.is_symlink():
            found.links.append(name)
        elif entry.is_file(follow_symlinks=False):
            found.files[name] = None
            found.folders.update(_parents(name))
        else:
            found.skipped.append(f"{name} is neither file, folder nor link")
    return found


def _open_up(entry: os.DirEntry[str]) -> None:
    """Let us look into and take from a folder that the command closed."""
    mode = entry.stat(follow_symlinks=False).st_mode
    if mode & stat.S_IRWXU != stat.S_IRWXU:
        Path(entry.path).chmod(stat.S_IMODE(mode) | stat.S_IRWXU)


def _parents(name: str) -> list[str]:
    parents = []
    while name := posixpath.dirname(name):
        parents.append(name)
    return parents


def _save_link(workdir: Path, destination: Path, name: str, found: _Changed) -> None:
    saved = destination / name
    if saved.is_symlink() or saved.exists():
        return  # a call that was cut off made it
    try:
        real = (workdir / name).resolve(strict=True)
        target = real.relative_to(workdir.resolve()).as_posix()
    except (OSError, RuntimeError):  # RuntimeError: a loop, before Python 3.13
        found.skipped.append(f"{name} is a link to nothing")
        return
    except ValueError:
        found.skipped.append(f"{name} is a link that leads outside the working folder")
        return
    if target in found.folders or target in found.files:
        saved.parent.mkdir(parents=True, exist_ok=True)
        saved.symlink_to(posixpath.relpath(target, posixpath.dirname(name) or "."))
    elif real.is_file():
        _copy_file(real, saved)
    else:
        found.skipped.append(f"{name} is a link to a folder that holds no outputs")


def _save_file(file: Path, saved: Path) -> None:
    facts = file.lstat()
    saved.parent.mkdir(parents=True, exist_ok=True)
    if facts.st_nlink > 1:  # another name elsewhere would share every later change, and our mode
        _copy_file(file, saved)
        file.unlink()
        return
    try:
        file.chmod(_kept_mode(facts.st_mode))  # before it moves: what is in the outputs is always read-only
        file.rename(saved)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EACCES):
            raise
        _copy_file(file, saved)  # from another filesystem, or somebody else's
        with suppress(PermissionError):
            file.unlink()


def _copy_file(file: Path, saved: Path) -> None:
    partial = saved.with_name(f".{saved.name[:200]}.part")
    partial.unlink(missing_ok=True)
    saved.parent.mkdir(parents=True, exist_ok=True)
    clone_file(file, partial, mode=_kept_mode(file.stat().st_mode))
    partial.rename(saved)


def _kept_mode(mode: int) -> int:
    """Nobody writes to it any more; what could be executed still can."""
    return 0o444 | (stat.S_IMODE(mode) & 0o111)
