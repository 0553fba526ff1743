"""Curves of one or more runs: as bytes for the page, as CSV and SVG to take away, as small pictures.

Main entries: `curves`, `as_csv`, `as_svg`, `small`. Invariant: an answer holds no more points than a screen
has columns, four times over.
"""

import math
import time
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from conjure.errors import UsageError
from conjure.runs.schema.record import RunRecord
from conjure.runs.telemetry.curve_downsampling import CurveRequest, draw_curve
from conjure.runs.views import key_metric
from conjure.web.curve_data import csv_rows, origin_of, pack_curves
from conjure.web.curve_drawing import chart, sparkline
from conjure.web.site import Site

MOST_RUNS = 50
_MOST_PARTS = 2000
_READING_S = 0.4  # so that a page shows what there is, and how much is missing


def curves(request: Request) -> Response:
    """One metric of some runs, as `pack_curves` has it.

    Where metrics were never read it takes seconds for a run: those that are ready are given, the others are
    named, to be asked for again.
    """
    site: Site = request.app.state.site
    query = request.query_params
    name = query.get("metric", "")
    wanted = CurveRequest(
        x=query.get("x", "step"),
        lower=_number(query.get("lower"), "lower"),
        upper=_number(query.get("upper"), "upper"),
        parts=_parts(query.get("parts")),
        smoothing=_smoothing(query.get("smoothing")),
    )
    until = time.monotonic() + _READING_S
    drawn, waiting = {}, []
    for record in _runs(site, query.get("runs", "")):
        columns = site.columns(record.number, until)
        if columns.is_whole:
            curve = draw_curve(columns, name, replace(wanted, origin=origin_of(record)))
            drawn[record.number] = curve, not record.status.is_final
        else:
            waiting.append(record.number)
    return Response(pack_curves(drawn, waiting), media_type="application/octet-stream")


def as_csv(request: Request) -> Response:
    """Every point of the named metrics, or of all, of some runs."""
    site: Site = request.app.state.site
    records = _runs(site, request.query_params.get("runs", ""))
    columns = [(record.number, site.columns(record.number), origin_of(record)) for record in records]
    names = request.query_params.getlist("metric") or list(
        dict.fromkeys(name for _, metrics, _ in columns for name in metrics.names())
    )
    return StreamingResponse(
        csv_rows(columns, names), media_type="text/csv", headers=_saved_as("metrics.csv")
    )


def as_svg(request: Request) -> Response:
    """One metric of some runs as a picture."""
    site: Site = request.app.state.site
    query = request.query_params
    name, x = query.get("metric", ""), query.get("x", "step")
    drawn = [
        (
            f"run {record.number}",
            draw_curve(site.columns(record.number), name, CurveRequest(x, origin_of(record))),
        )
        for record in _runs(site, query.get("runs", ""))
    ]
    picture = chart(name, drawn, x=x, width=960, height=420)
    return Response(str(picture), media_type="image/svg+xml", headers=_saved_as("curve.svg"))


def small(request: Request) -> Response:
    """A run's key metric as a small picture."""
    site: Site = request.app.state.site
    number = request.path_params["number"]
    columns = site.columns(number, time.monotonic() + _READING_S)
    name = request.query_params.get("metric") or key_metric(dict.fromkeys(columns.names(), 0.0)) or ""
    picture = sparkline(draw_curve(columns, name, CurveRequest(parts=24)))
    kept = "private, max-age=31536000, immutable"  # its address has the newest value
    headers = {"Cache-Control": kept if columns.is_whole else "no-store"}
    return Response(picture, media_type="image/svg+xml", headers=headers)


def _runs(site: Site, text: str) -> list[RunRecord]:
    numbers = numbers_in(text)
    with site.store() as store:
        return [store.get(number) for number in numbers]


def numbers_in(text: str) -> list[int]:
    """Run numbers apart by commas.

    Raises:
        UsageError: There is none, or too many, or it is no number.
    """
    words = [word for word in text.replace(" ", ",").split(",") if word]
    wrong = next((word for word in words if not word.isdecimal() or len(word) > 18), None)
    if wrong is not None or not words:
        raise UsageError(f"name runs by their numbers, as in runs=3,5; {wrong or text!r} is not one")
    numbers = list(dict.fromkeys(map(int, words)))
    if len(numbers) > MOST_RUNS:
        raise UsageError(f"at most {MOST_RUNS} runs can be shown together; these are {len(numbers)}")
    return numbers


def _number(text: str | None, name: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{name} must be a number, not {text!r}")
    return value


def _parts(text: str | None) -> int:
    if text is None:
        return 400
    if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= _MOST_PARTS:
        raise UsageError(f"parts must be an integer from 1 to {_MOST_PARTS}, not {text!r}")
    return int(text)


def _smoothing(text: str | None) -> float:
    value = _number(text, "smoothing") or 0.0
    if not 0 <= value < 1:
        raise UsageError(f"smoothing must be from 0 to below 1, not {text}")
    return value


def _saved_as(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}
