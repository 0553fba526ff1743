"""Folder trees: copying, measuring and removing them without ever following a link.

Main entries: `copy_entry`, `find_entries`, `remove_tree`. Invariant: nothing outside the given folders is
written, removed or has its mode changed, whatever links lie in them or take a folder's place meanwhile.
"""

import errno
import fcntl
import os
import posixpath
import re
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from conjure.core.dir_fd import Entry, Folder, FolderCursor, open_file, remove_entry, walk
from conjure.core.files import sha256_bytes

_FICLONE = 0x40049409  # from linux/fs.h: let two files share their blocks until one is written to
_CHUNK_BYTES = 1 << 30
_PIECE_BYTES = 1 << 20
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_NO_RANGE_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}


@dataclass(slots=True)
class Copied:
    """What a copy did.

    Attributes:
        files: How many files and links were made.
        size_bytes: Bytes of the files.
        skipped: What was left out and why, one phrase each.
    """

    files: int = 0
    size_bytes: int = 0
    skipped: list[str] = field(default_factory=list)


def clone_file(source: Path, destination: Path, *, mode: int) -> int:
    """Copy one regular file to a new name, sharing its blocks where the filesystem can; its size in bytes.

    The modification time goes along, the mode is `mode`.

    Raises:
        OSError: `source` is a link, `destination` exists, the disk is full …; `destination` is then removed.
    """
    with (
        Folder.open(source.parent, follow=True) as origin,
        Folder.open(destination.parent, follow=True) as folder,
    ):
        reader = open_file(origin.descriptor, source.name)
        try:
            return clone_open_file(reader, folder.descriptor, destination.name, mode=mode)
        finally:
            os.close(reader)


