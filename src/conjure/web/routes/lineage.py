"""What came from what: of one run, or of the newest runs that have to do with others.

Main entries: `of_run`, `of_home`. Invariant: the picture needs no script, and every run in it is a link.
"""

from collections.abc import Iterable, Sequence

from starlette.requests import Request
from starlette.responses import Response

from conjure.errors import NotFoundError
from conjure.runs.database.base import Database
from conjure.runs.inspect.lineage import (
    Edge,
    TracedRun,
    run_name,
    run_number,
    source_text,
    sources_of,
    trace_products,
    trace_sources,
)
from conjure.runs.views import status_text, status_tone
from conjure.web.lineage_drawing import Box, draw
from conjure.web.rendering import page
from conjure.web.site import Site

_MOST_BOXES = 80


def of_run(request: Request) -> Response:
    """Everything that one run came from, and everything that came from it."""
    site: Site = request.app.state.site
    number = request.path_params["number"]
    with site.store() as store:
        record = store.get(number)
        before, after = trace_sources(store, number), trace_products(store, number)
        edges = [edge for trace in (before, after) for each in trace.edges.values() for edge in each]
        kept = _nearest(edges, run_name(number))
        drawing = draw(kept, [run_name(number)])
        boxes = [_shown(store, box, {**after.runs, **before.runs}) for box in drawing.boxes]
    return page(
        request,
        "lineage.html",
        record=record,
        drawing=drawing,
        boxes=boxes,
        left_out=len(_names(edges) - _names(kept)),
    )


def of_home(request: Request) -> Response:
    """The newest runs that use others, or are used."""
    site: Site = request.app.state.site
    with site.store() as store:
        edges = _newest_edges(store)
        drawing = draw(edges)
        boxes = [_shown(store, box, {}) for box in drawing.boxes]
    return page(request, "lineage.html", record=None, drawing=drawing, boxes=boxes, left_out=0)


def _newest_edges(store: Database) -> list[Edge]:
    users = {number for numbers in store.sources_in_use().values() for number in numbers}
    kin = {each.number for each in store.kinships()}
    edges: list[Edge] = []
    for number in sorted(users | kin, reverse=True):
        more = [*edges, *sources_of(store.get(number))]
        if len(_names(more)) > _MOST_BOXES:
            break
        edges = more
    return edges


def _names(edges: Iterable[Edge]) -> set[str]:
    """The things at both ends of some edges."""
    return {name for edge in edges for name in (edge.source, edge.target)}


def _nearest(edges: Sequence[Edge], root: str) -> list[Edge]:
    """The edges among the things that are the fewest steps away."""
    near, ring = {root}, {root}
    while ring and len(near) < _MOST_BOXES:
        ring = _names(edge for edge in edges if edge.source in ring or edge.target in ring) - near
        near |= set(sorted(ring)[: _MOST_BOXES - len(near)])
    return [edge for edge in edges if edge.source in near and edge.target in near]


def _shown(store: Database, box: Box, known: dict[str, TracedRun | None]) -> dict[str, object]:
    """A box with what stands in it."""
    number = run_number(box.name)
    plain = {"box": box, "number": None, "note": "", "tone": None, "status": ""}
    if number is None:
        return {**plain, "title": source_text(box.name)}
    title, run = f"run {number}", known.get(box.name)
    if run is None:
        try:
            record = store.get(number)
        except NotFoundError:
            return {**plain, "title": title, "note": "removed"}
        run = TracedRun(record.facts, record.spec.stored().command_text)
    return {
        "box": box,
        "number": number,
        "title": title,
        "note": run.command,
        "tone": status_tone(run.facts),
        "status": status_text(run.facts),
    }
