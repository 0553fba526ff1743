"""`conjure unarchive`: take runs out again that were put away."""

import click

from conjure.cli.archive_runs import set_archived
from conjure.cli.run_number_type import RUN_NUMBER


@click.command
@click.argument("numbers", type=RUN_NUMBER, nargs=-1, required=True, metavar="NUMBER...")
def command(numbers: tuple[int, ...]) -> None:
    """Show archived runs in `conjure ps` again."""
    set_archived(numbers, archived=False)