def clone_open_file(reader: int, folder: int, name: str, *, mode: int) -> int:
    """Copy an open file to a new name in an open folder, as `clone_file` does.

    Raises:
        OSError: It is no regular file, the name exists, the disk is full …; the name is then free again.
    """
    facts = os.fstat(reader)
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    writer = os.open(name, _CREATE, 0o600, dir_fd=folder)
    try:
        _copy_content(reader, writer)
        os.fchmod(writer, mode)
        os.utime(writer, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        return os.fstat(writer).st_size
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        raise
    finally:
        os.close(writer)


def _copy_content(reader: int, writer: int) -> None:
    with suppress(OSError):
        fcntl.ioctl(writer, _FICLONE, reader)
        return
    size = os.fstat(reader).st_size
    for start, end in _stretches_of_data(reader, size):
        _copy_range(reader, writer, start, end)
    os.truncate(writer, max(size, os.fstat(writer).st_size))  # a hole at the end is a matter of size alone


def _stretches_of_data(reader: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file holds anything, as far as the filesystem knows: the rest is holes, which read as zeros."""
    if not hasattr(os, "SEEK_DATA"):
        yield 0, size
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(reader, end, os.SEEK_DATA)
            end = os.lseek(reader, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # that means: nothing but a hole until the end
                yield end, size
            return
        yield start, end


def _copy_range(reader: int, writer: int, start: int, end: int) -> None:
    os.lseek(reader, start, os.SEEK_SET)
    os.lseek(writer, start, os.SEEK_SET)
    try:
        while start < end and (copied := os.copy_file_range(reader, writer, min(_CHUNK_BYTES, end - start))):
            start += copied
    except (OSError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_RANGE_COPY:
            raise
        while start < end and (data := os.read(reader, min(_PIECE_BYTES, end - start))):
            start += os.write(writer, data)
            os.lseek(reader, start, os.SEEK_SET)


class Found(NamedTuple):
    """What a copy makes one entry of: an open file, a link, or else a folder.

    Attributes:
        name: Its path below what is copied; "" for that itself.
        reader: Descriptor of a file, valid until the next one is asked for.
        target: Where a link is to lead.
    """

    name: str
    reader: int | None = None
    target: str | None = None


def find_entries(source: Path, *, boundary: Path, skipped: list[str]) -> Generator[Found, None, None]:
    """What `copy_entry` makes a copy of, in its order.

    Args:
        source: The file or folder.
        boundary: How far links may lead.
        skipped: Gets what is left out and why, one phrase each.
    """
    boundary = boundary.resolve()
    real = source.resolve()
    if not source.is_dir():
        if real.is_relative_to(boundary):
            yield from _open_path(real, "", source.name, skipped)
        else:
            skipped.append(f"{source.name} is a link that points outside")
        return
    with Folder.open(source, follow=True) as opened:
        for name, entry in walk(opened):
            if entry.is_link:
                yield from _find_link(opened.path, name, real, boundary, skipped)
            elif entry.is_folder:
                yield Found(name)
            elif entry.is_file:
                yield from _open_entry(entry.folder, entry.name, name, name, skipped)
            else:
                skipped.append(f"{name} is not a file, folder or link")


def _find_link(folder: Path, name: str, source: Path, boundary: Path, skipped: list[str]) -> Iterator[Found]:
    try:
        real = (folder / name).resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop, before Python 3.13
        skipped.append(f"{name} is a broken link")
        return
    if real.is_relative_to(source):
        yield Found(name, target=posixpath.relpath(real, posixpath.dirname(source / name)))
    elif real.is_relative_to(boundary) and real.is_file():
        yield from _open_path(real, name, name, skipped)
    else:
        skipped.append(f"{name} is a link that points outside")


def _open_path(path: Path, name: str, shown: str, skipped: list[str]) -> Iterator[Found]:
    try:
        parent = Folder.open(path.parent, follow=True)
    except FileNotFoundError:
        skipped.append(f"{shown} vanished")
        return
    with parent:
        yield from _open_entry(parent.descriptor, path.name, name, shown, skipped)


def _open_entry(folder: int, entry: str, name: str, shown: str, skipped: list[str]) -> Iterator[Found]:
    try:
        reader = open_file(folder, entry)
    except FileNotFoundError:
        skipped.append(f"{shown} vanished")
        return
    try:
        yield Found(name, reader)
    finally:
        os.close(reader)


def copy_entry(
    source: Path,
    into: Folder,
    name: str,
    *,
    boundary: Path,
    overwrite: bool = False,
    umask: int = 0,
    watch: Callable[[Copied], None] | None = None,
    place: Callable[[Found, int, str], bool] | None = None,
) -> Copied:
    """Make a private, writable copy of a file or folder; existing folders at the destination are added to.

    Links that lead to somewhere inside `source` stay links. One that leads to a file elsewhere inside
    `boundary` becomes a copy of it. Any other is left out and reported, and so are sockets and the like, and
    what vanishes meanwhile.

    Args:
        source: The file or folder.
        into: The folder that the copy is made in.
        name: The copy's path in it, in POSIX form; "" copies a folder's content straight into it.
        boundary: How far links may lead.
        overwrite: Replace files that exist already, each in one step.
        umask: Permission bits that the copies do not get.
        watch: Told after each file what has been copied so far.
        place: Asked for each file, with the descriptor of the folder that it is to be in and its name there,
            whether it has put an equal file there itself; else it is copied.

    Raises:
        OSError: A file exists already at the destination, a part of its path is a link, the disk is full …
    """
    copied = Copied()
    with (
        FolderCursor(into) as destination,
        closing(find_entries(source, boundary=boundary, skipped=copied.skipped)) as entries,
    ):
        copy = _Copy(destination, copied, overwrite, umask, place)
        top = name.split("/") if name else []
        if source.is_dir():
            destination.go_to(top, make=True)
        for found in entries:
            parts = [*top, *found.name.split("/")] if found.name else top
            if found.reader is None and found.target is None:
                destination.go_to(parts, make=True)
                continue
            copy.make(found, parts)
            if watch is not None:
                watch(copied)
    return copied


@dataclass(slots=True)
class _Copy:
    destination: FolderCursor
    copied: Copied
    overwrite: bool
    umask: int
    place: Callable[[Found, int, str], bool] | None

    def make(self, found: Found, parts: list[str]) -> None:
        """Make a file or link at its place."""
        folder, name = self.destination.go_to(parts[:-1], make=True), parts[-1]
        if found.target is not None:
            if self.overwrite:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
            os.symlink(found.target, name, dir_fd=folder)
        elif found.reader is not None:
            if self.place is not None and self.place(found, folder, name):
                self.copied.size_bytes += os.fstat(found.reader).st_size
            else:
                self.copied.size_bytes += self._file(found.reader, folder, name)
        self.copied.files += 1

    def _file(self, reader: int, folder: int, name: str) -> int:
        """Copy an open file; its size in bytes."""
        mode = stat.S_IMODE(os.fstat(reader).st_mode) | stat.S_IRUSR | stat.S_IWUSR
        mode &= ~(stat.S_ISUID | stat.S_ISGID | self.umask)
        if not self.overwrite:
            return clone_open_file(reader, folder, name, mode=mode)
        partial = partial_name(name)
        with suppress(FileNotFoundError):
            os.unlink(partial, dir_fd=folder)
        size = clone_open_file(reader, folder, partial, mode=mode)
        os.replace(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
        return size


_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.part")


def is_partial(path: str) -> bool:
    """Whether a path ends with a name that `partial_name` gives."""
    return _PARTIAL.fullmatch(path.rpartition("/")[2]) is not None


def partial_name(name: str) -> str:
    """What a file is called while it is being copied: short enough for any filesystem, always the same."""
    return f".{sha256_bytes(os.fsencode(name))[:32]}.part"


def tree_size_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; nothing there has none."""
    try:
        with Folder.open(folder) as opened:
            return sum(_size(entry) for _, entry in walk(opened) if not entry.is_folder)
    except NotADirectoryError:
        return folder.lstat().st_size
    except FileNotFoundError:
        return 0


def _size(entry: Entry) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # removed meanwhile
        return 0


def remove_tree(folder: Path) -> None:
    """Remove a folder and everything in it, read-only folders too; nothing there is fine.

    Raises:
        OSError: Something in it cannot be removed.
    """
    with suppress(FileNotFoundError), Folder.open(folder.parent, follow=True) as parent:
        remove_entry(parent, folder.name)
