"""What commands of the language-model half share when they are to be recorded as runs.

Main entries: `record`, `recording_options`. Invariant: a command that is a run's command already is not
recorded again; it belongs to that run.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import click

from conjure.cli.run_following import follow_submission
from conjure.core.home import Home
from conjure.runs.lifecycle.submission import submit
from conjure.runs.schema.spec import RunSpec

RECORDING = ("background", "description", "label", "retry")


def recording_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say how a run is recorded."""
    for option in (
        click.option("--label", multiple=True, metavar="NAME", help="Add a label to the run."),
        click.option("-d", "--description", default="", metavar="TEXT", help="Description of the run."),
        click.option(
            "--retry",
            type=int,
            default=0,
            metavar="N",
            help="Start the run again up to N times if it is interrupted.",
        ),
        click.option("-b", "--background", is_flag=True, help="Start the run and return at once."),
    ):
        command = option(command)
    return command


def record(spec: RunSpec, recording: Mapping[str, Any], *, as_json: bool) -> int:
    """Submit a run and follow it; its command saves and stops at the first ^C. Returns the exit status.

    Args:
        spec: The run.
        recording: The values of the options of `recording_options`.
        as_json: Print JSON.
    """
    home = Home.from_environment()
    spec = replace(spec, retry=recording["retry"])
    return follow_submission(
        home,
        lambda announce: submit(home, spec, announce=announce),
        background=recording["background"],
        as_json=as_json,
        interrupt_stops=True,
    )
