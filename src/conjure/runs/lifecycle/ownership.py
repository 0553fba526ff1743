"""Who carries a run, and what becomes of runs whose carrier is gone.

Main entries: `RunLock`, `open_store`, `mark_interrupted`. Invariant: a run that has not ended is carried by
the one process that holds the lock in its folder; a lock that can be taken means that nobody carries it.
A run of another machine is never judged from here.
"""

import fcntl
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from conjure.core.folders import Folder
from conjure.core.home import HOME_VARIABLE, Home
from conjure.errors import StoreError
from conjure.reporting import RUN_VARIABLE
from conjure.runs.database.sqlite import Store, read_record
from conjure.runs.host.process import Process, boot_id, end_all, host_id, with_variables
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.status import Ending, EndReason

LOCK_FILE = "lock"
_PROCESS_NAME = "conjure#"
_LOOK_EVERY_S = 0.02


class RunLock:
    """Possession of a run: a lock the kernel takes back when the last process holding it is gone."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def create(cls, folder: Path) -> "RunLock":
        """Make a run's folder and take possession of it.

        Raises:
            FileExistsError: The folder is there: its number was given before.
        """
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700)
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return cls(descriptor)

    @classmethod
    def take_if_free(cls, folder: Path) -> "RunLock | None":
        """Take possession of a run that nobody carries; None if somebody does.

        A run whose folder somebody removed is carried by nobody; it gets an empty one again.
        """
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # For reading is enough to lock it, and can be had on a read-only disk.
            with Folder.open(folder) as opened:
                flags = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = os.open(LOCK_FILE, flags, 0o600, dir_fd=opened.descriptor)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return cls(descriptor)

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
        with suppress(OSError):
            os.close(self.descriptor)


def open_store(home: Home) -> Store:
    """The store, with every run that its carrier left behind closed first: what is then read is true.

    Raises:
        StoreError: The home or its database cannot be used.
    """
    store = Store.open(home)
    try:
        mark_interrupted(store, store.active())
    except BaseException:
        store.close_connection()
        raise
    return store


def mark_interrupted(store: Store, records: Iterable[RunRecord], *, must: bool = False) -> None:
    """Close as interrupted those of the runs that nobody carries any more.

    Args:
        store: Where they are recorded.
        records: The runs.
        must: Raise where one cannot be closed now; else it stays as it is until it can.

    Raises:
        StoreError: With `must`, the disk is full or read-only.
    """
    for record in records:
        if record.owner is not None and record.owner.host_id != host_id():
            continue
        lock = RunLock.take_if_free(store.home.run_folder(record.number))
        if lock is None:
            continue
        try:
            _close_one(store, record.number)
        except StoreError:
            if must:
                raise
        finally:
            lock.release()


def _close_one(store: Store, number: int) -> None:
    record = store.get(number)  # again, now that nobody else can be closing it
    if record.status.is_final:
        return
    written = read_record(store.home.run_folder(number))
    if written is not None and written.status.is_final:
        store.put_record(written)  # its end was written, but the database lost it in a power cut
        return
    restarted = record.owner is not None and record.owner.boot_id != boot_id()
    if not restarted:
        kill_orphans(store.home, number)
    store.refresh_summaries(number)  # its supervisor may not have seen the last points
    reason = EndReason.MACHINE_RESTARTED if restarted else EndReason.SUPERVISOR_DIED
    what = "the machine was restarted" if restarted else "its supervisor died"
    store.close(number, Ending(reason, message=f"{what} while the run was {record.status}"))


def kill_orphans(home: Home, number: int) -> None:
    """End what is left of a run whose supervisor and guard both died: found by the run's variables."""
    marks = (f"{RUN_VARIABLE}={number}".encode(), f"{HOME_VARIABLE}={home.root}".encode())
    end_all(lambda: with_variables(marks))


def process_name(number: int) -> str:
    """The name a run's supervisor goes by among the machine's processes."""
    return f"{_PROCESS_NAME}{number}"


def is_other_supervisor(home: Home, own_number: int, process: Process) -> bool:
    """Whether a process carries or guards another run, one cast from within this one; those outlive it."""
    number = process.name.removeprefix(_PROCESS_NAME)
    if number == process.name or not number.isdecimal() or int(number) == own_number:
        return False
    folder = home.run_folder(int(number))
    if not (folder / LOCK_FILE).exists():
        return False  # it only calls itself so
    lock = RunLock.take_if_free(folder)
    if lock is None:
        return True
    lock.release()
    return False


def ignore_interrupts() -> None:
    """Let ^C and a closing terminal pass; by a handler, for an ignored signal would be inherited."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
