"""`conjure run`: put it in front of any command."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from conjure.cli.render import remark
from conjure.cli.run_options import run_options, run_spec
from conjure.cli.saved_commands.options import SavableCommand, saved_command_options
from conjure.cli.saved_commands.options import save_command as save_to_file
from conjure.cli.submit_and_follow import submit_and_follow
from conjure.core.home import Home
from conjure.errors import UsageError
from conjure.runs.inspect.submission_warnings import submission_warnings
from conjure.runs.schema.argv import unknown_placeholders
from conjure.runs.schema.spec import parse_assignment


@click.command(
    cls=SavableCommand,
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS] [--]",
    epilog="A COMMAND of one word is run by the shell; several words are a program and its arguments, passed"
    " exactly. The exit status is the command's own.",
)
@run_options
@click.option("-b", "--background", is_flag=True, help="Start the run and return at once.")
@click.option("--param", multiple=True, metavar="NAME=VALUE", help="Replace :NAME: in the command by VALUE.")
@click.option(
    "--idempotent",
    is_flag=True,
    help="Reuse a completed run with identical code, environment, mounts and command.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object at the end instead of the transcript."
)
@saved_command_options
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="COMMAND...")
@click.pass_context
def command(context: click.Context, /, *, save_command: Path | None, **options: Any) -> int:
    """Run COMMAND as a numbered, isolated, recorded run."""
    home = Home.from_environment()
    params = _params(options["param"])
    spec = run_spec(home, options, params, idempotent=options["idempotent"])
    if save_command is not None:
        return save_to_file(context, save_command, spec.stored().withheld or ())
    for name in unknown_placeholders(spec.command, spec.params):
        remark(f"the command contains :{name}:, but no --param {name}=… was given")
    for warning in submission_warnings(spec):
        remark(warning)
    return submit_and_follow(home, spec, background=options["background"], as_json=options["as_json"])


def _params(texts: Iterable[str]) -> dict[str, str]:
    params: dict[str, str] = {}
    for name, value in (parse_assignment("params", text) for text in texts):
        if name in params:
            raise UsageError(f"--param {name} is given twice: {params[name]!r} and {value!r}")
        params[name] = value
    return params
