"""`conjure kill`: end runs at once."""

import click

from conjure.cli.run_number_type import RUN_NUMBER
from conjure.cli.run_termination import show_ending
from conjure.runs.database.base import KILL


@click.command
@click.argument("numbers", type=RUN_NUMBER, nargs=-1, required=True, metavar="NUMBER...")
@click.option("--json", "as_json", is_flag=True, help="Print the records as a JSON array.")
def command(numbers: tuple[int, ...], *, as_json: bool) -> None:
    """Kill runs (SIGKILL) without saving their outputs; `conjure recover` can save them later."""
    show_ending(numbers, KILL, as_json=as_json)
