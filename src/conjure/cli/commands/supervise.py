"""`conjure supervise`: what a job on a cluster's node calls; not for people."""

import json

import click

from conjure.core.home import Home
from conjure.core.home_selection import find_team_home
from conjure.errors import StoreError
from conjure.runs.lifecycle.first_node import NOT_JOINED, find_out, main_on_first_node
from conjure.runs.lifecycle.worker_node import main_on_worker_node


@click.command(hidden=True)
@click.option("--check", is_flag=True, help="Tell whether a supervisor could work here, as JSON.")
@click.option("--team", metavar="ID", help="Team whose run it is; if not given, the home names it.")
@click.option("--node", type=int, help="Which of the attempt's nodes this is, from 0.", default=0)
@click.argument("numbers", nargs=-1, type=int, metavar="NUMBER ATTEMPT")
def command(numbers: tuple[int, ...], *, team: str | None, node: int, check: bool) -> None:
    """Supervise attempt ATTEMPT at run NUMBER in this process."""
    home = Home.from_environment() if team is None else find_team_home(team)
    if check:
        click.echo(json.dumps(find_out(home)))
        return
    if len(numbers) != 2:
        raise click.UsageError("give a run's number and the attempt's")
    if home is None:
        raise StoreError(NOT_JOINED)
    if node:
        main_on_worker_node(home, *numbers, node)
    else:
        main_on_first_node(home, *numbers)
