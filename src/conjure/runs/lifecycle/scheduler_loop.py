"""What the scheduler does: look which queued runs have room, start their supervisors, and wait.

Main entry: `serve_queue`. Invariant: whether a run is let in, its supervisor decides, in one transaction; so
a scheduler that is killed at any moment loses nothing. No database is open while a process is forked.
"""

import os
import signal
import time
import traceback
from contextlib import suppress
from typing import NoReturn

from conjure.core.home import Home
from conjure.errors import ConjureError, StoreError
from conjure.runs.database.base import REASON_OF_REQUEST, Database
from conjure.runs.database.migrations import NewerSchemaError
from conjure.runs.database.open_database import open_database
from conjure.runs.executors.local import LocalExecutor
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.executors.supervisor_request import Program, SupervisorRequest
from conjure.runs.host.capacity import Capacity
from conjure.runs.host.process import machine_id, reap_children
from conjure.runs.lifecycle.abandoned_runs import mark_abandoned
from conjure.runs.lifecycle.supervisor import become_supervisor
from conjure.runs.scheduling.run_queue import numbers_of_requests, read_request
from conjure.runs.scheduling.scheduler import startable
from conjure.runs.scheduling.scheduler_start import (
    WAKE_SIGNAL,
    SchedulerLock,
    close_queued,
    dependency_failed,
    ensure_scheduler,
    remove_request,
    this_queue,
)
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import Ending, EndReason

_LOOK_EVERY_S = 5.0
_LOOK_UNASKED_EVERY_S = 0.5  # where nobody can wake us
_MOST_TRIES = 5


def serve_queue(lock: SchedulerLock) -> NoReturn:
    """Start what waits until nothing does.

    Args:
        lock: The home's, held by this process, which has the signals that wake it blocked.
    """
    status = 1
    try:
        _Scheduler(Home.from_environment(), lock).run()
        status = 0
    except BaseException:  # noqa: BLE001 - the edge of the process: what waits is found by the next command
        traceback.print_exc()
    finally:
        os._exit(status)


