"""Runs as one HTML file that needs neither a server nor scripts, for mailing and keeping.

Main entry: `export_page`. Invariant: the file asks for nothing beyond itself.
"""

from collections.abc import Sequence

from markupsafe import Markup

from conjure.core.home import Home
from conjure.runs.artifacts.team_transfer import bring_streams
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.telemetry.curve_downsampling import CurveRequest, draw_curve
from conjure.runs.telemetry.log_window import read_before
from conjure.runs.telemetry.metric_column_cache import MetricColumns
from conjure.runs.views import RunView, view_run
from conjure.web.curve_data import origin_of
from conjure.web.curve_drawing import chart
from conjure.web.rendering import assets, render
from conjure.web.routes.compare import shown_differences

_LOG_LINES = 500


def export_page(home: Home, numbers: Sequence[int]) -> str:
    """The page of some runs: each by itself, and what differs where there are several.

    Raises:
        NotFoundError: There is no such run.
        StoreError: The log and metrics of one on another machine cannot be reached.
    """
    with open_store(home) as store:
        views = [view_run(store, number) for number in dict.fromkeys(numbers)]
    for view in views:
        bring_streams(home, view.record.number)
    metrics = {view.record.number: MetricColumns(home.run_folder(view.record.number)) for view in views}
    for columns in metrics.values():
        columns.refresh()
    style = assets()["style.css"].read_text("utf-8")
    return render(
        "export.html",
        style=Markup(style),  # noqa: S704 - our own file
        views=[
            (view, read_before(RunFolder.of(home, view.record.number).log, lines=_LOG_LINES))
            for view in views
        ],
        charts=_charts(views, metrics),
        sections=shown_differences([view.record for view in views], [view.summaries for view in views]),
    )


def _charts(views: Sequence[RunView], metrics: dict[int, MetricColumns]) -> list[Markup]:
    names = dict.fromkeys(name for columns in metrics.values() for name in columns.names())
    drawn = []
    for name in names:
        curves = [
            (
                f"run {view.record.number}",
                draw_curve(metrics[view.record.number], name, CurveRequest(origin=origin_of(view.record))),
            )
            for view in views
            if metrics[view.record.number].count(name)
        ]
        drawn.append(chart(name, curves))
    return drawn
