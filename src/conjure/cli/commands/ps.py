"""`conjure ps`: the runs there are."""

import csv
import sys

import click

from conjure.cli.explicit_options import is_typed
from conjure.cli.render import note, write_json
from conjure.cli.run_number_type import WholeNumber
from conjure.cli.status_colors import status_cell
from conjure.cli.tables import Column, Row, show_table
from conjure.core.home import Home
from conjure.core.home_selection import with_home
from conjure.core.times import age
from conjure.errors import UsageError
from conjure.runs.database.base import RunFilter
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.status import RunStatus
from conjure.runs.views import RunRow, elapsed, list_runs

_SHOWN = 20
_STATUSES = [str(status) for status in RunStatus]


@click.command
@click.option(
    "-n",
    "--last",
    type=WholeNumber(least=1),
    default=_SHOWN,
    show_default=True,
    metavar="K",
    help="Show only the newest K runs.",
)
@click.option(
    "-a",
    "--all",
    "everything",
    is_flag=True,
    help="Show all runs, including archived ones; with -n K, the newest K of them.",
)
@click.option(
    "--status",
    multiple=True,
    type=click.Choice(_STATUSES),
    metavar="STATUS",
    help=f"Show only runs with this status (repeatable): {', '.join(_STATUSES)}.",
)
@click.option("--label", multiple=True, metavar="NAME", help="Show only runs with this label (repeatable).")
@click.option(
    "--project",
    multiple=True,
    metavar="NAME",
    help="Show only runs of this project (repeatable); '': those without one.",
)
@click.option(
    "--sort",
    metavar="[-]METRIC",
    help="Sort by a metric's last value, lowest first; -METRIC sorts highest first.",
)
@click.option(
    "--csv",
    "as_csv",
    is_flag=True,
    help="Print CSV, with columns for params and last metrics.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array of objects.")
@click.pass_context
def command(
    context: click.Context,
    last: int,
    *,
    everything: bool,
    status: tuple[str, ...],
    label: tuple[str, ...],
    project: tuple[str, ...],
    sort: str | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """List runs, newest first."""
    if as_csv and as_json:
        raise UsageError("--csv and --json cannot be combined")
    highest_first, metric = _sort_order(sort)
    is_limited = not everything or is_typed(context, "last")
    wanted = RunFilter(
        limit=last + 1 if is_limited else None,  # one more tells whether there are more
        statuses=tuple(map(RunStatus, status)),
        labels=label,
        projects=project,
        archived=everything,
        sort_metric=metric,
        highest_first=highest_first,
    )
    with open_store(Home.from_environment()) as store:
        runs = list_runs(store, wanted)
        names = store.metric_names() if metric is not None and not runs else []
    more = is_limited and len(runs) > last
    shown = runs[:last] if more else runs
    if as_json:
        write_json([row.to_dict() for row in shown])
    elif as_csv:
        _write_csv(shown)
    elif shown:
        show_table(*_table(shown, metric))
    if more:
        which = "newest" if metric is None else "first"
        note(f"Showing the {which} {last}; `{with_home('conjure ps -a')}` shows all")
    if not runs:
        note(_nothing(wanted, names))


def _write_csv(runs: list[RunRow]) -> None:
    """The runs as CSV, in the columns of `conjure.python_api.RunList.rows`."""
    rows = []
    for listed in runs:
        run = listed.run
        row = {"run": run.number, "status": str(run.facts.status), "command": run.command}
        row["seconds"] = run.command_s
        row |= {f"param.{name}": value for name, value in run.params.items()}
        row |= {f"metric.{name}": value for name, value in listed.metrics.items()}
        rows.append(row)
    names = dict.fromkeys(["run", "status", "command", "seconds", *(name for row in rows for name in row)])
    writer = csv.DictWriter(sys.stdout, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _sort_order(sort: str | None) -> tuple[bool, str | None]:
    if sort is None:
        return False, None
    return sort.startswith("-"), sort.removeprefix("-")


def _table(runs: list[RunRow], metric: str | None) -> tuple[list[Column], list[Row]]:
    """Headings and rows; a column that would be empty is left out."""
    has_metrics, has_labels = any(row.metrics for row in runs), any(row.run.labels for row in runs)
    has_projects = any(row.run.project is not None for row in runs)
    columns = [
        Column("RUN", right=True),
        Column("STATUS"),
        Column("AGE", right=True),
        Column("DURATION", right=True),
        *([Column("METRIC")] if has_metrics else []),
        *([Column("PROJECT")] if has_projects else []),
        *([Column("LABELS")] if has_labels else []),
        Column("COMMAND", shrinks=True),
    ]
    rows: list[Row] = [
        [
            str(row.number),
            status_cell(row.run.facts, row.lease),
            "-" if row.requested_at is None else age(row.requested_at),
            elapsed(row.run.facts, row.run.total_s),
            *([row.metric_text(metric)] if has_metrics else []),
            *([row.run.project or ""] if has_projects else []),
            *([", ".join(row.run.labels)] if has_labels else []),
            row.run.command,
        ]
        for row in runs
    ]
    return columns, rows


def _nothing(wanted: RunFilter, metric_names: list[str]) -> str:
    if wanted.sort_metric is not None:
        known = f"available: {', '.join(metric_names)}" if metric_names else "no run has reported any"
        return f"None of these runs has a metric {wanted.sort_metric!r}; {known}"
    if wanted.statuses or wanted.labels or wanted.projects:
        return "No runs match"
    example = with_home('conjure run "echo hello"')
    return f"No runs yet; start one: {example}"
