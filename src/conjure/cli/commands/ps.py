"""`conjure ps`: the runs there are."""

import csv
import sys
from typing import Any

import click

from conjure.cli.render import note, write_json
from conjure.cli.run_view import elapsed, heartbeat_age_s, key_metric, metric_value, status_cell
from conjure.cli.tables import Column, Row, show_table
from conjure.cli.times import short_age
from conjure.core.home import Home
from conjure.core.text import to_iso
from conjure.errors import UsageError
from conjure.runs.database.base import Database, ListedRun, RunFilter
from conjure.runs.lifecycle.ownership import open_store
from conjure.runs.schema.status import PHASES, RunStatus

_SHOWN = 20
_STATUSES = [str(status) for status in RunStatus]


@click.command
@click.option(
    "-n",
    "--last",
    type=click.IntRange(min=1),
    default=_SHOWN,
    show_default=True,
    metavar="K",
    help="Show only the newest K runs.",
)
@click.option("-a", "--all", "everything", is_flag=True, help="Show all runs, including archived ones.")
@click.option(
    "--status",
    multiple=True,
    type=click.Choice(_STATUSES),
    metavar="STATUS",
    help=f"Show only runs with this status (repeatable): {', '.join(_STATUSES)}.",
)
@click.option("--label", multiple=True, metavar="NAME", help="Show only runs with this label (repeatable).")
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
def command(
    last: int,
    *,
    everything: bool,
    status: tuple[str, ...],
    label: tuple[str, ...],
    sort: str | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """List runs, newest first."""
    if as_csv and as_json:
        raise UsageError("--csv and --json cannot be combined")
    highest_first, metric = _sort_order(sort)
    wanted = RunFilter(
        limit=None if everything else last + 1,  # one more tells whether there are more
        statuses=tuple(map(RunStatus, status)),
        labels=label,
        archived=everything,
        sort_metric=metric,
        highest_first=highest_first,
    )
    with open_store(Home.from_environment()) as store:
        runs = store.listing(wanted)
        more = not everything and len(runs) > last
        listed = _Listed(runs[:last] if more else runs, metric, store)
        names = store.metric_names() if metric is not None and not runs else []
    if as_json:
        write_json([listed.to_dict(run) for run in listed.runs])
    elif as_csv:
        _write_csv(listed)
    elif runs:
        show_table(*listed.table())
    if more:
        note(f"showing the {'newest' if metric is None else 'first'} {last}; `conjure ps -a` shows all")
    if not runs:
        note(_nothing(wanted, names))


def _write_csv(listed: "_Listed") -> None:
    """The runs as CSV, in the columns of `conjure.python_api.RunList.rows`."""
    rows = []
    for run in listed.runs:
        row = {"run": run.number, "status": str(run.facts.status), "command": run.command}
        row["seconds"] = run.command_s
        row |= {f"param.{name}": value for name, value in run.params.items()}
        row |= {f"metric.{name}": value for name, value in listed.values.get(run.number, {}).items()}
        rows.append(row)
    names = dict.fromkeys(["run", "status", "command", "seconds", *(name for row in rows for name in row)])
    writer = csv.DictWriter(sys.stdout, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _sort_order(sort: str | None) -> tuple[bool, str | None]:
    if sort is None:
        return False, None
    return sort.startswith("-"), sort.removeprefix("-")


class _Listed:
    """Runs with what is shown of them."""

    def __init__(self, runs: list[ListedRun], metric: str | None, store: Database) -> None:
        self.runs = runs
        self.values = store.latest_values(run.number for run in runs)
        self.leases = store.leases() if any(run.facts.ending is None for run in runs) else {}
        self._metric = metric
        self._has_labels = any(run.labels for run in runs)

    def table(self) -> tuple[list[Column], list[Row]]:
        """Headings and rows; a column that would be empty is left out."""
        columns = [
            Column("RUN", right=True),
            Column("STATUS"),
            Column("AGE", right=True),
            Column("DURATION", right=True),
            *([Column("METRIC")] if self.values else []),
            *([Column("LABELS")] if self._has_labels else []),
            Column("COMMAND", shrinks=True),
        ]
        return columns, [self._row(run) for run in self.runs]

    def to_dict(self, run: ListedRun) -> dict[str, Any]:
        """The keys that `conjure info --json` has too, and every metric's newest value."""
        ending = run.facts.ending
        return {
            "number": run.number,
            "status": str(run.facts.status),
            "end_reason": None if ending is None else str(ending.reason),
            "exit_code": None if ending is None else ending.exit_code,
            "signal": None if ending is None else ending.signal,
            "message": None if ending is None else ending.message,
            "kind": run.kind,
            "command": run.command,
            "description": run.description,
            "labels": list(run.labels),
            "params": dict(run.params),
            **{f"{phase}_at": to_iso(run.facts.entered.get(phase)) for phase in PHASES},
            "ended_at": to_iso(run.facts.ended_at),
            "command_s": run.command_s,
            "total_s": run.total_s,
            "archived": run.archived,
            "heartbeat_age_s": heartbeat_age_s(self.leases.get(run.number)),
            "metrics": self.values.get(run.number, {}),
        }

    def _row(self, run: ListedRun) -> Row:
        requested = run.facts.entered.get(RunStatus.REQUESTED)
        return [
            str(run.number),
            status_cell(run.facts, self.leases.get(run.number)),
            "-" if requested is None else short_age(requested),
            elapsed(run.facts, run.total_s),
            *([self._shown_metric(run)] if self.values else []),
            *([", ".join(run.labels)] if self._has_labels else []),
            run.command,
        ]

    def _shown_metric(self, run: ListedRun) -> str:
        values = self.values.get(run.number, {})
        name = self._metric if self._metric is not None else key_metric(values)
        return "" if name is None else f"{name} {metric_value(values[name])}"


def _nothing(wanted: RunFilter, metric_names: list[str]) -> str:
    if wanted.sort_metric is not None:
        known = f"there are {', '.join(metric_names)}" if metric_names else "no run has reported any"
        return f"none of these runs has a metric {wanted.sort_metric!r}; {known}"
    if wanted.statuses or wanted.labels:
        return "no runs match"
    return 'no runs yet; start one: conjure run "echo hello"'
