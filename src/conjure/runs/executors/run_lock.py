"""Who supervises a run on this machine: a lock in the run's folder.

Main entry: `RunLock`. Invariant: a run that has not ended is supervised by the one process that holds it. A
lock that can be taken means that it has none here, unless its command removed or replaced the file: before a
run is closed, `abandoned_runs` looks at the process, too.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from conjure.core.dir_fd import Folder, give_owner_access, remove_entry
from conjure.core.files import lock_or_close, open_to_lock
from conjure.core.trees import remove_tree
from conjure.runs.schema.run_folder import LOCK_FILE, REMOVED, RunFolder

_LOOK_EVERY_S = 0.02


class RunLock:
    """Possession of a run: a lock the kernel takes back when the last process holding it is gone.

    Attributes:
        descriptor: Of the open lock file; None for a run whose folder is gone.
    """

    def __init__(self, descriptor: int | None) -> None:
        self.descriptor = descriptor

    @classmethod
    def create(cls, folder: Path) -> "RunLock":
        """Make a run's folder and take possession of it.

        Raises:
            FileExistsError: The folder is there: its number was given before.
            OSError: It cannot be made.
        """
        if not folder.parent.is_dir():
            try:
                folder.parent.mkdir(mode=0o700)
            except FileExistsError as error:
                if not folder.parent.is_dir():  # a file of that name; no number in it was ever given
                    raise NotADirectoryError(
                        errno.ENOTDIR, "it is not a folder", str(folder.parent)
                    ) from error
        folder.mkdir(mode=0o700)
        descriptor = os.open(RunFolder(folder).lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return cls(descriptor)

    @classmethod
    def take_if_free(cls, folder: Path) -> "RunLock | None":
        """Take possession of a run without a supervisor; None if it has one.

        A run whose folder somebody removed has no supervisor; the folder is not made again.
        """
        try:
            with Folder.open(folder) as opened:
                descriptor = _open_lock(opened)
            return cls(descriptor) if lock_or_close(descriptor) else None
        except FileNotFoundError:
            return cls(None)
        except OSError:  # where no lock can be had, nobody may take the run for its own
            return None

    @classmethod
    @contextmanager
    def possession(cls, folder: Path) -> Iterator[bool]:
        """Possession of a run while the block lasts; False if somebody else has it."""
        lock = cls.take_if_free(folder)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.release()

    @classmethod
    def take_when_free(cls, folder: Path, *, patience_s: float = 10.0) -> "RunLock | None":
        """Take possession of a run whose carrier is about to let go; None if it does not in time."""
        deadline = time.monotonic() + patience_s
        while (lock := cls.take_if_free(folder)) is None and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)
        return lock

    @staticmethod
    def make_usable(folder: Path) -> bool:
        """Have a lock that can be taken of a run without a supervisor, whose command closed or replaced it.

        False where there can be none; a run whose folder somebody removed needs none.
        """
        try:
            with Folder.open(folder.parent, follow=True) as runs:
                give_owner_access(runs.descriptor, folder.name)
            with Folder.open(folder) as opened:
                try:
                    os.close(_open_lock(opened))
                except OSError:  # a link, or a file that cannot be read
                    remove_entry(opened, LOCK_FILE)
                    os.close(_open_lock(opened))
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def release(self) -> None:
        """Let go; another process that was given the same lock still has it."""
        if self.descriptor is not None:
            with suppress(OSError):
                os.close(self.descriptor)
            self.descriptor = None


def take_out_of_sight(folder: Path) -> Path:
    """Rename the folder of a run that is to be removed, and give its new path.

    Nobody finds it any more, so its lock can be let go first: NFS removes no folder in which a file is open.

    Raises:
        OSError: It cannot be renamed.
    """
    aside = folder.with_name(f"{REMOVED}{folder.name}")
    remove_tree(aside)  # of an earlier attempt, which could not be removed
    return folder.rename(aside)


def _open_lock(folder: Folder) -> int:
    """Open a run's lock, which is made if need be."""
    flags = os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe is not waited for
    try:
        return open_to_lock(LOCK_FILE, flags, dir_fd=folder.descriptor)
    except FileNotFoundError:
        return open_to_lock(LOCK_FILE, flags | os.O_CREAT, dir_fd=folder.descriptor)
