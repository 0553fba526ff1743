"""`conjure stop`: end runs and save their outputs."""

import click

from conjure.cli.run_number_type import RUN_NUMBER
from conjure.cli.run_termination import show_ending
from conjure.runs.database.base import STOP


@click.command
@click.argument("numbers", type=RUN_NUMBER, nargs=-1, required=True, metavar="NUMBER...")
@click.option("--json", "as_json", is_flag=True, help="Print the records as a JSON array.")
def command(numbers: tuple[int, ...], *, as_json: bool) -> None:
    """Stop runs: SIGTERM, after 30 seconds SIGKILL; then their outputs are saved."""
    show_ending(numbers, STOP, as_json=as_json)
