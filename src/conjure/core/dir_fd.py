"""Folders held open by descriptor: what is done in one stays in it, whatever becomes of its path.

A path is looked up anew each time it is used, and any part of it may have become a link since it was last
looked at. A descriptor goes on meaning the same folder. Everything that is moved, written, removed or has its
mode changed in a folder that a command could reach goes through here, one step of a path at a time.

Main entries: `Folder`, `FolderCursor`, `walk`, `remove_entry`. Invariant: no symbolic link is ever followed,
and nothing beyond a mount point is removed or has its mode changed.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME_ONLY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_REMOVAL_ATTEMPTS = 5  # of a folder into which another process writes
_OPEN_LEVELS = 64  # descriptors held at once on the way down; folders may be nested deeper than a process has


class FolderId(NamedTuple):
    """What tells one folder from every other on a running machine."""

    device: int
    inode: int

    @classmethod
    def of(cls, facts: os.stat_result) -> Self:
        """The identity in what `stat` found."""
        return cls(facts.st_dev, facts.st_ino)


class Folder:
    """An open folder; a context manager that closes it.

    Args:
        descriptor: Its own from now on.
        path: Where the folder was when it was opened, for messages and for what only reads.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self.descriptor = descriptor
        self.path = path
        self.id = FolderId.of(os.fstat(descriptor))

    @classmethod
    def open(cls, path: Path, *, follow: bool = False) -> Self:
        """Open a folder; a link in its place is followed only if that is asked for.

        Raises:
            OSError: It is not there, or no folder.
        """
        flags = _OPEN_FOLDER & ~os.O_NOFOLLOW if follow else _OPEN_FOLDER
        return cls(os.open(path, flags), path)

    def open_in(self, name: str) -> "Folder":
        """Open a folder that is directly in this one.

        Raises:
            OSError: It is not there, or no folder: a link to one is none.
        """
        return Folder(_open_below(self.descriptor, name), self.path / name)

    def make_in(self, name: str) -> "Folder":
        """Make a folder directly in this one, where nothing of that name may be, and open it.

        Raises:
            FileExistsError: There is something.
        """
        os.mkdir(_checked(name), dir_fd=self.descriptor)
        return self.open_in(name)

    def id_of(self, name: str) -> FolderId | None:
        """The identity of what has this name now, a link's own if it is one; None if there is nothing."""
        try:
            return FolderId.of(os.stat(_checked(name), dir_fd=self.descriptor, follow_symlinks=False))
        except FileNotFoundError:
            return None

    @property
    def here(self) -> Path:
        """A path that means this very folder in this process, for functions that take nothing else."""
        return Path(f"/proc/self/fd/{self.descriptor}")

    def give_owner_access(self) -> None:
        """Let us look into it and take from it, should a command have closed it."""
        mode = os.fstat(self.descriptor).st_mode
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            os.fchmod(self.descriptor, stat.S_IMODE(mode) | stat.S_IRWXU)

    def close(self) -> None:
        """Let go of it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _checked(name: str) -> str:
    if not name or name in (".", "..") or "/" in name:
        raise OSError(errno.EINVAL, f"{name!r} is not the name of one entry")
    return name


def _open_below(folder: int, name: str) -> int:
    return os.open(_checked(name), _OPEN_FOLDER, dir_fd=folder)


def change_mode(folder: int, name: str, mode: int) -> None:
    """Change the mode of a file or folder, never of what a link leads to.

    Raises:
        OSError: It is a link, is gone, or belongs to somebody else.
    """
    descriptor = os.open(_checked(name), _NAME_ONLY, dir_fd=folder)
    try:
        change_open_mode(descriptor, mode)
    finally:
        os.close(descriptor)


def open_name(folder: int, name: str) -> int:
    """A descriptor that stands for an entry, whether or not it may be read; a link's own if it is one."""
    return os.open(_checked(name), _NAME_ONLY, dir_fd=folder)


def open_file(folder: int, name: str) -> int:
    """Open a file for reading, never what a link leads to, and without waiting for a pipe's other end.

    Raises:
        OSError: It is a link, is gone, or may not be read.
    """
    return os.open(_checked(name), _READ_FILE, dir_fd=folder)


