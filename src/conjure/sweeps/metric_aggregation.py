"""What a trial's run came to: its metric as one number.

Main entry: `aggregate`. Invariant: a value that is no number is told from one that was never reported: the
first has a step.
"""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from conjure.runs.telemetry.metrics import read_all_points
from conjure.sweeps.request import Aggregation


def aggregate(folder: Path, metric: str, how: Aggregation) -> tuple[float | None, int | None]:
    """A run's metric as one number, with its step.

    Args:
        folder: The run's folder.
        metric: The metric's name.
        how: Which of its values counts.

    Returns:
        Value and step: no value if it is NaN or infinite, and neither if the metric was not reported.
    """
    found = list(read_all_points(folder, [metric]))
    if not found:
        return None, None
    last = found[-1]
    if how == "last":
        return (last.value if math.isfinite(last.value) else None), last.step
    finite = [point for point in found if math.isfinite(point.value)]
    if not finite:
        return None, last.step
    if how == "mean":
        return mean([point.value for point in finite]), last.step
    extreme = (min if how == "min" else max)(finite, key=lambda point: point.value)
    return extreme.value, extreme.step


def mean(values: Sequence[float]) -> float:
    """The mean of finite values, one or more, also where their sum is no finite number."""
    try:
        return statistics.fmean(values)
    except OverflowError:
        return math.fsum(value / len(values) for value in values)
