"""How a sweep looks: its table, what is said around it, its plots.

Main entries: `show_sweep`, `trial_table`, `show_plots`. Invariant: the best values are marked, and those that
are not finished, or have no value, come after all that have one.
"""

import math

import click

from conjure.cli.plots import show_points
from conjure.cli.render import note
from conjure.cli.tables import Cell as TableCell
from conjure.cli.tables import Column, Row, show_table
from conjure.core.home_selection import with_home
from conjure.core.text import plural
from conjure.core.units import format_duration, format_number
from conjure.runs.database.sweep_rows import SweepState
from conjure.runs.schema.status import RunStatus
from conjure.sweeps.space import Range
from conjure.sweeps.trials import PRUNED, Cell, Trial
from conjure.sweeps.view import SweepView, pruned_count

_COLOURS = {
    RunStatus.COMPLETE: "green",
    RunStatus.RUNNING: "cyan",
    RunStatus.SAVING: "cyan",
    PRUNED: "yellow",
    RunStatus.STOPPED: "yellow",
    RunStatus.INTERRUPTED: "yellow",
    RunStatus.FAILED: "red",
    RunStatus.KILLED: "red",
}
_MARK = "*"


def show_sweep(view: SweepView) -> None:
    """Write a sweep to stdout: what it is, its trials, and what follows from them."""
    click.echo(headline(view))
    click.echo(f"Command  {view.request.spec.stored().command_text}")
    if view.trials:
        click.echo()
        show_table(*trial_table(view))
    for line in closing_lines(view):
        click.echo(line)


def headline(view: SweepView) -> str:
    """What a sweep is and how far it has come, in one line."""
    request, row = view.request, view.row
    parts = [f"Sweep {row.number}: {request.method}", f"{view.ended} of {plural(row.trials, 'trial')} ended"]
    if request.metric is not None:
        parts.append(f"{request.direction} {request.metric}")
    if request.prune is not None:
        parts.append(f"{pruned_count(view)} pruned")
    state = "no driver" if view.is_abandoned else str(row.state)
    left = view.seconds_left
    parts.append(
        state if left is None or view.is_abandoned else f"{state}, about {format_duration(left)} left"
    )
    return " · ".join(parts)


def closing_lines(view: SweepView) -> list[str]:
    """What is said below the table."""
    lines: list[str] = []
    number = view.row.number
    if view.row.message is not None:
        lines += ["", view.row.message[:1].upper() + view.row.message[1:]]
    if view.is_running and view.pruning_waits is not None:
        lines += ["", f"Nothing has been pruned yet: {view.pruning_waits}"]
    if view.is_abandoned:
        again = with_home(f"conjure sweep resume {number}")
        lines += ["", f"This sweep has no driver; to continue it: {again}"]
    importance = view.importance
    if importance:
        lines += ["", "Share of the variation that one parameter explains by itself (90% interval):"]
        width = max(len(one.parameter) for one in importance)
        lines += [
            f"  {one.parameter:<{width}}  {one.share:4.0%}  ({one.low:.0%} to {one.high:.0%})"
            for one in importance
        ]
    if view.best is not None and view.row.state is not SweepState.RUNNING:
        lines += ["", f"Best: {with_home(f'conjure sweep best {number} --command')}"]
    return lines


def trial_table(view: SweepView, *, most: int | None = None) -> tuple[list[Column], list[Row]]:
    """The trials as a table, best first.

    Args:
        view: The sweep.
        most: Most rows; all if None.
    """
    names, metric = list(view.request.space), view.request.metric
    columns = [
        Column(""),
        Column("TRIAL", right=True),
        Column("RUN", right=True),
        *(Column(name, right=True, shrinks=True) for name in names),
        Column("STATUS"),
        *([Column(metric.upper(), right=True), Column("STEP", right=True)] if metric is not None else []),
    ]
    best = view.best
    ranked = view.ranked
    return columns, [_row(view, cell, is_best=cell == best) for cell in ranked[:most]]


def _row(view: SweepView, cell: Cell, *, is_best: bool) -> Row:
    values: list[str | TableCell] = []
    if view.request.metric is not None:
        steps = {str(trial.step) for trial in cell.trials if trial.step is not None}
        values = [_value(cell), steps.pop() if len(steps) == 1 else ""]
    return [
        TableCell(_MARK if is_best else "", "green"),
        _span([trial.trial for trial in cell.trials]),
        _span([trial.run for trial in cell.trials]),
        *(cell.params[name] for name in view.request.space),
        _status(cell),
        *values,
    ]


def _span(numbers: list[int]) -> str:
    first, last = numbers[0], numbers[-1]
    if first == last:
        return str(first)
    return f"{first}-{last}" if last - first == len(numbers) - 1 else " ".join(map(str, numbers))


def _value(cell: Cell) -> str:
    if cell.value is None:
        reported = [trial for trial in cell.trials if trial.step is not None]
        if any(trial.status == PRUNED and trial.value is not None for trial in reported):
            return f"({format_number(next(t.value for t in reported if t.value is not None))})"
        return "nan" if any(trial.value is None for trial in reported) else ""
    spread = f" ± {format_number(cell.spread)}" if cell.spread is not None else ""
    return f"{format_number(cell.value)}{spread}"


def _status(cell: Cell) -> TableCell:
    statuses = [trial.status for trial in cell.trials]
    if len(set(statuses)) == 1:
        return TableCell(statuses[0], _COLOURS.get(statuses[0]))
    counts = (f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    return TableCell(", ".join(counts))


def trial_line(view: SweepView, trial: Trial) -> str:
    """A trial in one line, as it is told where no table can be rewritten."""
    params = " ".join(f"{name}={value}" for name, value in trial.params.items())
    line = f"trial {trial.trial} (run {trial.run}): {trial.status} · {params}"
    if trial.value is None:
        return line
    best = view.best
    is_best = best is not None and trial in best.trials and trial.counts
    value = f"{view.request.metric} {format_number(trial.value)} at step {trial.step}"
    return f"{line} · {value}{' (best so far)' if is_best else ''}"


def show_plots(view: SweepView) -> None:
    """Draw the metric against each parameter."""
    cells = [cell for cell in view.ranked if cell.value is not None]
    metric = view.request.metric
    if metric is None or not cells:
        note("No trial has a value to plot yet")
        return
    values = [cell.value for cell in cells if cell.value is not None]
    for name, domain in view.request.space.items():
        texts = [cell.params[name] for cell in cells]
        if isinstance(domain, Range):
            places = [math.log10(float(text)) if domain.log else float(text) for text in texts]
            title = f"{metric} against {name}{' (log scale)' if domain.log else ''}"
        else:
            places = [float(domain.values.index(text)) for text in texts]
            title = f"{metric} against {name}"
        show_points(title, places, values, texts)
