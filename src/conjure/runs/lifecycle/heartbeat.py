"""Telling the database, again and again, that a run's supervisor lives; and what others conclude from it.

Main entries: `Heartbeat`, `is_unreachable`. Invariant: a supervisor that learns that another one has its run
ends what it started and writes nothing more; one that merely cannot reach the database goes on, for as long
as nobody can have taken its run.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from conjure.errors import StoreError
from conjure.runs.database.base import Database, Lease
from conjure.runs.host.process import host_id

HEARTBEAT_EVERY_S = 5.0
UNREACHABLE_AFTER_S = 3 * HEARTBEAT_EVERY_S
# In a database that is shared: first a supervisor that reaches it no more gives up, by its own clock, which
# does not jump; then others may close its run, by the clock of the database.
GIVE_UP_AFTER_S = 120 * HEARTBEAT_EVERY_S
TAKE_OVER_AFTER_S = 180 * HEARTBEAT_EVERY_S


@dataclass(slots=True)
class Heartbeat:
    """The heartbeat of one supervisor: `beat` is called wherever it looks for a wish to end its run.

    Attributes:
        number: The run.
        attempt: Which of the run's supervisors this is.
        is_shared: Whether other machines use the database too, and may take the run over.
        timer: Seconds, by a clock that does not jump.
        superseded: Whether another supervisor has the run now, or may have it.
    """

    number: int
    attempt: int
    is_shared: bool = False
    timer: Callable[[], float] = time.monotonic
    superseded: bool = False
    _next_s: float = 0.0
    _reached_s: float | None = None

    def beat(self, store: Database | None) -> None:
        """Renew the lease if it is time to; None is a database that cannot be reached."""
        now = self.timer()
        if self.superseded or now < self._next_s:
            return
        self._next_s = now + HEARTBEAT_EVERY_S
        if self._reached_s is None:
            self._reached_s = now
        renewed = self._renew(store)
        if renewed is None:
            self.superseded = self.is_shared and now - self._reached_s > GIVE_UP_AFTER_S
        else:
            self._reached_s = now
            self.superseded = not renewed

    def _renew(self, store: Database | None) -> bool | None:
        """Whether the run is still ours; None where that cannot be asked now."""
        try:
            return None if store is None else store.renew_lease(self.number, self.attempt)
        except StoreError:  # a full disk, or a server that is away; it is tried again
            return None


def is_unreachable(lease: Lease) -> bool:
    """Whether a run's supervisor is on another machine and was not heard of for three heartbeats.

    Of this machine's own, their locks tell more.
    """
    return lease.machine != host_id() and lease.heartbeat_age_s > UNREACHABLE_AFTER_S
