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
from typing import NamedTuple

from conjure.core.dir_fd import (
    Entry,
    Folder,
    FolderCursor,
    change_open_mode,
    give_owner_access,
    mount_id,
    open_file,
    open_name,
    walk,
)
from conjure.core.files import parse_json, write_atomically
from conjure.core.globs import DEFAULT_EXCLUSIONS, GlobSet
from conjure.core.text import error_text
from conjure.core.trees import clone_open_file, partial_name
from conjure.errors import ConflictError
from conjure.runs.artifacts.manifest import Manifest, take_manifest

_PATH_BYTES = 4095  # the longest path that the system takes
_TICK_LIMIT_S = 0.05  # the coarsest clock a local filesystem keeps its times by


@dataclass(frozen=True, slots=True)
class Baseline:
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
    def load(cls, path: Path) -> "Baseline":
        """What `save` wrote.

        Raises:
            OSError, ValueError: It is not there or damaged.
        """
        stored = parse_json(path.read_bytes())
        return cls({name: mark if isinstance(mark, str) else tuple(mark) for name, mark in stored.items()})


def scan(workdir: Folder) -> Baseline:
    """Note every file below `workdir`.

    Raises:
        OSError: The folder cannot be read.
    """
    files, newest = {}, 0
    for name, entry in walk(workdir):
        if not entry.is_folder:
            files[name] = _mark(entry)
            newest = max(newest, entry.stat().st_mtime_ns, entry.stat().st_ctime_ns)
    _await_next_tick(workdir, newest)
    return Baseline(files)


def _mark(entry: Entry) -> tuple[int, ...] | str:
    if entry.is_link:
        return entry.target()
    facts = entry.stat()
    own = (facts.st_mode, facts.st_nlink, facts.st_uid, facts.st_gid)
    return (facts.st_size, facts.st_mtime_ns, facts.st_ino, facts.st_ctime_ns, *own)


def _is_written_to(baseline: tuple[int, ...] | str | None, now: tuple[int, ...] | str) -> bool:
    """Whether a file may have been written to since its mark was taken.

    A program may put size and time of modification back (`cp -p`, rsync); the time of change it cannot. That
    changes with the mode, the owner and the number of names, too, and where one of these did, it is why.
    """
    if baseline is None or isinstance(baseline, str) or isinstance(now, str) or baseline[:3] != now[:3]:
        return baseline != now
    return baseline[3:4] != now[3:4] and baseline[4:] == now[4:]


def _await_next_tick(folder: Folder, newest_ns: int) -> None:
    """Wait until a write gets a later time than any file has, so that no change can hide (milliseconds)."""
    end = time.monotonic() + _TICK_LIMIT_S
    while _filesystem_time_ns(folder) <= newest_ns and time.monotonic() < end:
        time.sleep(0.001)


def _filesystem_time_ns(folder: Folder) -> int:
    os.utime(folder.descriptor)
    return os.fstat(folder.descriptor).st_mtime_ns


class Collected(NamedTuple):
    """What `collect` did.

    Attributes:
        manifest: All that is in the outputs.
        unsaved: What should be there and is still in the working folder, and why; part of what was skipped.
    """

    manifest: Manifest
    unsaved: tuple[str, ...]


