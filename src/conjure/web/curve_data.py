"""Curves as JSON, bytes and CSV.

Main entries: `curve_json`, `pack_curves`, `csv_rows`. Invariant: an exported file holds every point as it was
reported; only what is drawn is thinned.
"""

import csv
import io
import json
import math
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.status import RunStatus
from conjure.runs.telemetry.curve_downsampling import STEP, Curve, CurveRequest, draw_curve, grows_in_order
from conjure.runs.telemetry.metric_column_cache import MetricColumns

_PIECE_ROWS = 2000


def origin_of(record: RunRecord) -> float:
    """The moment that is time 0 of a run's curves: when its command started."""
    return record.facts.entered.get(RunStatus.RUNNING, record.requested_at)


def curve_json(columns: MetricColumns, name: str, wanted: CurveRequest) -> dict[str, Any]:
    """A curve as JSON; with `after`, what to add to one that has so many points.

    Where the points do not come in the order of x, all of them are given, and ``from`` says 0.
    """
    column = columns.column(name)
    begin = wanted.after or 0
    if begin > len(column) or not grows_in_order(column, wanted.x):
        begin = 0
    curve = draw_curve(columns, name, replace(wanted, after=begin))
    return {
        "from": begin,
        "x": list(curve.x) if wanted.x == STEP else list(map(_short, curve.x)),
        "y": list(map(_short, curve.y)),
        "total": curve.total,
        "points": curve.points,
        "gaps": curve.gaps,
    }


def pack_curves(drawn: Mapping[int, tuple[Curve, bool]], waiting: Sequence[int]) -> bytes:
    """Curves of some runs as bytes, which cost neither side much: a page draws a hundred thousand points.

    First a number of four bytes, how long the JSON after it is; the JSON, filled up so that what follows is
    in place for numbers of eight bytes; then of each run x, y and, if there is one, the smoothed y. NaN is a
    gap.

    Args:
        drawn: Of each run its curve, and whether the run goes on.
        waiting: Runs that are to be asked for again.
    """
    head: list[dict[str, Any]] = []
    blocks: list[bytes] = []
    for number, (curve, active) in drawn.items():
        head.append(
            {
                "run": number,
                "drawn": len(curve.x),
                "smooth": bool(curve.smooth),
                "total": curve.total,
                "points": curve.points,
                "gaps": curve.gaps,
                "active": active,
            }
        )
        blocks += map(_packed, (curve.x, curve.y, curve.smooth))
    text = json.dumps({"runs": head, "waiting": list(waiting)}).encode()
    text += b" " * (-(4 + len(text)) % 8)
    return b"".join([len(text).to_bytes(4, "little"), text, *blocks])


def _packed(values: Sequence[float | None]) -> bytes:
    numbers = array("d", [math.nan if value is None else value for value in values])
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def csv_rows(columns: Sequence[tuple[int, MetricColumns, float]], names: Sequence[str]) -> Iterator[str]:
    """Every point of some metrics of some runs as CSV, piece by piece.

    Args:
        columns: Number, metrics and time 0 of each run.
        names: The metrics.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["run", "metric", "step", "seconds", "value"])
    for number, metrics, origin in columns:
        for name in names:
            column = metrics.column(name)
            for start in range(0, len(column), _PIECE_ROWS):
                part = slice(start, start + _PIECE_ROWS)
                for step, at, value in zip(
                    column.steps[part], column.times[part], column.values[part], strict=True
                ):
                    rows.writerow([number, _inert(name), step, f"{at - origin:.6f}", repr(value)])
                yield text.getvalue()
                text.seek(0)
                text.truncate()
    yield text.getvalue()


def _short(value: float | None) -> float | None:
    """In as many digits as are drawn."""
    return None if value is None else float(f"{value:.7g}")


def _inert(text: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
