"""The process that hands runs to clusters, and misses those that are lost there; there while some are active.

Main entry: `main` (``python -m conjure.runs.lifecycle.dispatcher LOCK``); `scheduler_start` starts it.
Invariant: it ends a run only where the cluster says that its job is over and its supervisor has been silent,
too; a cluster that does not answer ends nothing.
"""

import os
import signal
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from conjure.core.home import Home
from conjure.errors import ExecutorError, StoreError, UsageError
from conjure.runs.database.base import REASON_OF_REQUEST, Database, SupersededError
from conjure.runs.database.open_database import open_database
from conjure.runs.executors.base import SupervisorState
from conjure.runs.executors.cluster import LimitReachedError, UnreachableError
from conjure.runs.executors.cluster_executor import ClusterExecutor, executors_of
from conjure.runs.host.cgroup import leave_cgroup
from conjure.runs.host.process import this_process
from conjure.runs.host.process_control import set_name
from conjure.runs.lifecycle.abandoned_runs import mark_interrupted
from conjure.runs.lifecycle.heartbeat import LOST_AFTER, is_silent
from conjure.runs.scheduling.scheduler_start import (
    DISPATCHER_NAME,
    SchedulerLock,
    close_queued,
    dependency_failed,
    dispatcher_lock_path,
)
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.status import Ending, EndReason, IllegalMoveError, RunStatus

_AGAIN_AFTER_S = 10.0
_REFUSED_FOR_S = 300.0  # a controller that restarts refuses jobs for a while


def main() -> None:
    """Leave the caller behind, and look after the runs on clusters."""
    lock = SchedulerLock(int(sys.argv[1]))
    if os.fork():
        os._exit(0)  # the caller waits for this alone
    leave_cgroup()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    set_name(DISPATCHER_NAME)
    lock.write_holder()
    dispatch(Home.from_environment(), lock)


def dispatch(home: Home, lock: SchedulerLock | None) -> None:
    """Look after the runs on clusters until there are none.

    Args:
        lock: This machine's right to have a dispatcher.
    """
    refusals = Refusals()
    with open_database(home, must_exist=True) as store:
        while lock is not None:
            while home.database.exists() and _look(store, refusals):
                pass
            lock.release()
            # Who submitted a run just now may have met the lock.
            is_wanted = _look(store, refusals)
            lock = SchedulerLock.take_if_free(home, dispatcher_lock_path(home)) if is_wanted else None
            if lock is not None:
                lock.write_holder()


class Refusals:
    """Since when clusters have refused the jobs of runs, look after look."""

    def __init__(self) -> None:
        self._since: dict[str, dict[int, float]] = {}
        self._too_large: dict[str, set[int]] = {}

    def note(self, executor: str, refused: Mapping[int, ExecutorError]) -> list[int]:
        """Note what was refused at a look; those that have been for so long that it is no use.

        A limit of the account's says nothing against a run: it waits until others have ended.
        """
        now, before = time.monotonic(), self._since.get(executor, {})
        for number in refused.keys() - before.keys():
            sys.stderr.write(f"run {number}: {refused[number]}\n")
        self._since[executor] = {number: before.get(number, now) for number in refused}
        return [
            number
            for number, since in self._since[executor].items()
            if now - since >= _REFUSED_FOR_S and not isinstance(refused[number], LimitReachedError)
        ]

    def note_too_large(self, executor: str, numbers: Collection[int]) -> None:
        """Tell, once, of runs that wait for nodes which are not there."""
        for number in sorted({*numbers} - self._too_large.get(executor, set())):
            sys.stderr.write(
                f"run {number}: executor {executor} has too few nodes of its size now; it waits\n"
            )
        self._too_large[executor] = {*numbers}


def _look(store: Database, refusals: Refusals) -> bool:
    """Look, and wait a moment; whether there are runs on clusters."""
    try:
        found = poll_clusters(store, executors_of(store.home), refusals)
    except StoreError as error:
        sys.stderr.write(f"{error}\n")  # its server is away: it is tried again
        time.sleep(_AGAIN_AFTER_S)
        return True
    if found is not None:
        time.sleep(found)
    return found is not None


def poll_clusters(
    store: Database, executors: list[ClusterExecutor], refusals: Refusals | None = None
) -> float | None:
    """Look once at the runs on some clusters.

    Args:
        store: Where the runs are recorded.
        executors: The clusters.
        refusals: What was refused at earlier looks.

    Returns:
        When to look again, in seconds, or None if there are none.
    """
    if not executors:
        return None
    active = store.active()
    intervals = []
    for executor in executors:
        own = [record for record in active if record.spec.on == executor.name]
        if own:
            intervals.append(executor.cluster.look_every_s)
            with _tried_again():
                mark_interrupted(store, own, lost=_lost(store, executor, own))
            with _tried_again():
                _serve_queue(store, executor, refusals if refusals is not None else Refusals())
    return min(intervals, default=None)


@contextmanager
def _tried_again() -> Iterator[None]:
    """A block that ends where a cluster does not answer, or refuses: that says nothing about its runs."""
    try:
        yield
    except UnreachableError:
        return
    except (ExecutorError, UsageError) as error:
        sys.stderr.write(f"{error}\n")


def _serve_queue(store: Database, executor: ClusterExecutor, refusals: Refusals) -> None:
    """Hand over what waits for the cluster, and end what is to end before it was, or cannot be."""
    _end_queued(store, executor)
    failed = executor.submit_waiting(store)
    for number in failed.hopeless:
        _give_up(store, number, executor.why_hopeless(number, store.newest_attempt(number) + 1))
    refusals.note_too_large(executor.name, failed.too_large)
    for number in refusals.note(executor.name, failed.refused):
        _give_up(store, number, str(failed.refused[number]))


def _end_queued(store: Database, executor: ClusterExecutor) -> None:
    """End those that wait for the cluster and are to end, or wait for a run that did not complete."""
    for claim in store.claims():
        if not claim.in_queue or claim.machine != executor.queue.machine:
            continue
        if claim.end_request is not None:
            close_queued(store, claim.number, Ending(REASON_OF_REQUEST[claim.end_request]))
            executor.end(claim.number)
        elif claim.failed is not None:
            close_queued(store, claim.number, dependency_failed(*claim.failed))


def _give_up(store: Database, number: int, message: str) -> None:
    """End a run whose supervisor cannot be started there; a job that still comes is too late."""
    attempt = store.newest_attempt(number) + 1
    try:
        store.begin_attempt(number, this_process(), expected=attempt)
        store.move(number, RunStatus.BUILDING)
        store.end_run(number, Ending(EndReason.BUILD_FAILED, message=message))
    except (IllegalMoveError, SupersededError):
        return  # one of the jobs has claimed it after all


def _lost(store: Database, executor: ClusterExecutor, own: list[RunRecord]) -> set[int]:
    """Runs whose supervisors are silent and whose jobs the cluster says are over."""
    leases = store.leases()
    silent = [
        record.number
        for record in own
        if record.number in leases and is_silent(leases[record.number], LOST_AFTER)
    ]
    return {number for number in silent if executor.state(number) is SupervisorState.GONE}


if __name__ == "__main__":
    main()
