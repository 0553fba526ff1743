"""What a process of a training tells its supervisor, from which that knows work from a hang.

Main entry: `ProgressReports`. Invariant: limits are strict only for work of a kind that this process has done
before; the first time, and whenever files are written, nobody knows how long it takes.
"""

import math
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from conjure.rank_protocol import Activity, ProgressReporter

# A step computes or reads memory. What sleeps in it, without even waiting for a disk, waits for something
# that does not come.
_IDLE_S = 5.0
# The first time, a process may wait while another one compiles; and a file system in user space or on the
# network can let a write sleep for long.
_UNFAMILIAR_IDLE_S = 120.0
_SLOWDOWN = 10  # times the longest work of the same kind
_LEAST_CPU_S = 8.0


class ProgressReports:
    """Reports of one process; see `conjure.rank_protocol`.

    Args:
        reporter: Where they go.
    """

    def __init__(self, reporter: ProgressReporter) -> None:
        self._reporter = reporter
        self._longest_s: dict[Hashable, float] = {}
        self._activity = Activity.UNKNOWN
        self._idle_limit_s = self._cpu_limit_s = math.inf

    @contextmanager
    def working(self, kind: Hashable) -> Iterator[None]:
        """Work that the others may wait for: `kind` tells what takes equally long each time."""
        started_s = time.process_time()
        longest_s = self._longest_s.get(kind)
        if longest_s is None:
            self._work(_UNFAMILIAR_IDLE_S)
        else:
            self._work(_IDLE_S, started_s + max(_LEAST_CPU_S, _SLOWDOWN * longest_s))
        try:
            yield
        finally:
            self._work(_UNFAMILIAR_IDLE_S)
        self._longest_s[kind] = max(longest_s or 0.0, time.process_time() - started_s)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The other processes have to do something."""
        self._reporter.report(Activity.WAITING)
        try:
            yield
        finally:
            self._report()

    def end(self) -> None:
        """Nobody waits for this process any more."""
        self._activity, self._idle_limit_s, self._cpu_limit_s = Activity.UNKNOWN, math.inf, math.inf
        self._report()

    def _work(self, idle_limit_s: float, cpu_limit_s: float = math.inf) -> None:
        self._activity, self._idle_limit_s, self._cpu_limit_s = Activity.WORKING, idle_limit_s, cpu_limit_s
        self._report()

    def _report(self) -> None:
        self._reporter.report(self._activity, idle_limit_s=self._idle_limit_s, cpu_limit_s=self._cpu_limit_s)