def change_open_mode(descriptor: int, mode: int) -> None:
    """Change the mode of what `open_name` opened.

    Raises:
        OSError: It is a link, or belongs to somebody else.
    """
    if stat.S_ISLNK(os.fstat(descriptor).st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    os.chmod(f"/proc/self/fd/{descriptor}", mode)  # noqa: PTH101 - such a descriptor takes no fchmod


def give_owner_access(folder: int, name: str) -> None:
    """Let us look into and take from a folder that a command closed; never one that is mounted there."""
    descriptor = open_name(folder, name)
    try:
        mode = os.fstat(descriptor).st_mode
        closed = stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU
        if closed and mount_id(descriptor) == mount_id(folder):
            change_open_mode(descriptor, stat.S_IMODE(mode) | stat.S_IRWXU)
    finally:
        os.close(descriptor)


def mount_id(descriptor: int) -> int:
    """Through which mount something was opened: of a bind mount, not even the device number tells.

    Where the kernel does not say it (gVisor), everything counts as one mount: device numbers differ there
    between a file and its own folder.
    """
    for line in Path(f"/proc/self/fdinfo/{descriptor}").read_bytes().splitlines():
        if line.startswith(b"mnt_id:"):
            return int(line.split()[1])
    return 0


def _refuse_other_mount(descriptor: int, mount: int, name: str) -> None:
    if mount_id(descriptor) != mount:
        raise OSError(errno.EXDEV, "it is a mount point", name)


@dataclass(slots=True)
class _Level:
    name: str
    descriptor: int | None  # None once too many are open: it is found again from below
    id: FolderId


class FolderCursor:
    """A way down into a folder, one step at a time, however deep.

    Args:
        root: Where it starts; stays open.
        one_mount: Go into no folder that something else is mounted on.
    """

    def __init__(self, root: Folder, *, one_mount: bool = False) -> None:
        self.mount = mount_id(root.descriptor) if one_mount else None
        self._levels = [_Level("", root.descriptor, root.id)]

    @property
    def descriptor(self) -> int:
        """Of the folder that was reached; valid until the next step."""
        descriptor = self._levels[-1].descriptor
        assert descriptor is not None
        return descriptor

    @property
    def depth(self) -> int:
        """How many steps below the root it is."""
        return len(self._levels) - 1

    def down(self, name: str, *, make: bool = False) -> None:
        """Go into a folder, made first if that is asked for.

        Raises:
            OSError: There is none (a link to one is none), or it is a mount point and none is wanted (EXDEV).
        """
        if make:
            with suppress(FileExistsError):
                os.mkdir(_checked(name), dir_fd=self.descriptor)
        descriptor = _open_below(self.descriptor, name)
        try:
            if self.mount is not None:
                _refuse_other_mount(descriptor, self.mount, name)
        except OSError:
            os.close(descriptor)
            raise
        self._levels.append(_Level(name, descriptor, FolderId.of(os.fstat(descriptor))))
        far = len(self._levels) - _OPEN_LEVELS
        if far > 0:  # the root is never let go of
            self._close(self._levels[far])

    def up(self) -> None:
        """Go back to the folder above.

        Raises:
            OSError: The folder has been moved meanwhile, so that another one is above it.
        """
        left, above = self._levels.pop(), self._levels[-1]
        assert left.descriptor is not None
        try:
            if above.descriptor is None:
                above.descriptor = _reopen_above(left.descriptor, above.id)
        except OSError:
            self.close()
            raise
        finally:
            self._close(left)

    def go_to(self, parts: Sequence[str], *, make: bool = False) -> int:
        """Go to the folder of this path below the root; its descriptor, valid until the next step.

        Raises:
            OSError: There is none, or a part of the path is a link.
        """
        names = [level.name for level in self._levels[1:]]
        shared = 0
        while shared < min(len(names), len(parts)) and names[shared] == parts[shared]:
            shared += 1
        while self.depth > shared:
            self.up()
        for name in parts[shared:]:
            self.down(name, make=make)
        return self.descriptor

    def close(self) -> None:
        """Let go of every folder but the root."""
        for level in self._levels[1:]:
            self._close(level)
        del self._levels[1:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def _close(level: _Level) -> None:
        if level.descriptor is not None:
            os.close(level.descriptor)
            level.descriptor = None


def _reopen_above(below: int, expected: FolderId) -> int:
    descriptor = os.open("..", _OPEN_FOLDER, dir_fd=below)
    if FolderId.of(os.fstat(descriptor)) != expected:
        os.close(descriptor)
        raise OSError(errno.ESTALE, "a folder was moved while it was being read")
    return descriptor


class Entry(NamedTuple):
    """What has a name in a folder that is being walked.

    Attributes:
        name: Its own name, without a path.
        folder: Descriptor of the folder it is in; valid until the walk goes on.
        kind: What it was when the folder was read: `stat.S_IFDIR`, `S_IFREG`, `S_IFLNK`, or 0 for others.
    """

    name: str
    folder: int
    kind: int

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder itself."""
        return self.kind == stat.S_IFDIR

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file itself."""
        return self.kind == stat.S_IFREG

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return self.kind == stat.S_IFLNK

    def stat(self) -> os.stat_result:
        """What is known of it, of a link itself."""
        return os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)

    def target(self) -> str:
        """Where a link leads."""
        return os.readlink(self.name, dir_fd=self.folder)


Enter = Callable[[str, Entry], bool]
OnError = Callable[[str, OSError], None]


def walk(
    root: Path | Folder,
    *,
    enter: Enter | None = None,
    on_error: OnError | None = None,
    one_mount: bool = False,
) -> Iterator[tuple[str, Entry]]:
    """Every entry below `root` with its name relative to it: a folder, then what is in it, in order of name.

    Args:
        root: The folder to start from.
        enter: Asked for each folder whether to look into it; a refused one is not given out either.
        on_error: Told of a folder that cannot be read, which is then passed over; without it that is raised.
        one_mount: Treat a folder that something else is mounted on as one that cannot be read (EXDEV).

    Raises:
        OSError: A folder cannot be read.
    """
    if isinstance(root, Path):
        with Folder.open(root, follow=True) as opened:
            yield from walk(opened, enter=enter, on_error=on_error, one_mount=one_mount)
        return
    # A stack rather than recursion: a command may nest folders deeper than Python nests calls.
    with FolderCursor(root, one_mount=one_mount) as descent:
        waiting = [("", iter(_list(descent.descriptor)))]
        while waiting:
            prefix, entries = waiting[-1]
            listed = next(entries, None)
            if listed is None:
                waiting.pop()
                if waiting:
                    descent.up()
                continue
            entry = Entry(listed[0], descent.descriptor, listed[1])
            name = prefix + entry.name
            if entry.is_folder and enter is not None and not enter(name, entry):
                continue
            yield name, entry
            if entry.is_folder:
                try:
                    descent.down(entry.name)
                except OSError as error:
                    if on_error is None:
                        raise
                    on_error(name, error)
                else:
                    waiting.append((f"{name}/", iter(_list(descent.descriptor))))


def _list(folder: int) -> list[tuple[str, int]]:
    """Name and kind of everything in an open folder, in order of name."""
    with os.scandir(folder) as entries:
        return sorted((entry.name, _kind(entry)) for entry in entries)


def _kind(entry: os.DirEntry[str]) -> int:
    with suppress(FileNotFoundError):  # where the kind is not in the folder, and the entry has gone
        if entry.is_symlink():
            return stat.S_IFLNK
        if entry.is_dir(follow_symlinks=False):
            return stat.S_IFDIR
        if entry.is_file(follow_symlinks=False):
            return stat.S_IFREG
    return 0


def remove_entry(folder: Folder, name: str) -> None:
    """Remove what has this name, with everything in it, read-only folders too; nothing there is fine.

    What another process puts into it meanwhile, such as a lock that it looks for, is removed as well.

    Raises:
        OSError: Something in it cannot be removed, or is a mount point.
    """
    try:
        _unlink(folder.descriptor, name)
    except IsADirectoryError:
        for attempt in range(1, _REMOVAL_ATTEMPTS + 1):
            try:
                return _remove_folder(folder, name)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY or attempt == _REMOVAL_ATTEMPTS:
                    raise


def _remove_folder(folder: Folder, name: str) -> None:
    give_owner_access(folder.descriptor, name)
    with folder.open_in(name) as opened:
        _refuse_other_mount(opened.descriptor, mount_id(folder.descriptor), name)
        clear(opened)
    os.rmdir(name, dir_fd=folder.descriptor)


def clear(folder: Folder) -> None:
    """Remove everything in an open folder, and nothing beyond a mount point.

    Raises:
        OSError: Something cannot be removed, or is a mount point.
    """
    folder.give_owner_access()
    with FolderCursor(folder, one_mount=True) as descent:
        waiting = [iter(_list(descent.descriptor))]
        path: list[str] = []
        while waiting:
            name = next(waiting[-1], (None,))[0]
            if name is not None:
                if not _removed(descent.descriptor, name):
                    give_owner_access(descent.descriptor, name)
                    descent.down(name)
                    path.append(name)
                    waiting.append(iter(_list(descent.descriptor)))
                continue
            waiting.pop()
            if waiting:
                descent.up()
                os.rmdir(path.pop(), dir_fd=descent.descriptor)


def _removed(folder: int, name: str) -> bool:
    try:
        _unlink(folder, name)
    except IsADirectoryError:
        return False
    return True


def _unlink(folder: int, name: str) -> None:
    try:
        os.unlink(_checked(name), dir_fd=folder)
    except FileNotFoundError:
        pass
    except PermissionError as error:  # what some filesystems say of a folder
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name) from error
        raise
