"""`conjure supervise`: what a job on a cluster's node calls; not for people."""

import json
from importlib.metadata import version

import click

from conjure.core.home import Home
from conjure.errors import ConjureError
from conjure.runs.database.opening import open_database
from conjure.runs.environments.uv import uv_program
from conjure.runs.lifecycle.supervisor import main_on_node


@click.command(hidden=True)
@click.option("--check", is_flag=True, help="Tell whether a supervisor could work here, as JSON.")
@click.argument("numbers", nargs=-1, type=int, metavar="NUMBER ATTEMPT")
def command(numbers: tuple[int, ...], *, check: bool) -> None:
    """Supervise attempt ATTEMPT at run NUMBER in this process."""
    home = Home.from_environment()
    if check:
        click.echo(json.dumps(_found(home)))
        return
    if len(numbers) != 2:
        raise click.UsageError("give a run's number and the attempt's")
    main_on_node(home, *numbers)


def _found(home: Home) -> dict[str, str]:
    """The version that is here; and of what else a supervisor needs what is wrong, or an empty text."""
    try:
        open_database(home, must_exist=True).close()
        database = ""
    except ConjureError as error:
        database = error.unspelled.message
    try:
        uv_program()
        uv = ""
    except ConjureError as error:
        uv = error.unspelled.message
    return {
        "version": version("conjure"),
        "uv": uv,
        "home": "" if home.team_file.is_file() else f"the home folder {home.root} is not there",
        "database": database,
    }
