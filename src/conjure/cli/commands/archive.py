"""`conjure archive`: put runs away."""

import click

from conjure.cli.archive_runs import set_archived
from conjure.cli.run_number_type import RUN_NUMBER


@click.command
@click.argument("numbers", type=RUN_NUMBER, nargs=-1, required=True, metavar="NUMBER...")
def command(numbers: tuple[int, ...]) -> None:
    """Hide runs from `conjure ps` (`conjure ps -a` still shows them). Nothing is deleted."""
    set_archived(numbers, archived=True)
