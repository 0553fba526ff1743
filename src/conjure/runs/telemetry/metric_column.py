"""The points of one metric as arrays.

Main entry: `Column`. Of each `BUCKET` points in a row a column also knows which is the lowest, the highest
and the first that is not finite; `curve_downsampling` needs no more to find extremes in a long series.

Invariant: buckets begin at multiples of `BUCKET`, and each says what its points say.
"""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

BUCKET = 64


@dataclass(slots=True)
class Column:
    """One metric's points, in the order they were reported.

    Attributes:
        steps: Of each point.
        values: Of each point; NaN and infinite ones too.
        times: Of each point, seconds since the epoch.
        lowest: Of each bucket, the index of its lowest finite value, -1 where none is finite.
        highest: Likewise the highest.
        broken: Of each bucket, the index of its first value that is not finite, -1 where all are.
        steps_ascend: Whether no step is below the one before.
        times_ascend: Whether no time is.
    """

    steps: "array[int]" = field(default_factory=lambda: array("q"))
    values: "array[float]" = field(default_factory=lambda: array("d"))
    times: "array[float]" = field(default_factory=lambda: array("d"))
    lowest: "array[int]" = field(default_factory=lambda: array("q"))
    highest: "array[int]" = field(default_factory=lambda: array("q"))
    broken: "array[int]" = field(default_factory=lambda: array("q"))
    steps_ascend: bool = True
    times_ascend: bool = True

    def __len__(self) -> int:
        return len(self.values)

    @property
    def size_bytes(self) -> int:
        """How much memory the points take."""
        return sum(part.itemsize * len(part) for part in (*self._points(), *self._buckets()))

    def extend(self, steps: Sequence[int], values: Sequence[float], times: Sequence[float]) -> None:
        """Add points."""
        before = len(self)
        self.steps_ascend = self.steps_ascend and _ascends(self.steps, steps)
        self.times_ascend = self.times_ascend and _ascends(self.times, times)
        self.steps.extend(steps)
        self.values.extend(values)
        self.times.extend(times)
        whole = before // BUCKET
        for part in self._buckets():
            del part[whole:]
        for start in range(whole * BUCKET, len(self), BUCKET):
            self._add_bucket(start)

    def drop_all_but_last_bucket(self) -> int:
        """Forget the points before the last bucket, whose indexes then begin at 0; how many there were."""
        dropped = max(len(self) - 1, 0) // BUCKET * BUCKET
        for part in self._points():
            del part[:dropped]
        for part in self._buckets():
            kept = [_moved(index, -dropped) for index in part[dropped // BUCKET :]]
            part[:] = array("q", kept)
        return dropped

    def to_bytes(self, start: int = 0) -> bytes:
        """All of it, part after part, as it is in a column where `start` points come before."""
        buckets = self._buckets()
        if start:
            buckets = tuple(array("q", [_moved(index, start) for index in part]) for part in buckets)
        return b"".join(part.tobytes() for part in (*self._points(), *buckets))

    def read(self, data: bytes, points: int, start: int) -> None:
        """Put what `to_bytes` made of some points in place of all from `start` on."""
        buckets, place = -(-points // BUCKET), 0
        for parts, length, begin in (
            (self._points(), points, start),
            (self._buckets(), buckets, start // BUCKET),
        ):
            for part in parts:
                del part[begin:]
                part.frombytes(data[place : place + length * part.itemsize])
                place += length * part.itemsize

    def _add_bucket(self, start: int) -> None:
        values = self.values[start : start + BUCKET]
        if math.isfinite(sum(values)):
            self.lowest.append(start + values.index(min(values)))
            self.highest.append(start + values.index(max(values)))
            self.broken.append(-1)
            return
        finite = [place for place, value in enumerate(values) if math.isfinite(value)]
        others = set(range(len(values))).difference(finite)
        self.lowest.append(start + min(finite, key=values.__getitem__) if finite else -1)
        self.highest.append(start + max(finite, key=values.__getitem__) if finite else -1)
        self.broken.append(start + min(others) if others else -1)

    def _points(self) -> "tuple[array[Any], ...]":
        return (self.steps, self.values, self.times)

    def _buckets(self) -> "tuple[array[int], ...]":
        return (self.lowest, self.highest, self.broken)


def size_of(points: int) -> int:
    """How many bytes `Column.to_bytes` makes of so many points."""
    return 8 * (3 * points + 3 * -(-points // BUCKET))


def _moved(index: int, by: int) -> int:
    return index + by if index >= 0 else -1


def _ascends(before: "array[Any]", added: Sequence[Any]) -> bool:
    if before and added and added[0] < before[-1]:
        return False
    return all(map(int.__le__ if before.typecode == "q" else float.__le__, added, added[1:]))
