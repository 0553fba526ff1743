"""The rungs of a metric: its values at steps that double, by which a sweep compares trials as they run.

Main entry: `RungLadder`. Invariant: each rung is reached once, with the first value at its step or later.
"""

from collections.abc import Iterator


class RungLadder:
    """Rungs at steps 1, 2, 4, 8 and so on.

    Args:
        metric: The metric that climbs it.
    """

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self._next = 1

    def reached(self, name: str, step: int) -> Iterator[int]:
        """The rungs that a point of a metric reaches: none for another metric, or between two rungs."""
        while name == self.metric and step >= self._next:
            yield self._next
            self._next *= 2
