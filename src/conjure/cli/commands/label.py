"""`conjure label`: names to find runs by."""

import click

from conjure.cli.parameter_types import RUN_NUMBER
from conjure.core.home import Home
from conjure.errors import UsageError
from conjure.runs.lifecycle.ownership import open_store
from conjure.runs.schema.spec import label_fault


@click.command
@click.argument("number", type=RUN_NUMBER)
@click.argument("label", metavar="NAME")
@click.option("--remove", is_flag=True, help="Take the label off instead.")
def command(number: int, label: str, *, remove: bool) -> None:
    """Give run NUMBER the label NAME; `conjure ps --label NAME` then finds it."""
    fault = label_fault(label)
    if fault is not None:
        raise UsageError(fault)
    with open_store(Home.from_environment()) as store:
        (store.remove_label if remove else store.add_label)(number, label)
        labels = store.get(number).labels
    click.echo(f"run {number}: {', '.join(labels) if labels else 'no labels'}")
