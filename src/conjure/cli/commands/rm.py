"""`conjure rm`: free the disk of what a run or upload holds."""

import click

from conjure.cli.render import note
from conjure.core.home import Home
from conjure.core.units import format_size
from conjure.runs.lifecycle.ownership import open_store
from conjure.runs.maintenance.removal import remove


@click.command
@click.argument("resources", nargs=-1, required=True, metavar="RESOURCE...")
@click.option("-f", "--force", is_flag=True, help="Also what ended runs were made with, or a link leads to.")
def command(resources: tuple[str, ...], *, force: bool) -> None:
    """Remove the files of RESOURCE: runs/N, uploads/NAME, or one version, uploads/NAME@2.

    What another run needs is refused. A removed run keeps its record, log and metrics, and its number is
    never given again.
    """
    home = Home.from_environment()
    with open_store(home) as store:
        for resource in resources:
            freed = remove(home, store, resource, force=force)
            note(f"removed {resource} ({format_size(freed)})")
