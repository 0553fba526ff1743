"""A run's log in parts, and searching it.

Main entries: `window`, `find`, `download`. Invariant: no answer grows with the length of the log but the
download, which is sent as it is read.
"""

from collections.abc import Iterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from conjure.errors import UsageError
from conjure.runs.telemetry.log_window import read_after, read_before, search
from conjure.runs.telemetry.logs import LogTail, lines
from conjure.web.rendering import page
from conjure.web.routes.run import LONGEST_LOG_SEARCH, line_answer, log_position, window_answer
from conjure.web.site import Site

_MOST_LINES = 1000


def show(request: Request) -> Response:
    """The log on a page of its own."""
    site, number = request.app.state.site, request.path_params["number"]
    with site.store() as store:
        record = store.get(number)
    return page(
        request,
        "log.html",
        record=record,
        log=read_before(site.folder(number).log, lines=500),
        longest_search=LONGEST_LOG_SEARCH,
    )


def window(request: Request) -> Response:
    """The part before or after a place, or the end."""
    log, query = _log(request), request.query_params
    if "after" in query:
        return JSONResponse(window_answer(read_after(log, log_position(query["after"]), _MOST_LINES)))
    before = log_position(query["before"]) if "before" in query else None
    return JSONResponse(window_answer(read_before(log, before, _MOST_LINES)))


def find(request: Request) -> Response:
    """Lines that hold a text, the newest first."""
    log, query = _log(request), request.query_params
    text = query.get("text", "")
    if not 0 < len(text) <= LONGEST_LOG_SEARCH:
        raise UsageError(f"text must have from 1 to {LONGEST_LOG_SEARCH} characters; it has {len(text)}")
    found = search(log, text, log_position(query["before"]) if "before" in query else None)
    return JSONResponse({"lines": [line_answer(line) for line in found.lines], "before": found.before})


def download(request: Request) -> Response:
    """The whole log as text."""
    log, number = _log(request), request.path_params["number"]

    def text() -> Iterator[str]:
        for line in lines(LogTail(log).read()):
            yield f"{line.text}\n"

    headers = {"Content-Disposition": f'attachment; filename="run-{number}.log"'}
    return StreamingResponse(text(), media_type="text/plain; charset=utf-8", headers=headers)


def _log(request: Request) -> Path:
    site: Site = request.app.state.site
    number = request.path_params["number"]
    with site.store() as store:
        store.facts(number)  # raises where there is no such run
    return site.folder(number).log
