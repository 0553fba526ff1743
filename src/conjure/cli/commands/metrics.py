"""`conjure metrics`: what a run reported with `log_metric`."""

import csv
import math
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import click

from conjure.cli.plots import read_series, show_curve
from conjure.cli.render import note, write_json
from conjure.cli.run_number_type import RUN_NUMBER, is_run_number, last_number
from conjure.cli.tables import Column, show_table
from conjure.core.home import Home
from conjure.core.text import did_you_mean
from conjure.core.units import format_number
from conjure.errors import NotFoundError, UsageError
from conjure.runs.artifacts.team_transfer import bring_streams
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.telemetry.metrics import Point, Summary, metric_summaries, read_all_points

_FIELDS = ("name", "step", "value", "time")


@click.command
@click.argument("words", nargs=-1, metavar="[NUMBER]... [NAME]...")
@click.option("--plot", is_flag=True, help="Plot each metric over its steps.")
@click.option(
    "--csv", "as_csv", is_flag=True, help="Print every point as CSV: name, step, value, time (Unix seconds)."
)
@click.option("--json", "as_json", is_flag=True, help="Print every point as a JSON array of objects.")
@click.pass_context
def command(
    context: click.Context, words: tuple[str, ...], *, plot: bool, as_csv: bool, as_json: bool
) -> None:
    """Show the metrics of run NUMBER (default: the newest): last, lowest and highest values.

    With --plot several runs can be given; each metric gets one plot with all of them.
    """
    if plot + as_csv + as_json > 1:
        raise UsageError("--plot, --csv and --json cannot be combined")
    texts = list(takewhile(is_run_number, words))
    numbers = [RUN_NUMBER.convert(text, None, context) for text in texts] or [last_number()]
    names = words[len(texts) :]
    if len(numbers) > 1:
        if not plot:
            raise UsageError("several runs need --plot; give one run")
        _plot_runs(numbers, names)
        return
    _show_run(numbers[0], names, plot=plot, as_csv=as_csv, as_json=as_json)


def _show_run(number: int, names: tuple[str, ...], *, plot: bool, as_csv: bool, as_json: bool) -> None:
    home = Home.from_environment()
    with open_store(home) as store:
        going_on = not store.get(number).status.is_final
        summaries = store.summaries(number)
    bring_streams(home, number)
    folder = home.run_folder(number)
    known = list(summaries)
    if not summaries or not summaries.keys() >= set(names):
        known, summaries = _read_from_file(folder)
    wanted = _chosen(number, names, known)
    if as_json:
        write_json(_json_of(point) for point in read_all_points(folder, names))
    elif as_csv:
        _write_csv(read_all_points(folder, names))
    elif not wanted:
        note(f"Run {number} has reported no metric{' yet' if going_on else ''}")
    else:
        _show_finite(number, folder, wanted, summaries, plot=plot)


def _show_finite(
    number: int, folder: Path, wanted: Sequence[str], summaries: Mapping[str, Summary], *, plot: bool
) -> None:
    finite = [name for name in wanted if name in summaries]
    for name in wanted:
        if name not in summaries:
            note(f"{name} has no finite value")
    if not finite:
        return
    if plot:
        _plot({number: folder}, finite)
    else:
        _show(summaries[name] for name in finite)


def _plot_runs(numbers: Sequence[int], names: tuple[str, ...]) -> None:
    """Each metric of several runs in one plot; a run that has not reported it is left out."""
    home = Home.from_environment()
    with open_store(home) as store:
        reported = {number: store.summaries(store.get(number).number) for number in dict.fromkeys(numbers)}
    known = {name: summary for summaries in reported.values() for name, summary in summaries.items()}
    for number in reported:
        bring_streams(home, number)
    wanted = _chosen(numbers[0], names, known)
    if not wanted:
        note("None of these runs has reported a metric")
    _plot({number: home.run_folder(number) for number in reported}, wanted)


def _chosen(number: int, names: Sequence[str], known: Collection[str]) -> list[str]:
    """The metrics asked for, all of them if none is."""
    missing = [name for name in names if name not in known]
    if missing:
        hint = did_you_mean(missing[0], known) or f"it has {', '.join(known) or 'none'}"
        raise NotFoundError(f"run {number} has no metric {missing[0]!r}; {hint}")
    return list(dict.fromkeys(names)) or list(known)


def _read_from_file(folder: Path) -> tuple[list[str], dict[str, Summary]]:
    """All metrics in a run's file, and how those stand that have a finite value, which alone are indexed."""
    points = list(read_all_points(folder))
    names = dict.fromkeys(point.name for point in points)
    return list(names), metric_summaries(point for point in points if math.isfinite(point.value))


def _json_of(point: Point) -> dict[str, Any]:
    """A point as JSON values: null for what is not finite, which JSON has no number for."""
    value = point.value if math.isfinite(point.value) else None
    return {**{field: getattr(point, field) for field in _FIELDS}, "value": value}


def _write_csv(points: Iterable[Point]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_FIELDS)
    writer.writerows((point.name, point.step, point.value, point.time) for point in points)


def _plot(folders: Mapping[int, Path], names: Sequence[str]) -> None:
    found = {number: read_series(folder, names) for number, folder in folders.items()}
    for name in names:
        curves = {f"run {number}": series[name] for number, series in found.items() if len(series[name])}
        if curves:
            show_curve(name, curves, share=len(names))


def _show(summaries: Iterable[Summary]) -> None:
    numbers = ("POINTS", "STEP", "LAST", "LOWEST", "HIGHEST")
    columns = [Column("METRIC"), *(Column(title, right=True) for title in numbers)]
    rows = [
        (
            summary.name,
            f"{summary.points:,}",
            f"{summary.last_step:,}",
            *map(format_number, (summary.last_value, summary.lowest, summary.highest)),
        )
        for summary in summaries
    ]
    show_table(columns, rows)
