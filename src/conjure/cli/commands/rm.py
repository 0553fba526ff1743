"""`conjure rm`: free the disk of what a run or upload holds."""

import sys

import click

from conjure.cli.render import note
from conjure.core.home import Home
from conjure.core.quoting import printable
from conjure.core.units import format_size
from conjure.runs.artifacts.team_transfer import export_records
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.maintenance.removal import removable, remove


@click.command
@click.argument("resources", nargs=-1, required=True, metavar="RESOURCE...")
@click.option("-f", "--force", is_flag=True, help="Also delete what ended runs used or a link points to.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
def command(resources: tuple[str, ...], *, force: bool, yes: bool) -> None:
    """Delete the files, not the record, of RESOURCE: runs/N, uploads/NAME, or one version, uploads/NAME@2.

    runs/last is the newest run. A link is removed with `conjure unlink`.

    On a terminal it asks for confirmation. Files that another run needs are not deleted. The run's record,
    log and metrics stay, and its number is not used again.
    """
    home = Home.from_environment()
    with open_store(home) as store:
        owners = list(dict.fromkeys(removable(store, resource).owner for resource in resources))
    if not yes and sys.stdin.isatty():
        names = ", ".join(map(printable, owners))
        click.confirm(f"Permanently delete the files of {names}?", abort=True, err=True)
    with open_store(home) as store:
        for owner in owners:
            freed = remove(home, store, owner, force=force)
            note(f"Removed {owner} ({format_size(freed)})")
    export_records(home)
