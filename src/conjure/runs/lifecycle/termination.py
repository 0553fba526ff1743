"""Ending runs from outside: asking their supervisors, and, for a kill, seeing to it.

Main entry: `end_runs`. Invariant: the request is in the database before anything else happens, so it holds
whether or not the one who asked stays to see it.
"""

import signal
import time
from collections.abc import Callable, Sequence

from conjure.core.home import Home
from conjure.runs.database.sqlite import KILL, Store
from conjure.runs.host.process import boot_id, host_id, look_at, send_signal
from conjure.runs.lifecycle.ownership import mark_interrupted, open_store
from conjure.runs.schema.record import RunRecord

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
) -> list[tuple[RunRecord, bool]]:
    """Ask runs to stop or be killed, and wait until those of this machine have ended.

    Args:
        home: Where conjure keeps things.
        numbers: The runs.
        what: `store.STOP` or `store.KILL`.
        tick: Called again and again with the numbers that have not ended yet.

    Returns:
        Each run's record, and whether it had been going on.

    Raises:
        NotFoundError: One of them does not exist; then none is ended.
    """
    with open_store(home) as store:
        for number in numbers:
            store.get(number)
        going_on = {number: store.request_end(number, what) for number in dict.fromkeys(numbers)}
        waiting = [number for number, was in going_on.items() if was and _is_here(store.get(number))]
        asked = time.monotonic()
        while waiting := [number for number in waiting if store.facts(number).ending is None]:
            tick(waiting)
            time.sleep(_LOOK_EVERY_S)
            mark_interrupted(store, map(store.get, waiting), must=True)
            if what == KILL and time.monotonic() - asked > DEAF_AFTER_S:
                _kill_supervisors(store, waiting)
        return [(store.get(number), was) for number, was in going_on.items()]


def _is_here(record: RunRecord) -> bool:
    return record.owner is None or record.owner.host_id == host_id()


def _kill_supervisors(store: Store, numbers: Sequence[int]) -> None:
    """A supervisor that does not hear is killed itself; its guard then ends the run's processes."""
    for number in numbers:
        owner = store.get(number).owner
        if owner is None or (owner.host_id, owner.boot_id) != (host_id(), boot_id()):
            continue
        process = look_at(owner.pid)
        if process is not None and process.started == owner.started:
            send_signal(process, signal.SIGKILL)
