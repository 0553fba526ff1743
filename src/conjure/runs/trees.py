"""Folder trees: walking, copying and removing them without ever following a link.

Main entries: `walk`, `copy_tree`, `remove_tree`. Invariant: nothing outside the given folders is read or
written, whatever links lie in them.
"""

import errno
import fcntl
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_FICLONE = 0x40049409  # from linux/fs.h: let two files share their blocks until one is written to
_CHUNK_BYTES = 1 << 30
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


Enter = Callable[[str, os.DirEntry[str]], bool]
OnError = Callable[[str, OSError], None]


def walk(
    root: Path, *, enter: Enter | None = None, on_error: OnError | None = None
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every entry below `root` with its name relative to it: a folder, then what is in it, in order of name.

    Args:
        root: The folder to start from.
        enter: Asked for each folder whether to look into it; a refused one is not given out either.
        on_error: Told of a folder that cannot be read, which is then passed over; without it that is raised.

    Raises:
        OSError: A folder cannot be read.
    """
    # A stack rather than recursion: a command may nest folders deeper than Python nests calls.
    waiting = [iter(_entries(str(root), "", on_error))]
    while waiting:
        named = next(waiting[-1], None)
        if named is None:
            waiting.pop()
            continue
        name, entry = named
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_folder and enter is not None and not enter(name, entry):
            continue
        yield name, entry
        if is_folder:
            waiting.append(iter(_entries(entry.path, f"{name}/", on_error)))


def _entries(folder: str, prefix: str, on_error: OnError | None) -> list[tuple[str, os.DirEntry[str]]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(((prefix + entry.name, entry) for entry in entries), key=lambda named: named[0])
    except OSError as error:
        if on_error is None:
            raise
        on_error(prefix.rstrip("/"), error)
        return []


def clone_file(source: Path, destination: Path, *, mode: int) -> int:
    """Copy one regular file to a new name, sharing its blocks where the filesystem can; its size in bytes.

    The modification time goes along, the mode is `mode`.

    Raises:
        OSError: `source` is a link, `destination` exists, the disk is full …; `destination` is then removed.
    """
    reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        writer = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            facts = os.fstat(reader)
            _copy_content(reader, writer)
            os.fchmod(writer, mode)
            os.utime(writer, ns=(facts.st_atime_ns, facts.st_mtime_ns))
            return os.fstat(writer).st_size
        except BaseException:
            destination.unlink(missing_ok=True)
            raise
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_content(reader: int, writer: int) -> None:
    with suppress(OSError):
        fcntl.ioctl(writer, _FICLONE, reader)
        return
    try:
        while os.copy_file_range(reader, writer, _CHUNK_BYTES):
            pass
    except (OSError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_RANGE_COPY:
            raise
        with os.fdopen(os.dup(reader), "rb") as source, os.fdopen(os.dup(writer), "wb") as destination:
            source.seek(destination.tell())
            shutil.copyfileobj(source, destination, 1 << 20)


def copy_entry(
    source: Path,
    destination: Path,
    *,
    boundary: Path,
    overwrite: bool = False,
    watch: Callable[[Copied], None] | None = None,
) -> Copied:
    """Make a private, writable copy of a file or folder; existing folders at the destination are added to.

    Links that lead to somewhere inside `source` stay links. One that leads to a file elsewhere inside
    `boundary` becomes a copy of it. Any other is left out and reported, and so are sockets and the like, and
    what vanishes meanwhile.

    Args:
        source: The file or folder.
        destination: Its copy's name.
        boundary: How far links may lead.
        overwrite: Replace files that exist already, each in one step.
        watch: Told after each file what has been copied so far.

    Raises:
        OSError: A file exists already at the destination, the disk is full …
    """
    return _Copy(source, boundary.resolve(), overwrite, watch).run(destination)


@dataclass(slots=True)
class _Copy:
    source: Path
    boundary: Path
    overwrite: bool
    watch: Callable[[Copied], None] | None
    copied: Copied = field(default_factory=Copied)

    def run(self, destination: Path) -> Copied:
        if not self.source.is_dir():
            self._file(self.source, destination, self.source.name)
            return self.copied
        destination.mkdir(parents=True, exist_ok=True)
        for name, entry in walk(self.source):
            place, target = Path(entry.path), destination / name
            if entry.is_symlink():
                self._link(place, target, name)
            elif entry.is_dir(follow_symlinks=False):
                target.mkdir(exist_ok=True)
            elif entry.is_file(follow_symlinks=False):
                self._file(place, target, name)
            else:
                self.copied.skipped.append(f"{name} is neither file, folder nor link")
        return self.copied

    def _file(self, file: Path, destination: Path, name: str) -> None:
        try:
            mode = stat.S_IMODE(file.stat().st_mode) | stat.S_IRUSR | stat.S_IWUSR
        except FileNotFoundError:
            self.copied.skipped.append(f"{name} vanished")
            return
        place = destination
        if self.overwrite:
            place = destination.with_name(f".{destination.name[:200]}.part")
            place.unlink(missing_ok=True)
        self.copied.size_bytes += clone_file(file, place, mode=mode & ~(stat.S_ISUID | stat.S_ISGID))
        if self.overwrite:
            place.replace(destination)
        self._done()

    def _link(self, link: Path, destination: Path, name: str) -> None:
        try:
            real, source = link.resolve(strict=True), self.source.resolve()
        except (OSError, RuntimeError):  # RuntimeError: a loop, before Python 3.13
            self.copied.skipped.append(f"{name} is a link to nothing")
            return
        if real.is_relative_to(source):
            if self.overwrite:
                destination.unlink(missing_ok=True)
            destination.symlink_to(os.path.relpath(real, (source / name).parent))
            self._done()
        elif real.is_relative_to(self.boundary) and real.is_file():
            self._file(real, destination, name)
        else:
            self.copied.skipped.append(f"{name} is a link that leads outside")

    def _done(self) -> None:
        self.copied.files += 1
        if self.watch is not None:
            self.watch(self.copied)


def tree_size_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; nothing there has none."""
    if folder.is_symlink() or not folder.is_dir():
        return folder.lstat().st_size if folder.is_symlink() or folder.exists() else 0
    entries = (entry for _, entry in walk(folder))
    return sum(entry.stat(follow_symlinks=False).st_size for entry in entries if not entry.is_dir())


def remove_tree(folder: Path) -> None:
    """Remove a folder and everything in it, read-only folders too; nothing there is fine.

    Raises:
        OSError: Something in it cannot be removed.
    """
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return

    def open_up(_name: str, entry: os.DirEntry[str]) -> bool:
        os.chmod(entry.path, stat.S_IRWXU)  # noqa: PTH101 - an entry's own path, not followed: it is a folder
        return True

    folder.chmod(stat.S_IRWXU)
    try:
        for _ in walk(folder, enter=open_up):
            pass
        shutil.rmtree(folder)
    except (RecursionError, OSError):
        # Nested too deep for a path's length or Python's recursion; rm descends step by step.
        subprocess.run(["rm", "-rf", "--", str(folder)], capture_output=True, check=False)
        if folder.exists():
            raise
