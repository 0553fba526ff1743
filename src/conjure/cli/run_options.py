"""The options that say what a run is: those of `conjure run`, which trials of a sweep take too.

Main entries: `run_options`, `run_spec`. Invariant: an option means the same wherever it is taken.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from conjure.cli.explicit_options import is_typed
from conjure.cli.recorded_run_options import PLACE_OPTIONS, RETRY_OPTION, compute_request
from conjure.cli.render import remark
from conjure.cli.run_number_type import RUN_NUMBER
from conjure.core.config import NOT_WITH_IMAGE, load_config
from conjure.core.home import Home
from conjure.core.units import parse_duration
from conjure.errors import UsageError
from conjure.runs.environments.local_packages import keep_packages
from conjure.runs.environments.pip_requirements import read_requirements
from conjure.runs.schema.spec import (
    FAILED,
    INTERRUPTED,
    CodeChoice,
    EnvironmentChoice,
    Mount,
    RunSpec,
    current_folder,
    parse_assignment,
)

_CURRENT = "current"
_NO_CONDA = (
    "--conda-file: conda environments are not supported; use --pip or --pip-req, or an --image that has one"
)


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say what a run is, but for those about params, and how it is shown."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _without_settings(context: click.Context, _parameter: click.Parameter, image: str | None) -> str | None:
    """Leave out settings that a run with an image cannot have, so that only what is typed is refused."""
    if image is not None and context.default_map:
        kept = {name: value for name, value in context.default_map.items() if name not in NOT_WITH_IMAGE}
        context.default_map = kept
    return image


_OPTIONS = (
    click.option(
        "-m", "--mount", multiple=True, metavar="RES[:PATH][:ro]", help="Mount a resource or local file."
    ),
    click.option("--pip", multiple=True, metavar="PKG", help="Add a Python package to the environment."),
    click.option("--pip-req", multiple=True, metavar="FILE", help="Add the packages of a requirements file."),
    click.option("--python", metavar="X.Y", help="Python version of a clean environment."),
    click.option(
        "--base",
        default=_CURRENT,
        metavar="current|none",
        help="Start from the current environment or from none.",
    ),
    click.option("--deps-from-env", is_flag=True, help="The same as --base current."),
    click.option(
        "-e",
        "--env",
        multiple=True,
        metavar="KEY[=VALUE]",
        help="Set an environment variable, or pass one through.",
    ),
    click.option("--git-url", "--github-url", metavar="URL", help="Run another repository's code."),
    click.option("--git-ref", "--github-ref", metavar="REF", help="Branch, tag or commit of --git-url."),
    click.option(
        "-c", "--commit", "--commit-ref", metavar="REF", help="Run this commit of the current repository."
    ),
    click.option("--committed", is_flag=True, help="Leave out uncommitted and untracked files."),
    click.option(
        "--image",
        "--docker-image",
        "--from",
        "image",
        metavar="IMAGE",
        is_eager=True,  # before the options that settings give values to
        callback=_without_settings,
        help="Run the command in a container of this image, with podman or docker.",
    ),
    click.option("--apt", multiple=True, metavar="PKG", help="Add a Debian package to the --image."),
    click.option(
        "--sandbox/--no-sandbox",
        default=False,
        help="Hide home folders, other processes and the network; the system is read-only.",
    ),
    click.option("--network", is_flag=True, help="Let a sandboxed command reach the network."),
    click.option("-d", "--description", default="", metavar="TEXT", help="Description of the run."),
    click.option(
        "--project",
        metavar="NAME",
        help="Project that the run belongs to; default: the name of the repository's folder.",
    ),
    click.option("--label", multiple=True, metavar="NAME", help="Add a label to the run."),
    click.option("--timeout", metavar="90m", help="Stop the run after this time."),
    click.option(
        "--stop-condition",
        multiple=True,
        metavar="'loss > 9'",
        help="Stop the run when a metric meets this condition.",
    ),
    click.option(
        "--after",
        multiple=True,
        type=RUN_NUMBER,
        metavar="NUMBER",
        help="Start after this run has completed; stop if it does not complete.",
    ),
    RETRY_OPTION,
    click.option(
        "--retry-on",
        type=click.Choice([INTERRUPTED, FAILED]),
        default=INTERRUPTED,
        show_default=True,
        help="failed: also retry if the command fails.",
    ),
    click.option(
        "--checkpoint",
        multiple=True,
        metavar="GLOB",
        help="With --retry, pass new files that match to the next attempt.",
    ),
    click.option(
        "--distributed",
        type=int,
        metavar="N",
        help="Start N processes of the command, with torchrun's variables (RANK, WORLD_SIZE).",
    ),
    click.option(
        "--nodes",
        type=int,
        metavar="M",
        help="Execute the run on M nodes of --on, with the processes of --distributed on each.",
    ),
    *PLACE_OPTIONS,
    click.option("--output", multiple=True, metavar="GLOB", help="Save only new files that match."),
    click.option("--no-output", multiple=True, metavar="GLOB", help="Do not save new files that match."),
    click.option("--conda-file", hidden=True),
)


def run_spec(
    home: Home, options: Mapping[str, Any], params: Mapping[str, str], *, idempotent: bool = False
) -> RunSpec:
    """The run that the options ask for.

    Args:
        options: The values of `run_options`, and the ``command``.
        params: What replaces ``:NAME:`` in the command.
        idempotent: Reuse an equal run that completed.

    Raises:
        UsageError: What they say cannot be.
    """
    if options["conda_file"]:
        raise UsageError(_NO_CONDA)
    if options["sandbox"]:
        _refuse_packages_of_project(home)
    requirements, notes = read_requirements(home, map(Path, options["pip_req"]))
    for note in notes:
        remark(note)
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
            _base(options),
            options["python"],
            keep_packages(home, options["pip"], current_folder()),
            requirements or None,
            options["image"],
            apt=options["apt"],
        ),
        variables=dict(map(parse_variable, options["env"])),
        mounts=tuple(map(Mount.parse, options["mount"])),
        resources=compute_request(options),
        timeout_s=parse_duration(options["timeout"]) if options["timeout"] is not None else None,
        stop_conditions=options["stop_condition"],
        output=options["output"],
        no_output=options["no_output"],
        description=options["description"],
        labels=options["label"],
        project=options["project"],
        params=params,
        idempotent=idempotent,
        sandbox=options["sandbox"],
        network=options["network"],
        after=options["after"],
        retry=options["retry"],
        retry_on=options["retry_on"],
        checkpoint=options["checkpoint"],
        distributed=options["distributed"],
        nodes=options["nodes"],
        on=options["on"],
    )


def _refuse_packages_of_project(home: Home) -> None:
    """Have a sandboxed run install only packages that its user asks for.

    Raises:
        UsageError: Only a project's settings ask for them.
    """
    context = click.get_current_context()
    if context.get_parameter_source("pip") is ParameterSource.DEFAULT_MAP:
        config = load_config(home, current_folder())
        config.refuse_packages_of_project(is_sandbox_typed=is_typed(context, "sandbox"))


def _base(options: Mapping[str, Any]) -> str:
    """The environment that --base and --deps-from-env choose.

    Raises:
        UsageError: They choose different ones.
    """
    base = options["base"]
    if not options["deps_from_env"]:
        return base
    if is_typed(click.get_current_context(), "base") and base != _CURRENT:
        raise UsageError(f"--deps-from-env and --base {base} cannot be combined")
    return _CURRENT


def parse_variable(text: str) -> tuple[str, str]:
    """``KEY=VALUE``, or ``KEY`` with the value it has here."""
    if "=" in text:
        return parse_assignment("env", text)
    if text not in os.environ:
        raise UsageError(
            f"--env {text}: there is no variable {text} here", hint=f"give its value, as in -e {text}=VALUE"
        )
    return text, os.environ[text]
