"""Whole metrics in little memory, and few enough points of them to draw.

Main entries: `read_series`, `thin`. Invariant: a thinned series keeps its order, its first and last point,
its lowest and its highest.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.telemetry.metrics import MetricTail


@dataclass(slots=True)
class Series:
    """A metric's points in the order they were reported: 16 bytes each."""

    steps: "array[int]" = field(default_factory=lambda: array("q"))
    values: "array[float]" = field(default_factory=lambda: array("d"))

    def __len__(self) -> int:
        return len(self.steps)


def read_series(folder: Path, names: Iterable[str]) -> dict[str, Series]:
    """The points of some metrics of the run in `folder`; a metric without points is an empty series."""
    found = {name: Series() for name in names}
    for point in MetricTail(RunFolder(folder).metrics).read():
        series = found.get(point.name)
        if series is not None:
            series.steps.append(point.step)
            series.values.append(point.value)
    return found


def thin(series: Series, parts: int) -> Series:
    """At most four points for each of `parts` equal stretches: its first, lowest, highest and last."""
    count = len(series)
    if count <= 4 * parts:
        return series
    kept = Series()
    for part in range(parts):
        places = range(count * part // parts, count * (part + 1) // parts)
        lowest = min(places, key=series.values.__getitem__)
        highest = max(places, key=series.values.__getitem__)
        for place in sorted({places[0], lowest, highest, places[-1]}):
            kept.steps.append(series.steps[place])
            kept.values.append(series.values[place])
    return kept
