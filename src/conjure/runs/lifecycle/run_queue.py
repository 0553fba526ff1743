"""The queue of a machine: runs that wait for resources, without a process of their own.

    submission, or a supervisor that finds no room ── enqueue ──→ queue ── scheduler_loop ──→ supervisor

Main entries: `enqueue`, `admit`, `close_queued`, `look_after_queue`, `wake_scheduler`. Invariant: a queued
run is a row and a request; whatever process is killed, the next one that looks finds both, and starts a
scheduler.
"""

import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from conjure.core.home import HOME_VARIABLE, Home
from conjure.errors import ConjureError, ExecutorError, StoreError
from conjure.reporting import OWN_VARIABLES
from conjure.runs.database.sqlite import Store
from conjure.runs.host.process import Process, boot_id, host_id, look_at, send_signal, this_process
from conjure.runs.lifecycle.scheduler import allocate
from conjure.runs.lifecycle.supervisor_request import SupervisorRequest
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from conjure.runs.telemetry.logs import LOG_FILE

WAKE_SIGNAL = signal.SIGUSR1
SCHEDULER_NAME = "conjure-queue"
_PRIVATE = 0o700


def this_queue() -> Owner:
    """The queue of this machine."""
    return Owner.queue(host_id(), boot_id())


def enqueue(home: Home, store: Store, number: int, request: SupervisorRequest) -> None:
    """Leave a run to this machine's queue; the caller possesses it, lets it go, and wakes the scheduler.

    Raises:
        ExecutorError: What its supervisor will need cannot be kept in memory.
        IllegalMoveError: The run is past that already.
    """
    (home.run_folder(number) / LOG_FILE).touch(mode=0o600)
    write_request(home, number, request)
    store.enqueue(number, this_queue())


def has_room(store: Store, number: int, request: SupervisorRequest) -> bool:
    """Whether a run may start now, as far as can be seen; its supervisor decides that again."""
    needs = request.spec.resources
    return not needs.asks or allocate(number, store.claims(), request.capacity) is not None


def admit(store: Store, number: int, request: SupervisorRequest) -> bool:
    """Let a run whose supervisor is this process go on to building, if there is room for it.

    Raises:
        IllegalMoveError: It has ended meanwhile.
    """
    if store.facts(number).status is RunStatus.REQUESTED:
        store.move(number, RunStatus.QUEUED)
    if not request.spec.resources.asks:
        store.set_facts(number, owner=this_process())
        store.move(number, RunStatus.BUILDING)
        return True
    return store.admit(
        number, lambda claims: allocate(number, claims, request.capacity), owner=this_process()
    )


def close_queued(store: Store, number: int, ending: Ending) -> bool:
    """Close a run if it is in a queue; False if it is not.

    Raises:
        StoreError: That cannot be written.
    """
    request = read_request(store.home, number)
    total_s = None if request is None else round(time.monotonic() - request.requested, 3)
    closed = store.close_queued(number, ending, total_s=total_s)
    if closed:
        remove_request(store.home, number)
    return closed


def look_after_queue(store: Store) -> None:
    """See to it that this machine's queue has a scheduler if runs wait in it, and that what is read is true.

    It never fails: who only looks must not be kept from it.
    """
    queued = store.queued(this_queue())
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


# ---- the scheduler's process -------------------------------------------------------------------------------


class SchedulerLock:
    """The right to start what waits in a home: held by one process, and taken back by the kernel."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take_if_free(cls, home: Home) -> "SchedulerLock | None":
        """The lock, or None if somebody holds it.

        Raises:
            OSError: It can be neither opened nor made.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(home.scheduler_lock, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return cls(descriptor)

    def write_holder(self) -> None:
        """Write down that this process holds it, so that it can be woken."""
        holder = this_process()
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, json.dumps({"pid": holder.pid, "started": holder.started}).encode(), 0)

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
    lock = SchedulerLock.take_if_free(home)
    if lock is None:
        return False
    variables = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}
    variables[HOME_VARIABLE] = str(home.root)
    module = "conjure.runs.lifecycle.scheduler_process"
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
    try:
        holder = json.loads(home.scheduler_lock.read_bytes())
        process = look_at(int(holder["pid"]))
        lives = process is not None and not process.is_zombie and process.started == holder["started"]
        return process if lives else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def scheduler_is_missing(home: Home) -> bool:
    """Whether a scheduler was killed, so that runs may wait that nobody starts."""
    return home.scheduler_lock.exists() and scheduler_of(home) is None


def is_scheduler(home: Home, process: Process) -> bool:
    """Whether a process is the home's scheduler: started from within a run, it outlives that."""
    return process.name == SCHEDULER_NAME and process == scheduler_of(home)


# ---- requests that wait ------------------------------------------------------------------------------------


def write_request(home: Home, number: int, request: SupervisorRequest) -> None:
    """Keep what the supervisor of a queued run will be given.

    Raises:
        ExecutorError: It cannot be kept.
    """
    folder = home.queued_requests
    try:
        _make_own(folder)
        new = folder / f".{number}.{os.getpid()}"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(request.to_json())
            new.replace(folder / f"{number}.json")
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:
        raise ExecutorError(f"a waiting run cannot be kept in {folder}: {error.strerror}") from error


def _make_own(folder: Path) -> None:
    """Make a folder that only its owner can use, or check that it is one: others may write beside it."""
    with suppress(FileExistsError):
        folder.mkdir(mode=_PRIVATE)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or stat.S_IMODE(facts.st_mode) & 0o077:
        raise PermissionError(1, "it is not a private folder of yours", str(folder))


def read_request(home: Home, number: int) -> SupervisorRequest | None:
    """What the supervisor of a queued run is to be given; None if it is gone."""
    try:
        return SupervisorRequest.from_json((home.queued_requests / f"{number}.json").read_bytes())
    except (OSError, ValueError, KeyError, TypeError, ConjureError):
        return None


def remove_request(home: Home, number: int) -> None:
    """Forget what was kept of a run that waits no more."""
    with suppress(OSError):
        (home.queued_requests / f"{number}.json").unlink()
    with suppress(OSError):
        home.queued_requests.rmdir()  # the last one
