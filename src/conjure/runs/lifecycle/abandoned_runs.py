"""Runs that their supervisors left behind: found, closed as interrupted, and what is left of them ended.

Main entries: `mark_abandoned`, `mark_interrupted`. Invariant: a run of this machine that has not ended is
supervised by the one process that holds the lock in its folder (`RunLock`). Its command may remove or replace
that file, so a run whose supervisor is seen to live is never closed. A run of another machine is judged from
here only by its executor, or by a lease that nobody has renewed for long.
"""

import os
import signal
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from conjure.core.config import heartbeat_interval_s
from conjure.core.dir_fd import Folder
from conjure.core.home import HOME_VARIABLE, Home
from conjure.errors import StoreError
from conjure.metric_logging import RUN_VARIABLE
from conjure.runs.database.base import KILL, Database, SupersededError
from conjure.runs.database.record_files import read_record
from conjure.runs.environments.containers import keeps_containers, remove_container
from conjure.runs.executors.base import Executor, SupervisorState
from conjure.runs.executors.local import find_supervisor
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.host.disk_reserve import DiskReserve
from conjure.runs.host.orphan_detection import find_marked, forget_marks
from conjure.runs.host.process import Process, boot_id, end_all, machine_id, with_variables
from conjure.runs.lifecycle.heartbeat import TAKE_OVER_AFTER, is_abandoned
from conjure.runs.scheduling.retries import queue_next_attempt
from conjure.runs.scheduling.scheduler_start import (
    ensure_scheduler,
    is_scheduler,
    remove_request,
)
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.run_folder import PARTIAL_FILE, RunFolder
from conjure.runs.schema.status import Ending, EndReason, IllegalMoveError

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


def mark_abandoned(store: Database) -> None:
    """Close as interrupted every run whose supervisor is known here to be gone.

    There may be thousands on other machines, so only those are read that this machine can tell something of.
    """
    here, silent_for_s = machine_id(store.home), TAKE_OVER_AFTER * heartbeat_interval_s(store.home)
    mark_interrupted(
        store, store.supervised_by(here, silent_for_s=silent_for_s) if store.is_shared else store.supervised()
    )


def mark_interrupted(
    store: Database,
    records: Iterable[RunRecord],
    executor: Executor | None = None,
    *,
    lost: Collection[int] = (),
) -> None:
    """Close as interrupted those of the runs whose supervisor is gone.

    Where that cannot be written, as on a full disk, `store` tells of them as ended all the same.

    Args:
        store: Where the runs are recorded.
        records: The runs.
        executor: One beside this machine whose runs can be judged from here.
        lost: Those whose supervisors are known to be gone, wherever they were.
    """
    records = list(records)
    silent = _lost_elsewhere(store, records)
    for record in records:
        is_lost = record.number in lost or record.number in silent
        if not is_lost and not _can_be_judged(store.home, record, executor):
            continue
        # Of another machine, or another home of this one, the lease decides: its supervisor may be paused.
        owner = None if is_lost else _living_owner(record)
        folder = store.home.run_folder(record.number)
        if owner is not None and owner.name == process_name(record.number):
            continue
        # Where there can be no lock, as on a failing disk, it is enough that the process is gone.
        no_lock = owner is None and not RunLock.make_usable(folder)
        with RunLock.possession(folder) as nobody_has_it:
            # Its submitter may have left it to a queue, or another machine to the next attempt, meanwhile.
            if (nobody_has_it or no_lock) and store.get(record.number).owner == record.owner:
                _close_one(store, record.number)
    if any(record.spec.retry for record in records):
        ensure_scheduler(store)


def _living_owner(record: RunRecord) -> Process | None:
    """The process that has a run, its supervisor or who still submits it, if it is one of this machine."""
    process = find_supervisor(record.owner)
    return None if process is None or process.is_zombie else process


def _lost_elsewhere(store: Database, records: Iterable[RunRecord]) -> set[int]:
    """Runs of other machines that were not heard of for so long that their supervisors have given up."""
    here = machine_id(store.home)
    elsewhere = [record for record in records if record.owner and record.owner.host_id != here]
    if not store.is_shared or not elsewhere:
        return set()
    return {number for number, lease in store.leases().items() if is_abandoned(lease)}


