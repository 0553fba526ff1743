"""Telling the database, again and again, that a run's supervisor lives; and what others conclude from it.

Main entries: `Heartbeat`, `is_unreachable`. Invariant: a supervisor that learns that another one has its run
ends what it started and writes nothing more; one that merely cannot reach the database goes on.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from conjure.errors import StoreError
from conjure.runs.database.base import Database, Lease
from conjure.runs.host.process import host_id

HEARTBEAT_EVERY_S = 5.0
UNREACHABLE_AFTER_S = 3 * HEARTBEAT_EVERY_S


@dataclass(slots=True)
class Heartbeat:
    """The heartbeat of one supervisor: `beat` is called wherever it looks for a wish to end its run.

    Attributes:
        number: The run.
        attempt: Which of the run's supervisors this is.
        timer: Seconds, by a clock that does not jump.
        superseded: Whether another supervisor has the run now.
    """

    number: int
    attempt: int
    timer: Callable[[], float] = time.monotonic
    superseded: bool = False
    _next_s: float = 0.0

    def beat(self, store: Database) -> None:
        """Renew the lease if it is time to."""
        now = self.timer()
        if self.superseded or now < self._next_s:
            return
        self._next_s = now + HEARTBEAT_EVERY_S
        with suppress(StoreError):  # a full disk, or the home is gone; it is tried again
            self.superseded = not store.renew_lease(self.number, self.attempt)


def is_unreachable(lease: Lease) -> bool:
    """Whether a run's supervisor is on another machine and was not heard of for three heartbeats.

    Of this machine's own, their locks tell more.
    """
    return lease.machine != host_id() and lease.heartbeat_age_s > UNREACHABLE_AFTER_S
