"""`conjure unlink`: take a link's name away."""

import click

from conjure.cli.render import note
from conjure.core.home import Home
from conjure.runs.lifecycle.ownership import open_store


@click.command
@click.argument("name")
def command(name: str) -> None:
    """Remove the link NAME; the resource itself stays."""
    with open_store(Home.from_environment()) as store:
        store.remove_link(name)
    note(f"removed link {name}")