def collect(
    workdir: Folder,
    baseline: Baseline,
    destination: Folder,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Collected:
    """Move what is new or changed in `workdir` to `destination`, read-only, and list all that is there then.

    Args:
        workdir: Where the command ran.
        baseline: What `scan` noted.
        destination: The run's outputs, on the same filesystem for speed.
        include: Globs of files to keep; none means all but the default exclusions.
        exclude: Globs of files not to keep; they have the last word.

    Raises:
        OSError: The disk is full or a folder not writable; calling again goes on from there.
        ConflictError: A folder in `destination` has been replaced.
    """
    workdir.give_owner_access()
    found = _find_changed(workdir, baseline, _Choice(GlobSet(include), GlobSet(exclude)), destination)
    with (
        FolderCursor(workdir, one_mount=True) as source,
        FolderCursor(destination, one_mount=True) as target,
    ):
        move = _Move(source, target)
        # Links first: once the files have moved, where a link leads can no longer be seen.
        for name in found.links:
            _save_link(move, workdir.path, name, found)
        for name in found.files:
            try:
                _save_file(move, name)
            except FileNotFoundError:
                continue  # a process that outlived the command has removed it
            except PermissionError as error:  # it belongs to somebody else, as containers like to have it
                found.unsaved.append(f"{name} cannot be saved: {error_text(error)}")
            except _ReplacedError:
                found.unsaved.append(f"{name} was replaced while being saved")
            except _MountedError:
                found.skipped.append(f"{name} is a mount point")
    manifest = take_manifest(destination, skipped=[*found.skipped, *found.unsaved])
    return Collected(manifest, tuple(found.unsaved))


class _ReplacedError(Exception):
    """A name stands for something else than it did a moment ago."""


class _MountedError(Exception):
    """What a name stands for lies outside the working folder, and was only mounted there."""


@dataclass(frozen=True, slots=True)
class _Move:
    """Two ways down, from which files are taken and to which they go."""

    source: FolderCursor
    target: FolderCursor

    def from_folder(self, name: str) -> int:
        """The descriptor of the folder that `name` is in.

        Raises:
            _ReplacedError: A part of the path has become a link or a file.
            _MountedError: A part of the path is a mount point.
        """
        try:
            return self.source.go_to(_parent(name))
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ESTALE):
                raise _ReplacedError from error
            if error.errno == errno.EXDEV:
                raise _MountedError from error
            raise

    def to_folder(self, name: str) -> int:
        """The descriptor of the folder that `name` is to be in, which is made if missing.

        Raises:
            ConflictError: A part of the path has become a link, a file or a mount point.
        """
        try:
            return self.target.go_to(_parent(name), make=True)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
                raise ConflictError(
                    f"the output folder of {name} was replaced by a link, a file or a mount;"
                    " nothing was written there"
                ) from error
            raise


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

    def may_want_below(self, folder: str) -> bool:
        """Whether a file in a folder may be wanted; a pattern that ends with a slash means what is in it."""
        if self.exclude.matches(f"{folder}/"):
            return False
        return bool(self.include) or not self.default.matches(folder)


@dataclass(slots=True)
class _Changed:
    files: dict[str, None] = field(default_factory=dict)  # in order, and quick to look up
    folders: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # no outputs by their kind
    unsaved: list[str] = field(default_factory=list)  # outputs all the same


def _find_changed(workdir: Folder, baseline: Baseline, choice: _Choice, destination: Folder) -> _Changed:
    found = _Changed()
    longest = _PATH_BYTES - len(os.fsencode(destination.path)) - 1

    def enter(name: str, entry: Entry) -> bool:
        with suppress(OSError):  # what cannot be read is told when it is tried
            give_owner_access(entry.folder, entry.name)
        return choice.may_want_below(name)

    def pass_over(name: str, error: OSError) -> None:
        if error.errno == errno.EXDEV:
            found.skipped.append(f"{name[:200]} is a mount point")
        else:
            found.unsaved.append(f"{name[:200]} cannot be read: {error_text(error)}")

    for name, entry in walk(workdir, enter=enter, on_error=pass_over, one_mount=True):
        if entry.is_folder or not choice.wants(name):
            continue
        with suppress(FileNotFoundError):
            if not _is_written_to(baseline.files.get(name), _mark(entry)):
                continue
        if len(os.fsencode(name)) > longest:
            found.unsaved.append(f"{name[:200]}… has a path that is too long")
        elif entry.is_link:
            found.links.append(name)
        elif entry.is_file:
            found.files[name] = None
            found.folders.update(_parents(name))
        else:
            found.skipped.append(f"{name} is not a file, folder or link")
    return found


def _parents(name: str) -> list[str]:
    parents = []
    while name := posixpath.dirname(name):
        parents.append(name)
    return parents


