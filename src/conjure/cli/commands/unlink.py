"""`conjure unlink`: take a link's name away."""

import click

from conjure.cli.render import note
from conjure.core.home import Home
from conjure.runs.artifacts.team_transfer import export_records
from conjure.runs.lifecycle.open_store import open_store


@click.command
@click.argument("name")
def command(name: str) -> None:
    """Remove the link NAME; the resource itself stays."""
    home = Home.from_environment()
    with open_store(home) as store:
        store.remove_link(name)
    export_records(home)
    note(f"Removed link {name}")
