"""`conjure label`: names to find runs by."""

import click

from conjure.cli.run_number_type import RUN_NUMBER
from conjure.core.home import Home
from conjure.errors import UsageError
from conjure.runs.artifacts.team_transfer import export_records
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.spec import label_fault


@click.command
@click.argument("number", type=RUN_NUMBER)
@click.argument("label", metavar="NAME")
@click.option("--remove", is_flag=True, help="Remove the label instead.")
def command(number: int, label: str, *, remove: bool) -> None:
    """Add the label NAME to run NUMBER; `conjure ps --label NAME` lists runs with it."""
    fault = label_fault(label)
    if fault is not None:
        raise UsageError(fault)
    home = Home.from_environment()
    with open_store(home) as store:
        (store.remove_label if remove else store.add_label)(number, label)
        labels = store.get(number).labels
    export_records(home)
    click.echo(f"Run {number}: {', '.join(labels) if labels else 'no labels'}")