class _Scheduler:
    """One scheduler's life.

    Args:
        lock: Its right to be.
    """

    def __init__(self, home: Home, lock: SchedulerLock) -> None:
        self._home = home
        self._lock: SchedulerLock | None = lock
        self._requests: dict[int, SupervisorRequest] = {}
        self._tries: dict[int, tuple[float | None, int]] = {}  # of its attempt, known by when it may start
        self._longest_wait_s = _LOOK_EVERY_S
        self._program = Program.of_this_process()

    def run(self) -> None:
        """Look at the queue again and again: when woken, when a child has ended, and now and then."""
        while self._lock is not None:
            while self._home.database.exists() and self._look():
                _wait_for_signal(self._longest_wait_s)
                reap_children()
            self._lock.release()
            # Who put a run there just now may have met the lock.
            self._lock = SchedulerLock.take_if_free(self._home) if self._anything_waits() else None
            if self._lock is not None:
                self._lock.write_holder()
        _remove_traces(self._home)

    def _anything_waits(self) -> bool:
        if not self._home.database.exists():
            return False
        with open_database(self._home, must_exist=True) as store:
            return bool(store.queued(this_queue(self._home)))

    def _look(self) -> bool:
        """Start what can start; whether anything is left that waits."""
        try:
            with open_database(self._home, must_exist=True) as store:
                mark_abandoned(store)
                ensure_scheduler(store)
                queued = store.queued(this_queue(self._home))
                self._forget_all_but(queued)
                self._remove_requests_of_ended(store, queued)
                ready = self._ready(store)
        except NewerSchemaError:
            raise  # conjure was replaced: what waits is for the scheduler that the new one starts
        except StoreError:
            traceback.print_exc()  # a full disk, for one: it is tried again
            return self._home.database.exists()
        for number in ready:
            self._start(number)
        return bool(queued)

    def _remove_requests_of_ended(self, store: Database, queued: dict[int, bool]) -> None:
        """Keep no secrets of runs that another machine of a team has ended."""
        kept = numbers_of_requests(self._home) - queued.keys()
        for number in kept - store.active_numbers() if kept else ():
            remove_request(self._home, number)

    def _forget_all_but(self, queued: dict[int, bool]) -> None:
        for known in (self._requests, self._tries):
            for number in [number for number in known if number not in queued]:
                del known[number]

    def _ready(self, store: Database) -> list[int]:
        """The runs to start now; those that cannot be started any more are closed."""
        claims = store.claims()
        for claim in claims:
            if claim.in_queue and claim.machine == machine_id(self._home):
                self._keep_request(store, claim.number)
                if self._tries.get(claim.number, (None, 0))[0] != claim.retry_at:
                    self._tries[claim.number] = (claim.retry_at, 0)
                if claim.end_request is not None:
                    close_queued(store, claim.number, Ending(REASON_OF_REQUEST[claim.end_request]))
                elif claim.failed is not None:
                    close_queued(store, claim.number, dependency_failed(*claim.failed))
        known = [claim for claim in claims if not claim.in_queue or claim.number in self._requests]
        delays = [claim.delay_s for claim in known if claim.in_queue and claim.delay_s]
        self._longest_wait_s = min([_LOOK_EVERY_S, *delays])
        return startable(known, machine_id(self._home), self._capacity)

    def _keep_request(self, store: Database, number: int) -> None:
        """Hold what its supervisor will need: a session that ends may take what is in memory files."""
        if number in self._requests:
            return
        request = read_request(self._home, number)
        if request is not None:
            self._requests[number] = request
            return
        message = "its variables and settings were lost from memory"
        close_queued(store, number, Ending(EndReason.SUPERVISOR_DIED, message=message))

    def _capacity(self, number: int) -> Capacity:
        return self._requests[number].capacity

    def _start(self, number: int) -> None:
        """Start a run's supervisor, unless one is on its way already."""
        lock = RunLock.take_if_free(self._home.run_folder(number))
        if lock is None:
            return
        try:
            retry_at, tries = self._tries.get(number, (None, 0))
            self._tries[number] = (retry_at, tries + 1)
            if lock.descriptor is None or tries >= _MOST_TRIES:
                self._give_up(number)
            elif self._requests[number].program == self._program:
                self._fork_supervisor(number, lock)
            else:
                self._launch_supervisor(number, lock)
        finally:
            lock.release()

    def _give_up(self, number: int) -> None:
        where = RunFolder.of(self._home, number).supervisor_log
        ending = Ending(EndReason.SUPERVISOR_DIED, message=f"its supervisor could not start; see {where}")
        with open_database(self._home, must_exist=True) as store:
            close_queued(store, number, ending)

    def _fork_supervisor(self, number: int, lock: RunLock) -> None:
        """Have a copy of this process, which has all that a supervisor imports, supervise the run."""
        if os.fork():
            return
        try:
            assert self._lock is not None
            self._lock.release()
            become_supervisor(self._home, number, lock, self._requests[number])
        finally:
            os._exit(1)

    def _launch_supervisor(self, number: int, lock: RunLock) -> None:
        """Have the conjure that the run was submitted with supervise it."""
        request = self._requests[number]
        try:
            with LocalExecutor(self._home).prepare(number, lock, request) as start:
                start()
        except ConjureError:
            traceback.print_exc()


def _wait_for_signal(longest_s: float) -> None:
    """Wait until woken, or a child ended, or it is time to look all the same."""
    if hasattr(signal, "sigtimedwait"):
        signal.sigtimedwait({WAKE_SIGNAL, signal.SIGCHLD}, longest_s)
    else:
        time.sleep(min(_LOOK_UNASKED_EVERY_S, longest_s))


def _remove_traces(home: Home) -> None:
    """Leave no log in which nothing stands."""
    with suppress(OSError):
        if home.scheduler_log.stat().st_size == 0:
            home.scheduler_log.unlink()
