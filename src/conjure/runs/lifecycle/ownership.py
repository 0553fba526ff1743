"""Who supervises a run, and what becomes of runs whose supervisor is gone.

Main entries: `RunLock`, `open_store`, `mark_interrupted`. Invariant: a run that has not ended is supervised
by the one process that holds the lock in its folder; a lock that can be taken means that it has none.
A run of another machine is never judged from here.
"""

import errno
import fcntl
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from conjure.core.dir_fd import Folder
from conjure.core.files import lock_or_close
from conjure.core.home import HOME_VARIABLE, Home
from conjure.errors import StoreError
from conjure.reporting import RUN_VARIABLE
from conjure.runs.database.base import KILL, Database
from conjure.runs.database.record_files import read_record
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.host.process import Process, boot_id, end_all, host_id, with_variables
from conjure.runs.host.process_marks import find_marked, forget_marks
from conjure.runs.lifecycle.disk_reserve import DiskReserve
from conjure.runs.scheduling.scheduler_start import is_scheduler, look_after_queue
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.run_folder import LOCK_FILE, PARTIAL_FILE, RunFolder
from conjure.runs.schema.status import Ending, EndReason

_NOT_IGNORED = {
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGTERM,
    signal.SIGCHLD,
    signal.SIGCONT,
    signal.SIGPIPE,  # Python has it ignored
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
}
_PROCESS_NAME = "conjure#"
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
        except FileNotFoundError:
            return cls(None)
        except OSError:
            return None
        return cls(descriptor) if lock_or_close(descriptor) else None

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

    def release(self) -> None:
        """Let go; another process that was given the same lock still has it."""
        if self.descriptor is not None:
            with suppress(OSError):
                os.close(self.descriptor)
            self.descriptor = None


def _open_lock(folder: Folder) -> int:
    """Open a run's lock; for reading, which is enough to lock it and can be had on a read-only disk."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(LOCK_FILE, flags, dir_fd=folder.descriptor)
    except FileNotFoundError:
        return os.open(LOCK_FILE, flags | os.O_CREAT, 0o600, dir_fd=folder.descriptor)


def open_store(home: Home, *, must_exist: bool = False) -> Database:
    """The store, with every run that its carrier left behind closed first: what is then read is true.

    Where runs wait and the process that starts them is gone, another is started.

    Args:
        home: Where conjure keeps things.
        must_exist: As `SqliteDatabase.open` has it.

    Raises:
        StoreError: The home or its database cannot be used.
    """
    store = SqliteDatabase.open(home, must_exist=must_exist)
    try:
        mark_interrupted(store, store.supervised())
        look_after_queue(store)
    except BaseException:
        store.close()
        raise
    return store


def mark_interrupted(store: Database, records: Iterable[RunRecord]) -> None:
    """Close as interrupted those of the runs whose supervisor is gone.

    Where that cannot be written, as on a full disk, `store` tells of them as ended all the same.
    """
    for record in records:
        if record.owner is not None and record.owner.host_id != host_id():
            continue  # also one that waits in the queue
        lock = RunLock.take_if_free(store.home.run_folder(record.number))
        if lock is None:
            continue
        try:
            _close_one(store, record.number)
        finally:
            lock.release()


def _close_one(store: Database, number: int) -> None:
    record = store.get(number)  # again, now that nobody else can be closing it
    if record.status.is_final:
        return
    folder = store.home.run_folder(number)
    written = read_record(folder)
    if written is not None and written.status.is_final:
        store.put_record(written)  # its end was written, but the database lost it in a power cut
        return
    restarted = record.owner is not None and record.owner.boot_id != boot_id()
    if not restarted:
        kill_orphans(store.home, number)
    _free_reserve(folder)
    ending = _ending_of_abandoned(record, restarted=restarted)
    try:
        store.refresh_summaries(number)  # its supervisor may not have seen the last points
        store.end_run(number, ending)
    except StoreError:
        store.presume_ended(number, ending)
    else:
        remove_partial_files(folder)


def _ending_of_abandoned(record: RunRecord, *, restarted: bool) -> Ending:
    if restarted:
        message = f"the machine was restarted while the run was {record.status}"
        return Ending(EndReason.MACHINE_RESTARTED, message=message)
    if record.end_request == KILL:  # a supervisor that did not hear was itself killed
        return Ending(EndReason.KILL_REQUESTED)
    message = f"its supervisor died while the run was {record.status}"
    return Ending(EndReason.SUPERVISOR_DIED, message=message)


def _free_reserve(folder: Path) -> None:
    """Give back what a run set aside for its own end, and did not come to use."""
    with suppress(OSError), Folder.open(folder) as opened:
        DiskReserve(opened).release()


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed process was writing into a run's folder; to be called in possession of the run."""
    with suppress(OSError), Folder.open(folder) as opened:
        for name in os.listdir(opened.descriptor):  # noqa: PTH208 - pathlib knows no descriptors
            if PARTIAL_FILE.fullmatch(name):
                os.unlink(name, dir_fd=opened.descriptor)


def kill_orphans(home: Home, number: int) -> None:
    """End what is left of a run whose supervisor and guard both died: found by its variables and marks."""
    variables = (f"{RUN_VARIABLE}={number}".encode(), f"{HOME_VARIABLE}={home.root}".encode())
    folder = home.run_folder(number)

    def find() -> list[Process]:
        found = [*with_variables(variables), *find_marked(folder)]
        return [
            process
            for process in found
            if not is_other_supervisor(home, number, process) and not is_scheduler(home, process)
        ]

    if end_all(find):
        forget_marks(folder)


def process_name(number: int) -> str:
    """The name a run's supervisor goes by among the machine's processes."""
    return f"{_PROCESS_NAME}{number}"


def is_other_supervisor(home: Home, own_number: int, process: Process) -> bool:
    """Whether a process supervises or guards another run, started by this one; those outlive it."""
    number = process.name.removeprefix(_PROCESS_NAME)
    if number == process.name or not number.isdecimal() or int(number) == own_number:
        return False
    folder = home.run_folder(int(number))
    if not RunFolder(folder).lock.exists():
        return False  # it only calls itself so
    lock = RunLock.take_if_free(folder)
    if lock is None:
        return True
    lock.release()
    return False


def ignore_signals() -> None:
    """Let pass whatever signal would end or halt us, but for SIGTERM and those that our own faults send.

    By a handler, for an ignored signal would be inherited.
    """
    for number in signal.valid_signals() - _NOT_IGNORED:
        with suppress(OSError, ValueError):  # the C library keeps two for itself
            signal.signal(number, lambda *_: None)
