"""The process that starts queued runs, as others see it: started where it is missing, woken, told apart.

Main entries: `ensure_scheduler`, `start_scheduler`, `wake_scheduler`, `close_queued`. Invariant: at most one
lives in a home; runs that wait without one are found by the next command, and by the next supervisor to end.
"""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from conjure.core.config import read_executors
from conjure.core.files import lock_or_close
from conjure.core.home import HOME_VARIABLE, Home
from conjure.errors import ConjureError, StoreError
from conjure.metric_logging import OWN_VARIABLES
from conjure.runs.database.base import Database
from conjure.runs.database.open_database import shared_address
from conjure.runs.host.process import (
    Process,
    boot_id,
    end_all,
    find_process,
    host_id,
    machine_id,
    send_signal,
)
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.status import Ending, EndReason, RunStatus

WAKE_SIGNAL = signal.SIGUSR1
# Of processes: Linux keeps 15 characters, and who is told from others by name must be known by all of it.
SCHEDULER_NAME = "conjure-queue"
DISPATCHER_NAME = "conjure-cluster"


def this_queue(home: Home) -> Owner:
    """The queue of this machine, for the runs of a home."""
    return Owner.queue(machine_id(home), boot_id())


def lock_path(home: Home) -> Path:
    """The file that a scheduler holds: where machines share a home, each has one of its own."""
    if shared_address(home) is None:
        return home.scheduler_lock
    return home.scheduler_lock.with_name(f"scheduler-{host_id()}.lock")


def dispatcher_lock_path(home: Home) -> Path:
    """The file that this machine's dispatcher holds, which hands runs to clusters."""
    return home.scheduler_lock.with_name(f"dispatcher-{host_id()}.lock")


class SchedulerLock:
    """The right to start what waits in a home: held by one process, and taken back by the kernel."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take_if_free(cls, home: Home, path: Path | None = None) -> "SchedulerLock | None":
        """The lock, or None if somebody holds it.

        Args:
            path: Of the lock; the scheduler's if None.

        Raises:
            OSError: It can be neither opened nor made.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path if path is not None else lock_path(home), flags, 0o600)
        return cls(descriptor) if lock_or_close(descriptor) else None

    def write_holder(self) -> None:
        """Write down that this process holds it, so that it can be woken."""
        holder = find_process(os.getpid())
        written = {"pid": os.getpid(), "started": holder.started if holder is not None else ""}
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, json.dumps(written).encode(), 0)

    def release(self) -> None:
        """Let go; a process that was given the same lock still has it."""
        os.close(self.descriptor)


def start_scheduler(home: Home) -> bool:
    """Start a scheduler unless there is one.

    Returns:
        Whether one was started.

    Raises:
        OSError: It cannot be started.
    """
    return _start(home, SchedulerLock.take_if_free(home), "conjure.runs.lifecycle.scheduler_process")


def start_dispatcher(home: Home) -> bool:
    """Start a dispatcher unless this machine has one.

    Returns:
        Whether one was started.

    Raises:
        OSError: It cannot be started.
    """
    lock = SchedulerLock.take_if_free(home, dispatcher_lock_path(home))
    return _start(home, lock, "conjure.runs.lifecycle.dispatcher")


def _start(home: Home, lock: SchedulerLock | None, module: str) -> bool:
    if lock is None:
        return False
    variables = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}
    variables[HOME_VARIABLE] = str(home.root)
    import subprocess  # milliseconds that only who starts one need pay

    try:
        with home.scheduler_log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(lock.descriptor)],
                env=variables,
                cwd=home.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock.descriptor,),
                start_new_session=True,
            )
        process.wait()  # it leaves a child behind at once
    finally:
        lock.release()
    return True


def wake_scheduler(home: Home) -> None:
    """Have the scheduler look at the queue now, if there is one."""
    process = scheduler_of(home)
    if process is not None:
        send_signal(process, WAKE_SIGNAL)


def scheduler_of(home: Home) -> Process | None:
    """The living scheduler of a home, or None."""
    return _holder(lock_path(home))


def _holder(path: Path) -> Process | None:
    try:
        holder = json.loads(path.read_bytes())
        process = find_process(int(holder["pid"]))
        lives = process is not None and not process.is_zombie and process.started == holder["started"]
        return process if lives else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def end_scheduler(home: Home) -> None:
    """End the scheduler of a home, if there is one: nothing is lost, and the next one goes on."""
    process = scheduler_of(home)
    end_all(lambda: [] if process is None or scheduler_of(home) != process else [process])


def scheduler_is_missing(home: Home) -> bool:
    """Whether runs may wait that nobody starts: the scheduler was killed, or there was none before them."""
    may_wait = lock_path(home).exists() or home.queued_requests.exists()
    return may_wait and scheduler_of(home) is None


def is_scheduler(home: Home, process: Process) -> bool:
    """Whether a process is the home's scheduler or dispatcher; both outlive the run that starts them."""
    if process.name == DISPATCHER_NAME:
        return process == _holder(dispatcher_lock_path(home))
    return process.name == SCHEDULER_NAME and process == scheduler_of(home)


def close_queued(store: Database, number: int, ending: Ending) -> bool:
    """Close a run if it is in a queue; False if it is not.

    Raises:
        StoreError: That cannot be written.
    """
    closed = store.end_queued_run(number, ending, total_s=_seconds_since_request(store.home, number))
    if closed:
        remove_request(store.home, number)
    return closed


def dependency_failed(number: int, status: RunStatus | None) -> Ending:
    """The end of a run that waited for another one, which did not complete.

    Args:
        number: The other run.
        status: How it ended; None where there is no record of it any more.
    """
    how = "no longer exists" if status is None else _HOW_ENDED.get(status, "failed")
    return Ending(EndReason.DEPENDENCY_FAILED, message=f"run {number} {how}")


_HOW_ENDED = {
    RunStatus.STOPPED: "was stopped",
    RunStatus.KILLED: "was killed",
    RunStatus.INTERRUPTED: "was interrupted",
}


def ensure_scheduler(store: Database) -> None:
    """See to it that this machine's queue has a scheduler if runs wait in it, and that what is read is true.

    It never fails: who only looks must not be kept from it.
    """
    queued = store.queued(this_queue(store.home))
    for number in [number for number, same_boot in queued.items() if not same_boot]:
        ending = Ending(
            EndReason.MACHINE_RESTARTED, message="the machine was restarted while the run was queued"
        )
        try:
            close_queued(store, number, ending)
        except StoreError:
            store.presume_ended(number, ending)
    if any(queued.values()):
        with suppress(ConjureError, OSError):
            start_scheduler(store.home)
    if store.is_shared and store.home.config_file.exists():
        _ensure_dispatcher(store)


def _ensure_dispatcher(store: Database) -> None:
    """See to it that a dispatcher is there if there are active runs on clusters that this machine knows."""
    try:
        known = read_executors(store.home)
        if known and any(record.spec.on in known for record in store.active()):
            start_dispatcher(store.home)
    except (ConjureError, OSError):
        return


def remove_request(home: Home, number: int) -> None:
    """Forget what was kept of a run that waits no more."""
    with suppress(OSError):
        home.queued_request(number).unlink()
    with suppress(OSError):
        home.queued_requests.rmdir()  # the last one


def _seconds_since_request(home: Home, number: int) -> float | None:
    try:
        requested = json.loads(home.queued_request(number).read_bytes())["requested"]
        return round(time.monotonic() - requested, 3)
    except (OSError, ValueError, KeyError, TypeError):
        return None
