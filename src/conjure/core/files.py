"""Writing files so that a crash leaves the old content or the new, and digests of what is there.

Main entries: `write_atomically`, `replace_folder`, `staging_folder`, `sha256_file`, `parse_json`,
`parse_toml`. Invariant: a reader never sees half a file.
"""

import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

_AT_FDCWD = -100  # "relative to the current folder", from fcntl.h
_RENAME_EXCHANGE = 2  # from linux/fs.h
_RANDOM_CHARACTERS = 8  # that tempfile puts after a prefix
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def open_regular(path: Path) -> BinaryIO:
    """A regular file, to be read; a pipe, device or socket of that name is refused, not waited for.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    # Without O_NONBLOCK, opening a named pipe waits for somebody who writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is not a regular file (a pipe, a device or a socket)", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def real_path(path: str | Path) -> Path:
    """The path that a path leads to; a link that leads to itself stays as it is, for whoever opens it.

    `Path.resolve` raises a RuntimeError for such a link before Python 3.13.
    """
    return Path(os.path.realpath(path))


def expand_user(path: str | Path) -> Path:
    """The path, with the home folder that ``~`` or ``~NAME`` stands for; of no user, it stays.

    `Path.expanduser` raises a RuntimeError for a user that does not exist.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111


def holds_current_folder(folder: Path) -> bool:
    """Whether this process is in a folder or below it; if that is replaced, its shell is nowhere.

    Args:
        folder: Its real path.
    """
    with suppress(OSError):  # it is not there any more
        return Path.cwd().is_relative_to(folder)
    return False


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content, read in pieces."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]


def parse_json(text: bytes | str) -> Any:
    """What JSON text holds, where the text may be anything.

    Raises:
        ValueError: It is not JSON, or is nested deeper than Python can follow.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def parse_toml(text: str) -> dict[str, Any]:
    """What TOML text holds, where the text may be anything.

    Raises:
        ValueError: It is not TOML, or is nested deeper than Python can follow.
    """
    import tomllib  # milliseconds that only who has such a file need pay

    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def sha256_open_file(descriptor: int) -> str:
    """Hex SHA-256 of what is left to read of an open file, which stays open."""
    with open(descriptor, "rb", closefd=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make a folder's entries (a rename, a new file) survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def current_umask() -> int:
    """The permission bits that new files of this process do not get."""
    with suppress(OSError, ValueError, StopIteration), Path("/proc/self/status").open("rb") as status:
        return int(next(line for line in status if line.startswith(b"Umask:")).split()[1], 8)
    umask = os.umask(0o077)  # for a moment it is another thread's too, so this is the second choice
    os.umask(umask)
    return umask


def write_atomically(path: Path, data: bytes | str, *, mode: int | None = None) -> None:
    """Write a whole file: afterwards `path` holds `data`, or what it held before.

    Args:
        path: Where to; its folder must exist.
        data: Bytes, or text to be written as UTF-8.
        mode: Permission bits of the new file; by default those of any new file of this process.

    Raises:
        OSError: The disk is full or the folder is not writable; `path` is untouched.
    """
    content = data.encode() if isinstance(data, str) else data
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o600 | (0o666 & ~current_umask()) if mode is None else mode)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Build a folder beside `folder` and put it in its place when the block ends well.

    Yields an empty temporary folder to fill. If the block raises, it is removed and `folder` is as before.
    A SIGKILL at any moment leaves the old folder or the new one, whole: the two are swapped in one system
    call where the system has it (Linux), else by two renames. What a crash leaves behind beside the folder is
    cleared away by the next call, or by `restore_folder`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    restore_folder(folder)
    with _locked_folder(folder.parent, f".{folder.name}.new-") as temporary:
        try:
            yield temporary
            temporary.chmod(0o755)
            for path in temporary.rglob("*"):
                if path.is_file():
                    _sync_file(path)
            if not folder.exists():
                temporary.rename(folder)
            elif not _exchange(temporary, folder):
                folder.rename(_retired(folder))
                temporary.rename(folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # unfinished, or by now the old content
    restore_folder(folder)


def restore_folder(folder: Path) -> None:
    """Clear up what calls of `replace_folder` that a crash cut off left beside `folder`; let live ones be."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.new-*"):
        if not _remove_unlocked(left) and not folder.exists():
            return  # somebody is between two renames
    retired = _retired(folder)
    if folder.exists():
        shutil.rmtree(retired, ignore_errors=True)
    elif retired.exists():
        retired.rename(folder)


@contextmanager
def staging_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder to work in, gone at the end of the block; what a kill left of earlier ones goes first.

    Args:
        parent: Where; it must exist.
        prefix: Of its name.
    """
    remove_leftovers(parent, prefix)
    with _locked_folder(parent, prefix) as temporary:
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(parent: Path, prefix: str) -> None:
    """Remove what calls of `staging_folder` that a kill cut off left behind; let live ones be."""
    for left in parent.glob(f"{glob.escape(prefix)}{'?' * _RANDOM_CHARACTERS}"):
        if left.is_dir():
            _remove_unlocked(left)


@contextmanager
def _locked_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new temporary folder, locked while its maker lives, so that nobody takes it for a leftover."""
    while True:
        temporary = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        try:
            descriptor = os.open(temporary, os.O_RDONLY)
        except FileNotFoundError:
            continue  # cleared away before it was locked
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if temporary.exists():
                yield temporary
                return
        finally:
            os.close(descriptor)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder while it is being filled, however long that takes; `is_locked` tells others."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock of a file or folder; nobody does of what is not there."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, for others may look at the same time
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, made if need be; the system lets it go when this process ends, however it ends."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def open_to_lock(path: Path | str, flags: int = 0, *, dir_fd: int | None = None) -> int:
    """Open a file so that it can be locked: for writing too, without which NFS gives no lock of one's own.

    One that can only be read, as on a read-only disk, is opened for that: a local disk locks it all the same.

    Args:
        path: The file.
        flags: More of `os.open`, such as ``O_CREAT``.
        dir_fd: What the path is relative to.

    Raises:
        OSError: It cannot be read either.
    """
    flags |= os.O_CLOEXEC
    try:
        return os.open(path, os.O_RDWR | flags, 0o600, dir_fd=dir_fd)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        return os.open(path, os.O_RDONLY | flags, 0o600, dir_fd=dir_fd)


def lock_or_close(descriptor: int) -> bool:
    """Lock an open file unless somebody else has it locked; then it is closed, and the answer is False.

    Raises:
        OSError: It cannot be locked, as on a disk that knows no locks; it is closed.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except OSError:
        os.close(descriptor)
        raise
    return True


def _remove_unlocked(folder: Path) -> bool:
    """Remove a leftover; False where its maker is alive."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return True  # gone already, or not ours to touch
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _retired(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.old"


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step; False where the system cannot."""
    import ctypes  # milliseconds that only who replaces a folder need pay

    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    return renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def folder_size_bytes(folder: Path) -> int:
    """Bytes in all regular files below `folder`; links are not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
