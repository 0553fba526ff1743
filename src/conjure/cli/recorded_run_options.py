"""What commands of the language-model half share when they are to be recorded as runs.

Main entries: `record`, `recording_options`. Invariant: a command that is a run's command already is not
recorded again; it belongs to that run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from conjure.core.home import Home
from conjure.core.units import parse_size
from conjure.errors import UsageError, option
from conjure.metric_logging import inside_a_run
from conjure.recipes.run_specs import UNRECORDED_INPUT, placed
from conjure.runs.schema.spec import ComputeRequest, RunSpec

STANDARD_INPUT = "-"
RECORDING = ("background", "description", "label", "project", "retry", "on", "cpus", "gpus", "memory")


RETRY_OPTION = click.option(
    "--retry",
    type=int,
    default=0,
    metavar="N",
    help="Start the run again up to N times if it is interrupted.",
)
PLACE_OPTIONS = (
    click.option("--on", metavar="NAME", help="Execute the run on this executor."),
    click.option("--cpus", type=float, metavar="N", help="Wait until N cores are free."),
    click.option("--gpus", type=int, metavar="N", help="Wait until N GPUs are free."),
    click.option("--memory", metavar="8GB", help="Wait until this much memory is free."),
)


def compute_request(options: Mapping[str, Any]) -> ComputeRequest:
    """What the values of `PLACE_OPTIONS` ask for."""
    memory = options["memory"]
    return ComputeRequest(options["cpus"], options["gpus"], parse_size(memory) if memory else None)


def recording_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say how a run is recorded."""
    for each in (
        click.option(
            "--project",
            metavar="NAME",
            help="Project that the run belongs to; default: the name of the repository's folder.",
        ),
        click.option("--label", multiple=True, metavar="NAME", help="Add a label to the run."),
        click.option("-d", "--description", default="", metavar="TEXT", help="Description of the run."),
        RETRY_OPTION,
        *reversed(PLACE_OPTIONS),
        click.option("-b", "--background", is_flag=True, help="Start the run and return at once."),
    ):
        command = each(command)
    return command


def refuse_unrecorded(recording: Mapping[str, Any], hint: str) -> None:
    """Refuse options that only a run can have.

    Args:
        recording: The values of the options of `recording_options`.
        hint: How to have a run.

    Raises:
        UsageError: One of them is given.
    """
    for name in RECORDING:
        if recording[name] and not inside_a_run():
            raise UsageError(f"{option(name)} applies only to recorded runs", hint=hint)


def refuse_output(output: Path | None, file: str) -> None:
    """Refuse a file to write beside --save: a run keeps what it wrote among its outputs.

    Args:
        output: The file.
        file: What the run calls its own.

    Raises:
        UsageError: It is given.
    """
    if output is not None and not inside_a_run():
        raise UsageError(
            f"{option('output')} and {option('save')} cannot be combined: a run writes runs/N/{file}",
            hint=f"copy it afterwards: conjure cp runs/N/{file}",
        )


def refuse_standard_input(names: Sequence[str], instead: str) -> None:
    """Refuse to record what reads standard input.

    Args:
        names: Of the data.
        instead: What else can be done with it.

    Raises:
        UsageError: It is among them.
    """
    if STANDARD_INPUT in names:
        raise UsageError(UNRECORDED_INPUT, hint=f"save it to a file, or {instead}")


def record(spec: RunSpec, recording: Mapping[str, Any], *, as_json: bool) -> int:
    """Submit a run and follow it; its command saves and stops at the first ^C. Returns the exit status.

    Args:
        spec: The run.
        recording: The values of the options of `recording_options`.
        as_json: Print JSON.
    """
    # Half of what such a command imports, which it does without where nothing is recorded.
    from conjure.cli.submit_and_follow import submit_and_follow

    home = Home.from_environment()
    spec = placed(
        replace(spec, retry=recording["retry"]),
        recording["on"],
        compute_request(recording),
    )
    return submit_and_follow(
        home, spec, background=recording["background"], as_json=as_json, interrupt_stops=True
    )
