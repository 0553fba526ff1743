"""`conjure rerun`: a run's exact record, once more."""

import click

from conjure.cli.parameter_types import RUN_NUMBER
from conjure.cli.run_following import follow_submission
from conjure.cli.run_options import parse_variable
from conjure.core.home import Home
from conjure.runs.lifecycle.submission import rerun


@click.command
@click.argument("number", type=RUN_NUMBER)
@click.option(
    "-e", "--env", multiple=True, metavar="KEY[=VALUE]", help="Set a secret variable that the run was given."
)
@click.option("-b", "--background", is_flag=True, help="Start the run and return at once.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object at the end instead of the transcript."
)
def command(number: int, *, env: tuple[str, ...], background: bool, as_json: bool) -> int:
    """Repeat run NUMBER with the same code, environment, mounts and command."""
    home, variables = Home.from_environment(), dict(map(parse_variable, env))
    return follow_submission(
        home,
        lambda announce: rerun(home, number, announce=announce, variables=variables),
        background=background,
        as_json=as_json,
    )
