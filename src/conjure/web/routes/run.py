"""The page of one run, and what changes on it while the run goes on.

Main entries: `show`, `live`. Invariant: one answer of `live` holds all that is new on the page: the state,
new lines of the log, new points of the curves that are shown; it is short where nothing is new.
"""

import math
import re
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from conjure.errors import UsageError
from conjure.recipes.report import REPORT_FILE
from conjure.runs.inspect.code_diff import diff_against_commit
from conjure.runs.telemetry.curve_downsampling import CurveRequest
from conjure.runs.telemetry.log_window import LogWindow, Piece, read_after, read_before
from conjure.runs.views import RunView, view_run
from conjure.web.curve_data import curve_json, origin_of
from conjure.web.rendering import page, piece
from conjure.web.routes.files import saved_file
from conjure.web.site import Site

LONGEST_LOG_SEARCH = 200
_FIRST_LINES = 300
_READING_S = 0.4


def show(request: Request) -> Response:
    """The page."""
    site, number = _asked(request)
    with site.store() as store:
        view = view_run(store, number)
    folder = site.folder(number)
    until = math.inf if view.is_active else time.monotonic() + _READING_S  # `live` goes by their order
    names = site.metric_names(number, view.summaries, until)
    head = _head(view)
    return page(
        request,
        "run.html",
        view=view,
        record=view.record,
        head=head,
        head_digest=_digest(head),
        metrics=[(name, view.summaries.get(name)) for name in names],
        log=read_before(folder.log, lines=_FIRST_LINES),
        has_report=saved_file(site.home, number, REPORT_FILE),
        usage=site.usage.look_at(view.record),
        longest_search=LONGEST_LOG_SEARCH,
    )


def live(request: Request) -> Response:
    """What is new since what the address tells that the page has.

    ``head``: digest of the state; ``log``: offset up to which the log is known; ``have``: of the shown
    curves, ``index:points``, apart by commas; ``x``: what they are drawn over; ``usage``: moment of the last
    sample.
    """
    site, number = _asked(request)
    query = request.query_params
    with site.store() as store:
        view = view_run(store, number)
    head = _head(view)
    answer: dict[str, Any] = {"active": view.is_active}
    if query.get("head") != _digest(head):
        answer |= {"head": head, "digest": _digest(head)}
    if "log" in query:
        window = read_after(site.folder(number).log, log_position(query["log"]))
        answer["log"] = window_answer(window) | {"attempt": len(view.record.attempts) + 1}
    seen = site.usage.look_at(view.record, _moment(query.get("usage", "")))
    if seen:
        answer["usage"] = seen
    columns = site.columns(number)
    names = columns.names()
    answer["metrics"] = len(names)
    curves = {}
    for index, points in _having(query.get("have", "")):
        if index < len(names) and columns.count(names[index]) != points:
            wanted = CurveRequest(query.get("x", "step"), origin_of(view.record), after=points)
            curves[index] = curve_json(columns, names[index], wanted)
    return JSONResponse(answer | ({"curves": curves} if curves else {}))


def code(request: Request) -> Response:
    """The code that a run started from, and how it differs from its commit."""
    site, number = _asked(request)
    with site.store() as store:
        view = view_run(store, number)
    return page(
        request,
        "code.html",
        view=view,
        record=view.record,
        diff=diff_against_commit(site.home, view.record),
        packages=dict(view.record.environment.packages) if view.record.environment else {},
    )


def window_answer(window: LogWindow) -> dict[str, Any]:
    """A part of a log as JSON: each line as place, time, stream, text, whether it ends."""
    return {
        "start": window.start,
        "end": window.end,
        "size": window.size,
        "lines": [line_answer(line) for line in window.pieces],
    }


def line_answer(line: Piece) -> list[Any]:
    """A line as JSON."""
    return [line.at, round(line.time, 3), line.stream, line.text, int(line.ends)]


def log_position(text: str) -> int:
    """A place in a log, as an address names it.

    Raises:
        UsageError: It is none.
    """
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise UsageError(f"the position must be a number of bytes, not {text!r}")
    return int(text)


def _asked(request: Request) -> tuple[Site, int]:
    return request.app.state.site, request.path_params["number"]


def _head(view: RunView) -> str:
    return piece("run_head.html", "head", view)


def _digest(text: str) -> str:
    return f"{hash(text) & 0xFFFFFFFFFFFF:x}"


def _moment(text: str) -> float:
    return float(text) if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", text) else 0.0


def _having(text: str) -> list[tuple[int, int]]:
    pairs = [each.partition(":") for each in text.split(",") if each]
    if not all(re.fullmatch(r"[0-9]{1,15}", word) for index, _, points in pairs for word in (index, points)):
        raise UsageError(f"have={text} is not a list of index:points")
    return [(int(index), int(points)) for index, _, points in pairs]
