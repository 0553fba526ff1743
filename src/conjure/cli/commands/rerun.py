"""`conjure rerun`: a run's exact record, once more."""

import click

from conjure.cli.commands.run import follow_submission
from conjure.cli.parameter_types import RUN_NUMBER
from conjure.core.home import Home
from conjure.runs.lifecycle.engine import rerun


@click.command
@click.argument("number", type=RUN_NUMBER)
@click.option("-b", "--background", is_flag=True, help="Do not follow the run.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end, no transcript.")
def command(number: int, *, background: bool, as_json: bool) -> int:
    """Cast run NUMBER's exact record again: same code, environment, mounts and command."""
    home = Home.from_environment()
    return follow_submission(
        home,
        lambda announce: rerun(home, number, announce=announce),
        background=background,
        as_json=as_json,
    )
