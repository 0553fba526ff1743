"""`conjure metrics`: what a run reported with `log_metric`."""

import csv
import difflib
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click

from conjure.cli.parameter_types import RUN_NUMBER
from conjure.cli.render import note, write_json
from conjure.cli.run_view import metric_value
from conjure.cli.tables import Column, show_table
from conjure.core.home import Home
from conjure.errors import NotFoundError, UsageError
from conjure.runs.lifecycle.ownership import open_store
from conjure.runs.telemetry.metrics import METRICS_FILE, MetricTail, Point, Summary

_FIELDS = ("name", "step", "value", "time")


@click.command
@click.argument("number", type=RUN_NUMBER)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--plot", is_flag=True, help="Draw each metric over its steps.")
@click.option("--csv", "as_csv", is_flag=True, help="Every point: name, step, value, time (seconds, UTC).")
@click.option("--json", "as_json", is_flag=True, help="Every point, as a JSON array of objects.")
def command(number: int, names: tuple[str, ...], *, plot: bool, as_csv: bool, as_json: bool) -> None:
    """Show what run NUMBER reported: each metric's newest, lowest and highest value, or all of its points."""
    if plot + as_csv + as_json > 1:
        raise UsageError("--plot, --csv and --json exclude one another")
    home = Home.from_environment()
    with open_store(home) as store:
        going_on = not store.get(number).status.is_final
        summaries = store.summaries(number)
    folder = home.run_folder(number)
    wanted = _chosen(number, names, summaries)
    if as_json:
        write_json({field: getattr(point, field) for field in _FIELDS} for point in _points(folder, names))
    elif as_csv:
        _write_csv(_points(folder, names))
    elif not wanted:
        note(f"run {number} has reported no metric{' yet' if going_on else ''}")
    elif plot:
        _plot(folder, wanted)
    else:
        _show(summaries[name] for name in wanted)


def _chosen(number: int, names: Sequence[str], summaries: dict[str, Summary]) -> list[str]:
    """The metrics asked for, all of them if none is."""
    missing = [name for name in names if name not in summaries]
    if missing:
        near = difflib.get_close_matches(missing[0], summaries, n=2)
        known = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(summaries) or 'none'}"
        raise NotFoundError(f"run {number} has no metric {missing[0]!r}; {known}")
    return list(dict.fromkeys(names)) or list(summaries)


def _points(folder: Path, names: Sequence[str]) -> Iterator[Point]:
    """The points of these metrics; of none given, all that are in the file by now."""
    points = MetricTail(folder / METRICS_FILE).read()
    return (point for point in points if point.name in names) if names else points


def _write_csv(points: Iterable[Point]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_FIELDS)
    writer.writerows((point.name, point.step, point.value, point.time) for point in points)


def _plot(folder: Path, names: Sequence[str]) -> None:
    from conjure.cli.plots import show_curve
    from conjure.runs.telemetry.series import read_series

    for name, series in read_series(folder, names).items():
        if len(series):
            show_curve(name, series, share=len(names))


def _show(summaries: Iterable[Summary]) -> None:
    numbers = ("POINTS", "STEP", "LAST", "LOWEST", "HIGHEST")
    columns = [Column("METRIC"), *(Column(title, right=True) for title in numbers)]
    rows = [
        (
            summary.name,
            f"{summary.points:,}",
            f"{summary.last_step:,}",
            *map(metric_value, (summary.last_value, summary.lowest, summary.highest)),
        )
        for summary in summaries
    ]
    show_table(columns, rows)
