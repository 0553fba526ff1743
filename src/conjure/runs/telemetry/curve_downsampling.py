"""Curves to draw: as many points of a metric as a screen can show, and none of its extremes lost.

Main entry: `draw_curve`. Invariant: of each stretch a curve keeps the first, lowest, highest and last point,
and where a value is not finite it has a gap; what it leaves out is counted.
"""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from conjure.runs.telemetry.metric_column import BUCKET, Column
from conjure.runs.telemetry.metric_column_cache import MetricColumns

STEP, TIME = "step", "time"


@dataclass(frozen=True, slots=True)
class Curve:
    """What is drawn of a metric.

    Attributes:
        x: Steps, seconds since the origin, or another metric's values; ascending.
        y: The values, None where there is a gap.
        total: How many points there are in the range that was asked for.
        points: How many the metric has in all.
        gaps: How many values in the range are not finite.
        smooth: The smoothed values at the same places, over all points; empty where none were asked for.
    """

    x: Sequence[float]
    y: Sequence[float | None]
    total: int
    points: int
    gaps: int
    smooth: Sequence[float | None] = ()


@dataclass(frozen=True, slots=True)
class CurveRequest:
    """What to draw of a metric, and how.

    Attributes:
        x: What it is drawn over: `STEP`, `TIME`, or another metric's name, by the step they share.
        origin: The moment that is time 0, seconds since the epoch.
        lower: Where the part that is wanted begins; a point before it comes too.
        upper: Where it ends; a point after it comes too.
        parts: In how many stretches it is cut; each gives at most five points.
        after: Only points from this place in the metric's order on, for who has the earlier ones.
        smoothing: From 0, none, to below 1: how much of the mean so far is left after a thousandth of the
            whole curve.
    """

    x: str = STEP
    origin: float = 0.0
    lower: float | None = None
    upper: float | None = None
    parts: int = 400
    after: int | None = None
    smoothing: float = 0.0


def draw_curve(columns: MetricColumns, name: str, wanted: CurveRequest = CurveRequest()) -> Curve:
    """The curve of a metric, or of a part of it."""
    column = columns.column(name)
    if wanted.x in (STEP, TIME):
        places, origin = (column.steps, 0.0) if wanted.x == STEP else (column.times, wanted.origin)
        if grows_in_order(column, wanted.x):
            return _in_order(column, places, origin, wanted)
        order = sorted(range(len(column)), key=places.__getitem__)
        pairs = [(places[index] - origin, column.values[index]) for index in order]
    else:
        pairs = _paired(columns.column(wanted.x), column)
    return _sorted(pairs, len(column), replace(wanted, after=None))


def grows_in_order(column: Column, x: str) -> bool:
    """Whether new points of a metric always come at the end of its curve."""
    return (x == STEP and column.steps_ascend) or (x == TIME and column.times_ascend)


def _in_order(column: Column, places: "array[Any]", origin: float, wanted: CurveRequest) -> Curve:
    count = len(column)
    start = 0 if wanted.lower is None else max(bisect_left(places, wanted.lower + origin) - 1, 0)
    stop = count if wanted.upper is None else min(bisect_right(places, wanted.upper + origin) + 1, count)
    start = max(start, wanted.after or 0)
    kept = thin(column, start, stop, wanted.parts)
    return Curve(
        [places[index] - origin if origin else places[index] for index in kept],
        [value if math.isfinite(value) else None for value in map(column.values.__getitem__, kept)],
        max(stop - start, 0),
        count,
        _count_gaps(column, start, stop),
        _smooth(column.values, places, kept, wanted.smoothing) if wanted.smoothing > 0 else (),
    )


def _smooth(
    values: Sequence[float], places: Sequence[float], kept: Sequence[int], smoothing: float
) -> list[float | None]:
    """A moving mean that forgets by distance, not by number of points; None where a value is not finite."""
    if not kept:
        return []
    per_place = math.log(smoothing) * 1000 / ((places[-1] - places[0]) or 1)
    total, weight, last = 0.0, 0.0, places[0]
    chosen, smoothed, exp = set(kept), [], math.exp
    for index in range(kept[-1] + 1):
        value = values[index]
        if math.isfinite(value):
            left = exp(per_place * (places[index] - last))
            last = places[index]
            total, weight = total * left + value, weight * left + 1
        if index in chosen:
            smoothed.append(total / weight if math.isfinite(value) else None)
    return smoothed


