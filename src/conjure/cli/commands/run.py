"""`conjure run`: put it in front of any command."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from conjure.cli.run_following import follow_submission
from conjure.cli.saved_commands.options import SavableCommand, saved_command_options
from conjure.cli.saved_commands.options import save_command as save_to_file
from conjure.core.home import Home
from conjure.core.units import parse_duration, parse_size
from conjure.errors import UsageError
from conjure.runs.environments.local_packages import keep_packages
from conjure.runs.environments.pip_requirements import read_requirements
from conjure.runs.lifecycle.overlooked import overlooked
from conjure.runs.lifecycle.submission import submit
from conjure.runs.schema.argv import unknown_placeholders
from conjure.runs.schema.spec import (
    CodeChoice,
    ComputeRequest,
    EnvironmentChoice,
    Mount,
    RunSpec,
    current_folder,
    parse_assignment,
)

_CURRENT = "current"
_NOT_YET = {
    "conda_file": "--conda-file: conda environments are not supported yet; use --pip or --pip-req",
    "apt": "--apt: system packages are not supported yet; install them on this machine",
    "docker_image": "--docker-image: containers are not supported yet",
}


def sandbox_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of the sandbox."""
    for option in (
        click.option("--network", is_flag=True, help="Let a sandboxed command reach the network."),
        click.option(
            "--sandbox/--no-sandbox",
            default=False,
            help="Hide home folders, other processes and the network; the system is read-only.",
        ),
    ):
        command = option(command)
    return command


@click.command(
    cls=SavableCommand,
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS] [--]",
    epilog="A COMMAND of one word is run by the shell; several words are a program and its arguments, passed"
    " exactly. The exit status is the command's own.",
)
@click.option(
    "-m", "--mount", multiple=True, metavar="RES[:PATH][:ro]", help="Mount a resource or local file."
)
@click.option("--pip", multiple=True, metavar="PKG", help="Add a Python package to the environment.")
@click.option("--pip-req", multiple=True, metavar="FILE", help="Add the packages of a requirements file.")
@click.option("--python", metavar="X.Y", help="Python version of a clean environment.")
@click.option(
    "--base",
    default=_CURRENT,
    metavar="current|none",
    help="Start from the current environment or from none.",
)
@click.option("--deps-from-env", is_flag=True, help="The same as --base current.")
@click.option(
    "-e",
    "--env",
    multiple=True,
    metavar="KEY[=VALUE]",
    help="Set an environment variable, or pass one through.",
)
@click.option("--git-url", "--github-url", metavar="URL", help="Run another repository's code.")
@click.option("--git-ref", "--github-ref", metavar="REF", help="Branch, tag or commit of --git-url.")
@click.option(
    "-c", "--commit", "--commit-ref", metavar="REF", help="Run this commit of the current repository."
)
@click.option("--committed", is_flag=True, help="Leave out uncommitted and untracked files.")
@sandbox_options
@click.option("-b", "--background", is_flag=True, help="Start the run and return at once.")
@click.option("-d", "--description", default="", metavar="TEXT", help="Description of the run.")
@click.option("--label", multiple=True, metavar="NAME", help="Add a label to the run.")
@click.option("--param", multiple=True, metavar="NAME=VALUE", help="Replace :NAME: in the command by VALUE.")
@click.option("--timeout", metavar="90m", help="Stop the run after this time.")
@click.option(
    "--stop-condition",
    multiple=True,
    metavar="'loss > 9'",
    help="Stop the run when a metric meets this condition.",
)
@click.option("--cpus", type=float, metavar="N", help="Wait until N cores are free.")
@click.option("--gpus", type=int, metavar="N", help="Wait until N GPUs are free.")
@click.option("--memory", metavar="8GB", help="Wait until this much memory is free.")
@click.option("--output", multiple=True, metavar="GLOB", help="Save only new files that match.")
@click.option("--no-output", multiple=True, metavar="GLOB", help="Do not save new files that match.")
@click.option(
    "--idempotent",
    is_flag=True,
    help="Reuse a completed run with identical code, environment, mounts and command.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object at the end instead of the transcript."
)
@saved_command_options
@click.option("--conda-file", hidden=True)
@click.option("--apt", multiple=True, hidden=True)
@click.option("--docker-image", "--from", hidden=True)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="COMMAND...")
@click.pass_context
def command(context: click.Context, /, *, save_command: Path | None, **options: Any) -> int:
    """Run COMMAND as a numbered, isolated, recorded run."""
    home = Home.from_environment()
    spec = _spec(home, options, base=_base(context))
    if save_command is not None:
        return save_to_file(context, save_command, spec.stored().withheld or ())
    for name in unknown_placeholders(spec.command, spec.params):
        click.echo(f"note: :{name}: in the command is not replaced: there is no --param {name}=…", err=True)
    for note in overlooked(spec):
        click.echo(f"note: {note}", err=True)
    return follow_submission(
        home,
        lambda announce: submit(home, spec, announce=announce),
        background=options["background"],
        as_json=options["as_json"],
    )


def _base(context: click.Context) -> str:
    """The environment that --base and --deps-from-env choose.

    Raises:
        UsageError: They choose different ones.
    """
    base = context.params["base"]
    if not context.params["deps_from_env"]:
        return base
    if base != _CURRENT and context.get_parameter_source("base") is ParameterSource.COMMANDLINE:
        raise UsageError(f"--deps-from-env and --base {base} cannot be combined")
    return _CURRENT


def _spec(home: Home, options: dict[str, Any], *, base: str) -> RunSpec:
    for name, refusal in _NOT_YET.items():
        if options[name]:
            raise UsageError(refusal)
    requirements, notes = read_requirements(home, map(Path, options["pip_req"]))
    for note in notes:
        click.echo(f"note: {note}", err=True)
    return RunSpec(
        command=options["command"],
        folder=current_folder(),
        code=CodeChoice(
            commit=options["commit"],
            committed=options["committed"],
            git_url=options["git_url"],
            git_ref=options["git_ref"],
        ),
        environment=EnvironmentChoice(
            base,
            options["python"],
            keep_packages(home, options["pip"], current_folder()),
            requirements or None,
        ),
        variables=dict(map(parse_variable, options["env"])),
        mounts=tuple(map(Mount.parse, options["mount"])),
        resources=ComputeRequest(
            options["cpus"], options["gpus"], parse_size(options["memory"]) if options["memory"] else None
        ),
        timeout_s=parse_duration(options["timeout"]) if options["timeout"] is not None else None,
        stop_conditions=options["stop_condition"],
        output=options["output"],
        no_output=options["no_output"],
        description=options["description"],
        labels=options["label"],
        params=_params(options["param"]),
        idempotent=options["idempotent"],
        sandbox=options["sandbox"],
        network=options["network"],
    )


def _params(texts: Iterable[str]) -> dict[str, str]:
    params: dict[str, str] = {}
    for name, value in (parse_assignment("--param", text) for text in texts):
        if name in params:
            raise UsageError(f"--param {name} is given twice: {params[name]!r} and {value!r}")
        params[name] = value
    return params


def parse_variable(text: str) -> tuple[str, str]:
    """``KEY=VALUE``, or ``KEY`` with the value it has here."""
    if "=" in text:
        return parse_assignment("--env", text)
    if text not in os.environ:
        raise UsageError(
            f"--env {text}: there is no variable {text} here", hint=f"give its value, as in -e {text}=VALUE"
        )
    return text, os.environ[text]
