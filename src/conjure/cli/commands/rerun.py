"""`conjure rerun`: a run's exact record, once more."""

from collections.abc import Mapping
from pathlib import Path

import click

from conjure.cli.render import note, remark
from conjure.cli.run_number_type import RUN_NUMBER
from conjure.cli.run_options import parse_variable
from conjure.cli.saved_commands.options import write_command
from conjure.cli.saved_commands.options_of_run import values_of_run
from conjure.cli.submit_and_follow import follow_submission
from conjure.core.home import Home
from conjure.core.home_selection import with_home
from conjure.errors import UsageError, option
from conjure.recipes.lazy_model_checks import changed_model_notes
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.lifecycle.submission import rerun


@click.command
@click.argument("number", type=RUN_NUMBER)
@click.option("-e", "--env", multiple=True, metavar="KEY[=VALUE]", help="Set a secret variable of the run.")
@click.option(
    "--save-command",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the run's options and command to a TOML file instead of repeating it.",
)
@click.option("-b", "--background", is_flag=True, help="Start the run and return at once.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object at the end instead of the transcript."
)
def command(
    number: int, *, env: tuple[str, ...], save_command: Path | None, background: bool, as_json: bool
) -> int:
    """Repeat run NUMBER with the same code, environment, mounts and command."""
    if save_command is not None:
        _refuse_beside_save_command({"env": env, "background": background, "json": as_json})
        return _save(number, save_command)
    home, variables = Home.from_environment(), dict(map(parse_variable, env))
    for sentence in changed_model_notes(home, number):
        note(sentence)
    return follow_submission(
        home,
        lambda announce: rerun(home, number, announce=announce, variables=variables),
        background=background,
        as_json=as_json,
    )


def _refuse_beside_save_command(given: Mapping[str, object]) -> None:
    """Refuse options of the run that is not started, by their names and values."""
    names = [option(name) for name, value in given.items() if value]
    if names:
        raise UsageError(
            f"{' and '.join(names)} cannot be combined with {option('save_command')}, which starts no run",
            hint=f"leave out {option('save_command')}, or {' and '.join(names)}",
        )


def _save(number: int, path: Path) -> int:
    with open_store(Home.from_environment()) as store:
        record = store.get(number)
    verb, values = values_of_run(record)
    write_command(path, values, verb)
    if record.code is not None and record.code.dirty:
        remark(
            f"run {number} had uncommitted changes, which the file does not contain;"
            f" `{with_home(f'conjure rerun {number}')}` repeats them"
        )
    return 0