def thin(column: Column, start: int, stop: int, parts: int) -> list[int]:
    """Indexes of what to draw of the points from `start` up to `stop`, in order."""
    count = stop - start
    if count <= 4 * parts:
        return list(range(start, stop))
    stretch = -(-count // parts)
    if stretch < BUCKET:
        kept: list[int] = []
        for begin in range(start, stop, stretch):
            kept += _extremes(column.values, begin, min(begin + stretch, stop))
        return kept
    # Whole buckets, whose extremes are known; only the two ends are looked through.
    first, last = -(-start // BUCKET), stop // BUCKET
    kept = _extremes(column.values, start, first * BUCKET)
    width = -(-stretch // BUCKET)
    if max(column.broken[first:last], default=-1) < 0:
        kept += _extremes_of_whole_buckets(column, first, last, width)
    else:
        for bucket in range(first, last, width):
            kept += _extremes_of_buckets(column, bucket, min(bucket + width, last))
    return kept + _extremes(column.values, last * BUCKET, stop)


def _extremes(values: "array[float]", start: int, stop: int) -> list[int]:
    if start >= stop:
        return []
    part = values[start:stop]
    if math.isfinite(sum(part)):  # the common case, without a loop of our own
        low, high = start + part.index(min(part)), start + part.index(max(part))
        return sorted({start, low, high, stop - 1})
    finite = [index for index in range(start, stop) if math.isfinite(values[index])]
    chosen = {start, stop - 1}
    if finite:
        chosen |= {min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)}
    if len(finite) < stop - start:
        chosen.add(next(index for index in range(start, stop) if not math.isfinite(values[index])))
    return sorted(chosen)


def _extremes_of_whole_buckets(column: Column, first: int, last: int, width: int) -> list[int]:
    """As `_extremes_of_buckets` of each `width` buckets, all of whose values are finite, in half the time."""
    value = column.values.__getitem__
    kept: list[int] = []
    for bucket in range(first, last, width):
        stop = min(bucket + width, last)
        low, high = min(column.lowest[bucket:stop], key=value), max(column.highest[bucket:stop], key=value)
        earlier, later = (low, high) if low < high else (high, low)
        begin, end = bucket * BUCKET, stop * BUCKET - 1
        kept.append(begin)
        if earlier > begin:
            kept.append(earlier)
        if later > earlier:
            kept.append(later)
        if end > later:
            kept.append(end)
    return kept


def _extremes_of_buckets(column: Column, first: int, stop: int) -> list[int]:
    values = column.values
    chosen = {first * BUCKET, stop * BUCKET - 1}
    lows = [index for index in column.lowest[first:stop] if index >= 0]
    if lows:
        highs = [index for index in column.highest[first:stop] if index >= 0]
        chosen |= {min(lows, key=values.__getitem__), max(highs, key=values.__getitem__)}
    broken = next((index for index in column.broken[first:stop] if index >= 0), None)
    if broken is not None:
        chosen.add(broken)
    return sorted(chosen)


def _count_gaps(column: Column, start: int, stop: int) -> int:
    buckets = range(start // BUCKET, -(-stop // BUCKET))
    if max(column.broken[buckets.start : buckets.stop], default=-1) < 0:
        return 0
    return sum(
        1
        for bucket in buckets
        if column.broken[bucket] >= 0
        for index in range(max(bucket * BUCKET, start), min((bucket + 1) * BUCKET, stop))
        if not math.isfinite(column.values[index])
    )


def _paired(over: Column, column: Column) -> list[tuple[float, float]]:
    """Values of one metric over those of another at the same step, in the order of the latter."""
    at_step = dict(zip(over.steps, over.values, strict=True))
    pairs = (
        (at_step.get(step, math.nan), value) for step, value in zip(column.steps, column.values, strict=True)
    )
    return sorted((pair for pair in pairs if math.isfinite(pair[0])), key=lambda pair: pair[0])


def _sorted(pairs: list[tuple[float, float]], points: int, wanted: CurveRequest) -> Curve:
    column = Column()
    column.extend(list(range(len(pairs))), [value for _, value in pairs], [place for place, _ in pairs])
    drawn = _in_order(column, column.times, 0.0, wanted)
    return replace(drawn, points=points)