def _can_be_judged(home: Home, record: RunRecord, executor: Executor | None) -> bool:
    """Whether a run that nobody here supervises has no supervisor; no for one that waits in the queue."""
    if record.owner is None or record.owner.host_id == machine_id(home):
        return True
    if executor is None or record.owner != Owner.of_executor(executor.name):
        return False
    return executor.state(record.number) is SupervisorState.GONE


def _close_one(store: Database, number: int) -> None:
    record = store.get(number)  # again, now that nobody else can be closing it
    if record.status.is_final:
        return
    folder = store.home.run_folder(number)
    written = read_record(folder)
    if written is not None and written.status.is_final:
        store.put_record(written)  # its end was written, but the database lost it in a power cut
        return
    owner, here = record.owner, machine_id(store.home)
    try:
        if not _silenced(store, record):
            return
    except StoreError:  # a role that may only read, for one
        store.presume_ended(number, _ending_of_abandoned(record, restarted=False))
        return
    restarted = owner is not None and owner.host_id == here and owner.boot_id != boot_id()
    if not restarted:
        kill_orphans(store.home, number)
    remove_container(store.home, number)
    _free_reserve(folder)
    ending = _ending_of_abandoned(record, restarted=restarted)
    if not _goes_on(store, record, ending):
        _end(store, number, ending)


def _end(store: Database, number: int, ending: Ending) -> None:
    """Write down how a run ended, or remember it where it cannot be written."""
    folder = store.home.run_folder(number)
    try:
        if not store.home.is_elsewhere(number):
            with suppress(OSError):  # a failing disk, or its command replaced the file: it ends all the same
                store.refresh_summaries(number)  # its supervisor may not have seen the last points
        store.end_run(number, ending)
    except (IllegalMoveError, SupersededError):
        return  # another machine has closed it at this moment
    except StoreError:
        store.presume_ended(number, ending)
    else:
        remove_partial_files(folder)
        remove_request(store.home, number)


def _silenced(store: Database, record: RunRecord) -> bool:
    """See to it that a supervisor on another machine, should it live, can write nothing more of a run.

    False if another machine has closed the run at this moment.

    Raises:
        StoreError: It cannot be written.
    """
    owner, number = record.owner, record.number
    if owner is None or owner.is_queue or owner.is_executor or owner.host_id == machine_id(store.home):
        return True
    expected = store.newest_attempt(number) + 1
    if store.get(number).owner != owner:
        return False
    try:
        store.begin_attempt(number, owner, expected=expected)
    except (IllegalMoveError, SupersededError):
        return False
    return True


def _goes_on(store: Database, record: RunRecord, ending: Ending) -> bool:
    """Leave a run to its queue for another attempt, if it gets one; whether it does."""
    try:
        return bool(record.spec.retry) and queue_next_attempt(store, record.number, ending)
    except StoreError:
        return False


def _ending_of_abandoned(record: RunRecord, *, restarted: bool) -> Ending:
    if restarted:
        message = f"the machine was restarted while the run was {record.status}"
        return Ending(EndReason.MACHINE_RESTARTED, message=message)
    if record.owner is not None and record.owner.is_executor:
        return Ending(EndReason.SUPERVISOR_DIED, message=f"{record.owner.host_id} lost its supervisor")
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
            if not is_other_supervisor(home, number, process)
            and not is_scheduler(home, process)
            and not keeps_containers(process)
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
    with RunLock.possession(folder) as nobody_has_it:
        return not nobody_has_it


def ignore_signals() -> None:
    """Let pass whatever signal would end or halt us, but for SIGTERM and those that our own faults send.

    By a handler, for an ignored signal would be inherited.
    """
    for number in signal.valid_signals() - _NOT_IGNORED:
        with suppress(OSError, ValueError):  # the C library keeps two for itself
            signal.signal(number, lambda *_: None)
