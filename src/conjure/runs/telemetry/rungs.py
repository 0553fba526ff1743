"""The rungs of a metric: its values at steps that double, by which a sweep compares trials as they run.

Main entry: `RungLadder`. Invariant: the value at a rung is the first one at its step or later, and before the
step of the next rung; a rung between whose steps nothing was reported has none.
"""


class RungLadder:
    """Rungs at steps 1, 2, 4, 8 and so on.

    Args:
        metric: The metric that climbs it.
    """

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self._next = 1

    def reached(self, name: str, step: int) -> int | None:
        """The rung that a point of a metric reaches: none for another metric, or one that has been reached.

        The rungs below it are passed over: trials that report rarely would stand there with a value of a
        later step, beside others that report often.
        """
        if name != self.metric or step < self._next:
            return None
        rung = 1 << (step.bit_length() - 1)
        self._next = 2 * rung
        return rung
