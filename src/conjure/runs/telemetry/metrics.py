"""Reading what a run reported: points from ``metrics.jsonl``, as they come or all at once.

Main entries: `MetricTail`, `read_points`, `metric_summaries`. The writer is
`conjure.metric_logging.log_metric`. Invariant: any split of the file's bytes gives the same points; a torn or
foreign line costs itself only.
"""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.telemetry.line_tail import LineTail

_LARGEST_STEP = 1 << 62  # as far as the database counts


class Point(NamedTuple):
    """One value of a metric: its step, its value, and when it was reported (seconds since the epoch)."""

    name: str
    step: int
    value: float
    time: float


class Summary(NamedTuple):
    """A metric in one row: how many points, the newest, the lowest and the highest."""

    name: str
    points: int
    last_step: int
    last_value: float
    lowest: float
    highest: float

    def to_dict(self) -> dict[str, float | int | str]:
        """The summary as plain JSON values."""
        return self._asdict()


class MetricTail:
    """Follows a metrics file: each `read` gives the points that were added since the last."""

    def __init__(self, path: Path) -> None:
        self._lines = LineTail(path)

    @property
    def offset(self) -> int:
        """Up to where the file was read."""
        return self._lines.offset

    def read(self) -> Iterator[Point]:
        """The new points; all that are kept of a metric are finite."""
        return (point for point in self.read_all() if math.isfinite(point.value))

    def read_all(self) -> Iterator[Point]:
        """The new points, those too whose value is NaN or infinite."""
        for line in self._lines.read():
            point = parse_point(line)
            if point is not None:
                yield point


def read_points(folder: Path, names: Iterable[str] = ()) -> list[Point]:
    """The finite points in a run's folder, in the order they were reported; only `names` if any are given."""
    return [point for point in read_all_points(folder, names) if math.isfinite(point.value)]


def read_all_points(folder: Path, names: Iterable[str] = ()) -> Iterator[Point]:
    """As `read_points`, those too whose value is NaN or infinite."""
    wanted = frozenset(names)
    points = MetricTail(RunFolder(folder).metrics).read_all()
    return (point for point in points if not wanted or point.name in wanted)


def metric_summaries(points: Iterable[Point], earlier: Iterable[Summary] = ()) -> dict[str, Summary]:
    """Summaries by name of `earlier` ones and further points taken together."""
    rows = {summary.name: summary for summary in earlier}
    for point in points:
        row = rows.get(point.name)
        rows[point.name] = Summary(
            name=point.name,
            points=1 if row is None else row.points + 1,
            last_step=point.step,
            last_value=point.value,
            lowest=point.value if row is None else min(row.lowest, point.value),
            highest=point.value if row is None else max(row.highest, point.value),
        )
    return rows


def parse_point(line: bytes) -> Point | None:
    """The point on a line of the file, or None where there is none."""
    try:
        stored = json.loads(line)
        name = metric_name(str(stored["name"]))
        point = Point(name, int(stored["step"]), float(stored["value"]), float(stored["time"]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return point if math.isfinite(point.time) and abs(point.step) <= _LARGEST_STEP else None


def metric_name(text: str) -> str:
    """`text`, if it is a name that a database can keep.

    Raises:
        ValueError: It is empty, or holds a character that is not one of UTF-8 or that ends a text in C.
    """
    text.encode()
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is not the name of a metric")
    return text
