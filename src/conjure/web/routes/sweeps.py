"""Sweeps: all of them, and one with its trials, its pictures and how much each parameter matters.

Main entries: `table`, `show`, `live`. Invariant: what is told of a sweep is `conjure.sweeps.view`'s.
"""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from conjure.runs.database.sweep_rows import SweepState
from conjure.runs.views import TONES
from conjure.sweeps.view import look_at_sweep
from conjure.web.rendering import page
from conjure.web.site import Site
from conjure.web.sweep_drawing import against_parameter, parallel_coordinates

_MOST = 100
_TONES = {
    SweepState.RUNNING: "active",
    SweepState.COMPLETE: "good",
    SweepState.STOPPED: "caution",
    SweepState.FAILED: "bad",
}


def table(request: Request) -> Response:
    """All sweeps, the newest first."""
    site: Site = request.app.state.site
    with site.store() as store:
        rows = sorted(store.sweeps(), key=lambda row: row.number, reverse=True)
        views = [look_at_sweep(site.home, store, row.number) for row in rows[:_MOST]]
    return page(
        request, "sweeps.html", views=[(view, _TONES[view.row.state]) for view in views], total=len(rows)
    )


def show(request: Request) -> Response:
    """One sweep."""
    site: Site = request.app.state.site
    with site.store() as store:
        view = look_at_sweep(site.home, store, request.path_params["number"])
    has_values = view.request.metric is not None and any(trial.counts for trial in view.trials)
    return page(
        request,
        "sweep.html",
        sweep=view,
        tone=_TONES[view.row.state],
        trial_tones=TONES,
        names=list(view.request.space),
        pictures=[against_parameter(view.request, view.trials, name) for name in view.request.space]
        if has_values
        else [],
        parallel=parallel_coordinates(view.request, view.trials) if has_values else None,
    )


def live(request: Request) -> Response:
    """Whether something changed: a digest of the sweep, and whether it goes on."""
    site: Site = request.app.state.site
    with site.store() as store:
        view = look_at_sweep(site.home, store, request.path_params["number"])
    seen = (view.listed(), [trial.to_dict() for trial in view.trials])  # what the importance follows from
    return JSONResponse({"cursor": f"{hash(str(seen)):x}", "active": view.is_running or not view.is_over})
