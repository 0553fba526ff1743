"""`conjure prune`: free what no run needs."""

import sys
from dataclasses import asdict

import click

from conjure.cli.render import note, write_json
from conjure.core.home import Home
from conjure.core.text import plural
from conjure.core.units import format_size
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.maintenance.pruning import Pruned, prune, recoverable


@click.command
@click.option(
    "-a",
    "--all",
    "everything",
    is_flag=True,
    help="Also delete what ended runs used, if it can be rebuilt or fetched again.",
)
@click.option("-y", "--yes", "-f", "--force", "yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: what was freed.")
def command(*, everything: bool, yes: bool, as_json: bool) -> int:
    """Delete environments, code and cached files that no run needs, and leftovers of crashes.

    Working folders with files that were not saved are deleted too, such as those of killed and interrupted
    runs; `conjure recover` can then no longer save them. Outputs, records, logs, metrics and uploads stay.
    """
    home = Home.from_environment()
    with open_store(home) as store:
        lost = recoverable(home, store) if not yes and sys.stdin.isatty() else []
        if lost:
            runs = ", ".join(map(str, lost))
            question = f"The unsaved outputs of run {runs} will be lost. Continue?"
            if not click.confirm(question, err=True):
                note("Nothing was deleted")
                return 1
        freed = prune(home, store, everything=everything)
    if as_json:
        write_json(asdict(freed))
    else:
        click.echo(_describe(freed))
    for reason in freed.not_done:
        note(f"Not deleted: {reason}")
    return 0


def _describe(freed: Pruned) -> str:
    counts = {
        "environment": freed.environments,
        "working folder": len(freed.working_folders),
        "cached file": freed.kept_files,
        "mirror": freed.mirrors,
        "leftover": freed.leftovers,
        "stored object": freed.objects,
    }
    parts = [plural(count, what) for what, count in counts.items() if count]
    return f"Freed {format_size(freed.size_bytes)}{': ' if parts else ''}{', '.join(parts)}"