def _parent(name: str) -> list[str]:
    """The parts of the path of the folder it is in."""
    return name.split("/")[:-1]


def _save_link(move: _Move, workdir: Path, name: str, found: _Changed) -> None:
    if _is_saved(move, name):
        return  # a call that was cut off made it
    try:
        real = (workdir / name).resolve(strict=True)
        target = real.relative_to(workdir.resolve()).as_posix()
    except (OSError, RuntimeError):  # RuntimeError: a loop, before Python 3.13
        found.skipped.append(f"{name} is a broken link")
        return
    except ValueError:
        found.skipped.append(f"{name} is a link that points outside the working folder")
        return
    if target in found.folders or target in found.files:
        leads_to = posixpath.relpath(target, posixpath.dirname(name) or ".")
        os.symlink(leads_to, posixpath.basename(name), dir_fd=move.to_folder(name))
    elif real.is_file():
        _save_target(move, target, name, found)
    else:
        found.skipped.append(f"{name} is a link to a folder without outputs")


def _is_saved(move: _Move, name: str) -> bool:
    try:
        os.stat(posixpath.basename(name), dir_fd=move.target.go_to(_parent(name)), follow_symlinks=False)
    except OSError:
        return False
    return True


def _save_target(move: _Move, target: str, name: str, found: _Changed) -> None:
    """Save the content of the file a link leads to, which was found by its path, from the folder we hold."""
    try:
        _copy_file(move.from_folder(target), posixpath.basename(target), move.to_folder(name), name)
    except PermissionError as error:
        found.unsaved.append(f"{name} is a link to a file that cannot be saved: {error_text(error)}")
    except (_ReplacedError, FileNotFoundError):
        found.unsaved.append(f"{name} is a link to something that was replaced while being saved")
    except _MountedError:
        found.skipped.append(f"{name} is a link that points outside the working folder")


def _save_file(move: _Move, name: str) -> None:
    own_name = posixpath.basename(name)
    source = move.from_folder(name)
    file = open_name(source, own_name)
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            raise _ReplacedError
        if mount_id(file) != move.source.mount:
            raise _MountedError
        target = move.to_folder(name)
        if facts.st_nlink > 1:  # another name elsewhere would share every later change, and our mode
            _copy_file(source, own_name, target, name)
            os.unlink(own_name, dir_fd=source)
            return
        try:
            # Before it moves: what is in the outputs is always read-only.
            change_open_mode(file, _kept_mode(facts.st_mode))
            os.rename(own_name, own_name, src_dir_fd=source, dst_dir_fd=target)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EACCES):
                raise
            _copy_file(source, own_name, target, name)  # from another filesystem, or somebody else's
            with suppress(PermissionError):
                os.unlink(own_name, dir_fd=source)
        else:
            _refuse_another(facts, own_name, source, target)
    finally:
        os.close(file)


def _refuse_another(expected: os.stat_result, name: str, source: int, target: int) -> None:
    """Put back what was moved if it was not the file that had been looked at."""
    moved = os.stat(name, dir_fd=target, follow_symlinks=False)
    if not os.path.samestat(moved, expected):
        with suppress(OSError):
            os.rename(name, name, src_dir_fd=target, dst_dir_fd=source)
        raise _ReplacedError


def _copy_file(source: int, source_name: str, target: int, name: str) -> None:
    """Copy a file to its place in the outputs, which it takes in one step."""
    own_name = posixpath.basename(name)
    partial = partial_name(own_name)
    with suppress(FileNotFoundError):
        os.unlink(partial, dir_fd=target)
    reader = open_file(source, source_name)
    try:
        clone_open_file(reader, target, partial, mode=_kept_mode(os.fstat(reader).st_mode))
    finally:
        os.close(reader)
    os.rename(partial, own_name, src_dir_fd=target, dst_dir_fd=target)


def _kept_mode(mode: int) -> int:
    """Nobody writes to it any more; what could be executed still can."""
    return 0o444 | (stat.S_IMODE(mode) & 0o111)
