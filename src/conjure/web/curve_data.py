"""Curves as JSON and CSV.

Main entries: `curve_json`, `csv_rows`. Invariant: an exported file holds every point as it was reported; only
what is drawn is thinned.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.status import RunStatus
from conjure.runs.telemetry.columns import MetricColumns
from conjure.runs.telemetry.curves import CurveRequest, draw_curve, grows_in_order

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
    smooth = {"smooth": list(curve.smooth)} if curve.smooth else {}
    return smooth | {
        "from": begin,
        "x": list(curve.x),
        "y": list(curve.y),
        "total": curve.total,
        "points": curve.points,
        "gaps": curve.gaps,
    }


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


def _inert(text: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
