"""`conjure rm`: free the disk of what a run or upload holds."""

import sys

import click

from conjure.cli.render import note
from conjure.core.home import Home
from conjure.core.quoting import printable
from conjure.core.units import format_size
from conjure.runs.lifecycle.ownership import open_store
from conjure.runs.maintenance.removal import remove


@click.command
@click.argument("resources", nargs=-1, required=True, metavar="RESOURCE...")
@click.option("-f", "--force", is_flag=True, help="Also what ended runs were made with, or a link leads to.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask, as where no terminal is.")
def command(resources: tuple[str, ...], *, force: bool, yes: bool) -> None:
    """Remove the files of RESOURCE: runs/N, uploads/NAME, or one version, uploads/NAME@2.

    On a terminal it asks first. What another run needs is refused. A removed run keeps its record, log and
    metrics, and its number is never given again.
    """
    if not (force or yes) and sys.stdin.isatty():
        names = ", ".join(map(printable, resources))
        click.confirm(f"Remove the files of {names} for good?", abort=True, err=True)
    home = Home.from_environment()
    with open_store(home) as store:
        for resource in resources:
            freed = remove(home, store, resource, force=force)
            note(f"removed {resource} ({format_size(freed)})")
