"""Telling the database, again and again, that a run's supervisor lives; and what others conclude from it.

Main entries: `Heartbeat`, `when_reachable`, `is_unreachable`, `is_abandoned`. Invariant: a supervisor that
learns that another one has its run ends what it started and writes nothing more; one that merely cannot reach
the database goes on, for as long as nobody can have taken its run.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from conjure.core.config import HEARTBEAT_EVERY_S
from conjure.errors import StoreError
from conjure.runs.database.base import Database, DatabaseAwayError, Lease
from conjure.runs.host.process import host_id

# After how many heartbeats that did not come. In a database that is shared, first a supervisor that reaches
# it no more gives up, by its own clock, which does not jump; then others may close its run, by the clock of
# the database.
UNREACHABLE_AFTER = 3
LOST_AFTER = 6  # where a cluster says that its job is over, too
GIVE_UP_AFTER = 120
TAKE_OVER_AFTER = 180
# How often a supervisor asks a shared database, from one heartbeat to the next, whether its run is to end. Of
# all that supervisors ask, it is the most.
_LOOKS = 10
_TRY_EVERY_S = 1.0
_Result = TypeVar("_Result")


@dataclass(slots=True)
class Heartbeat:
    """The heartbeat of one supervisor: `beat` is called wherever it looks for a wish to end its run.

    Attributes:
        number: The run.
        attempt: Which of the run's supervisors this is.
        is_shared: Whether other machines use the database too, and may take the run over.
        timer: Seconds, by a clock that does not jump.
        superseded: Whether another supervisor has the run now, or may have it.
        interval_s: Seconds from one heartbeat to the next.
    """

    number: int
    attempt: int
    is_shared: bool = False
    timer: Callable[[], float] = time.monotonic
    superseded: bool = False
    interval_s: float = HEARTBEAT_EVERY_S
    _next_s: float = 0.0
    _reached_s: float | None = None

    @property
    def give_up_after_s(self) -> float:
        """How long a database or an object store that is away is waited for."""
        return GIVE_UP_AFTER * self.interval_s

    @property
    def look_every_s(self) -> float:
        """How often a supervisor looks for a wish to end its run: where others use the database, seldom."""
        return self.interval_s / _LOOKS if self.is_shared else 0.0

    def beat(self, store: Database | None) -> None:
        """Renew the lease if it is time to; None is a database that cannot be reached."""
        now = self.timer()
        if self.superseded or now < self._next_s:
            return
        self._next_s = now + self.interval_s
        if self._reached_s is None:
            self._reached_s = now
        renewed = self._renew(store)
        if renewed is None:
            self.superseded = self.is_shared and now - self._reached_s > self.give_up_after_s
        else:
            self._reached_s = now
            self.superseded = not renewed

    def _renew(self, store: Database | None) -> bool | None:
        """Whether the run is still ours; None where that cannot be asked now."""
        try:
            return None if store is None else store.renew_lease(self.number, self.attempt)
        except StoreError:  # a full disk, or a server that is away; it is tried again
            return None


def when_reachable(
    act: Callable[[], _Result], patience_s: float, meanwhile: Callable[[], object] = lambda: None
) -> _Result:
    """Do something with a database, again while its server is away.

    Args:
        act: What to do; it may be done again although it had been done when the server went away.
        patience_s: How long to try.
        meanwhile: Called before each further try; may raise to end it.

    Raises:
        DatabaseAwayError: It was away for too long.
    """
    until = time.monotonic() + patience_s
    while True:
        try:
            return act()
        except DatabaseAwayError:
            if time.monotonic() > until:
                raise
        time.sleep(_TRY_EVERY_S)
        meanwhile()


def is_unreachable(lease: Lease) -> bool:
    """Whether a run's supervisor is on another machine and was not heard of for three heartbeats.

    Of this machine's own, their locks tell more.
    """
    return lease.machine != host_id() and is_silent(lease, UNREACHABLE_AFTER)


def is_abandoned(lease: Lease) -> bool:
    """Whether a run's supervisor must have given up, wherever it is."""
    return is_silent(lease, TAKE_OVER_AFTER)


def is_silent(lease: Lease, heartbeats: int) -> bool:
    """Whether a run's supervisor was not heard of for longer than so many heartbeats."""
    return lease.heartbeat_age_s > heartbeats * lease.interval_s
