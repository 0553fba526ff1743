"""`conjure lineage`: what a run came from, or what came from it."""

from collections.abc import Iterator
from typing import Any

import click

from conjure.cli.render import cut, note, on_terminal, visible, write_json
from conjure.cli.run_number_type import RUN_NUMBER
from conjure.cli.status_colors import status_cell
from conjure.cli.tables import one_line
from conjure.core.home import Home
from conjure.runs.inspect.lineage import (
    Edge,
    RelationKind,
    SourceKind,
    Trace,
    run_number,
    source_kind,
    source_text,
    trace_products,
    trace_sources,
)
from conjure.runs.lifecycle.open_store import open_store

_COMMAND_WIDTH = 60  # on a terminal


@click.command
@click.argument("number", type=RUN_NUMBER)
@click.option("--down", is_flag=True, help="Show what was made from the run instead.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object: the runs and the edges between them."
)
def command(number: int, *, down: bool, as_json: bool) -> None:
    """Show the runs, uploads and local files that run NUMBER was made from, as a tree."""
    with open_store(Home.from_environment()) as store:
        trace = trace_products(store, number) if down else trace_sources(store, number)
    if as_json:
        write_json(_to_dict(number, trace, down=down))
        return
    for prefix, text in _lines(trace, down=down):
        click.echo(f"{click.style(prefix, dim=True)}{text}")
    if not trace.edges[trace.root]:
        nothing_used = f"Run {number} has no inputs other than its code"
        note(f"Nothing was made from run {number} yet" if down else nothing_used)


def _to_dict(number: int, trace: Trace, *, down: bool) -> dict[str, Any]:
    return {
        "run": number,
        "direction": "down" if down else "up",
        "runs": {name: None if run is None else run.to_dict() for name, run in trace.runs.items()},
        "edges": [edge.to_dict() for edges in trace.edges.values() for edge in edges],
    }


def _lines(trace: Trace, *, down: bool) -> Iterator[tuple[str, str]]:
    """The tree, as the lines before each branch and what is on it; a thing met again is not followed."""
    shown: set[str] = set()
    waiting: list[tuple[str, str, str, Edge | None]] = [("", "", trace.root, None)]
    while waiting:
        prefix, indent, name, edge = waiting.pop()
        edges = trace.edges[name]
        again = name in shown and bool(edges)
        yield prefix, _described(trace, name, edge) + (click.style(" (see above)", dim=True) if again else "")
        if again:
            continue
        shown.add(name)
        for place, further in reversed(list(enumerate(edges))):
            last = place == len(edges) - 1
            end = further.target if down else further.source
            branch, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
            waiting.append((indent + branch, indent + below, end, further))


def _described(trace: Trace, name: str, edge: Edge | None) -> str:
    return f"{'' if edge is None else _tie(edge, down=name == edge.target)}{_thing(trace, name)}"


def _tie(edge: Edge, *, down: bool) -> str:
    if edge.tie is RelationKind.MOUNT:
        place = visible(edge.place or "")
        return f"as {place} → " if down else f"{place} ← "
    if edge.tie is RelationKind.RERUN:
        return "repeated as " if down else "repeats "
    return "started " if down else "started by "


def _thing(trace: Trace, name: str) -> str:
    if source_kind(name) is not SourceKind.RUN:
        return visible(source_text(name))
    run = trace.runs[name]
    if run is None:
        return f"run {run_number(name)} (no record)"
    status = status_cell(run.facts)
    parts = (
        click.style(f"run {run_number(name)}", bold=True),
        click.style(status.text, fg=status.colour),
        _cut(visible(one_line(run.command))),
    )
    return "  ".join(parts)


def _cut(command: str) -> str:
    return cut(command, _COMMAND_WIDTH) if on_terminal() else command
