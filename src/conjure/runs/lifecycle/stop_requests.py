"""Ending runs from outside: asking their supervisors, and, for a kill, seeing to it.

Main entry: `end_runs`. Invariant: the request is in the database before anything else happens, so it holds
whether or not the one who asked stays to see it; where nothing can be written, the supervisor is told by a
signal instead.
"""

import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from conjure.core.home import Home
from conjure.errors import ConjureError, StoreError
from conjure.runs.database.base import KILL, REASON_OF_REQUEST, Database
from conjure.runs.executors.base import Executor, SupervisorState
from conjure.runs.executors.cluster_executor import ClusterExecutor
from conjure.runs.executors.local import find_supervisor
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.host.process import KILL_SIGNAL, find_process, machine_id, send_signal
from conjure.runs.lifecycle.abandoned_runs import mark_interrupted, process_name
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.lifecycle.recovery import recover
from conjure.runs.scheduling.scheduler_start import close_queued, wake_scheduler
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.status import Ending, RunStatus

_LOOK_EVERY_S = 0.05
DEAF_AFTER_S = 10.0


def _wait_quietly(_waiting: Sequence[int]) -> None:
    pass


def end_runs(
    home: Home,
    numbers: Sequence[int],
    what: str,
    *,
    tick: Callable[[Sequence[int]], None] = _wait_quietly,
    executor: Executor | None = None,
) -> list[tuple[RunRecord, bool]]:
    """Ask runs to stop or be killed, and wait until those of this machine have ended.

    Of one that is stopped while it waits for its next attempt, what the one before made is saved here.

    Args:
        numbers: The runs.
        what: `base.STOP`, `base.PRUNE` or `base.KILL`.
        tick: Called again and again with the numbers that have not ended yet.
        executor: One beside this machine that may have some of the runs.

    Returns:
        Each run's record, and whether it had been going on.

    Raises:
        NotFoundError: One of them does not exist; then none is ended.
    """
    with open_store(home) as store:
        for number in numbers:
            store.get(number)
        going_on = {number: request_end(store, number, what) for number in dict.fromkeys(numbers)}
        if executor is not None:
            _end_before_start(store, [number for number, was in going_on.items() if was], what, executor)
        waiting = [number for number, was in going_on.items() if was and _is_here(home, store.get(number))]
        asked = time.monotonic()
        while waiting := [number for number in waiting if store.facts(number).ending is None]:
            tick(waiting)
            patience_is_over = time.monotonic() - asked > DEAF_AFTER_S
            for number in waiting:
                _wake(store.get(number), what, must_die=patience_is_over)
            time.sleep(_LOOK_EVERY_S)
            mark_interrupted(store, map(store.get, waiting))
        if what != KILL:
            _save_stopped(home, map(store.get, going_on))
        return [(store.get(number), was) for number, was in going_on.items()]


def request_end(store: Database, number: int, what: str) -> bool:
    """Ask a run's supervisor to end it; one that waits in the queue ends here and now.

    Args:
        store: Where the run is recorded.
        number: The run.
        what: `base.STOP`, `base.PRUNE` or `base.KILL`.

    Returns:
        False if it has ended already.
    """
    try:
        ending = Ending(REASON_OF_REQUEST[what])
        if cancel_queued(store, number, ending) or _cancel_submission(store, number, ending):
            return True
        return store.request_end(number, what)
    except StoreError:
        record = store.get(number)
        supervisor = find_supervisor(record.owner)
        if record.status.is_final or supervisor is None:
            raise
        send_signal(supervisor, KILL_SIGNAL if what == KILL else signal.SIGTERM)
        return True


def cancel_queued(store: Database, number: int, ending: Ending) -> bool:
    """End a run that waits in a queue; False if it does not, or not any more.

    Its machine need not be there: no supervisor can begin what has ended.
    """
    record = store.get(number)
    if not record.waits_in_queue or not close_queued(store, number, ending):
        return False
    if record.spec.on is not None:
        with suppress(ConjureError):  # a job that still comes finds nothing to do
            ClusterExecutor.named(store.home, record.spec.on).end(number)
    wake_scheduler(store.home)  # a later run may not have to wait behind it any more
    return True


def _cancel_submission(store: Database, number: int, ending: Ending) -> bool:
    """End a run that another machine submits, or began to before it went away; or one for a cluster.

    One of this machine's own goes on to its supervisor at once, which hears of the wish.
    """
    record = store.get(number)
    owner = record.owner
    if owner is None or owner.is_executor:
        return False
    is_for_here = record.spec.on is None and owner.machine == machine_id(store.home)
    return not is_for_here and store.cancel_submission(number, ending)


def _save_stopped(home: Home, records: Iterable[RunRecord]) -> None:
    """Save what earlier attempts made of runs that were stopped before the next one began."""
    for record in records:
        if record.status is RunStatus.STOPPED and record.is_unsaved:
            with suppress(ConjureError):  # it can be done again, and who shows the record says how
                recover(home, record.number)


def _end_before_start(store: Database, numbers: Sequence[int], what: str, executor: Executor) -> None:
    """End those of the runs that an executor has and whose supervisor it has not started."""
    for number in numbers:
        if store.get(number).owner != Owner.of_executor(executor.name):
            continue
        executor.end(number)
        if executor.state(number) is not SupervisorState.GONE:
            continue  # a supervisor that still comes finds the request
        with RunLock.possession(store.home.run_folder(number)) as nobody_has_it:
            if nobody_has_it and store.get(number).owner == Owner.of_executor(executor.name):
                store.end_run(number, Ending(REASON_OF_REQUEST[what]))


def _is_here(home: Home, record: RunRecord) -> bool:
    return record.owner is None or record.owner.machine == machine_id(home)


def _wake(record: RunRecord, what: str, *, must_die: bool) -> None:
    """See to a supervisor that cannot hear: it goes on, or for a kill is itself killed.

    Its guard then ends the run's processes; so a halted guard has to go on too. A program that still submits
    the run is let alone: what it hands the run to finds the request.
    """
    supervisor = find_supervisor(record.owner)
    if supervisor is None or supervisor.name != process_name(record.number):
        return
    guard = find_process(supervisor.parent)
    if guard is not None and guard.is_stopped and guard.name == process_name(record.number):
        send_signal(guard, signal.SIGCONT)
    if what == KILL and (must_die or supervisor.is_stopped):
        send_signal(supervisor, signal.SIGKILL)
    elif supervisor.is_stopped:
        send_signal(supervisor, signal.SIGCONT)
