"""`conjure doctor`: whether everything conjure needs is in order."""

import platform
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec

import click

from conjure.cli.render import note, on_terminal, visible, write_json
from conjure.core.home import Home
from conjure.core.home_selection import with_home
from conjure.installation import install_command
from conjure.lm.native import describe, status
from conjure.runs.maintenance.doctor import Finding, Rebuilt, State, examine, rebuild

_COLOURS = {State.OK: "green", State.WARNING: "yellow", State.FAULT: "red"}
_MARKS = {State.OK: "✓", State.WARNING: "!", State.FAULT: "✗"}
_NAME_WIDTH = 15


@click.command
@click.option("--reindex", is_flag=True, help="Rebuild the database from the run folders first.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON array of findings: name, state, text, fix, hint."
)
def command(*, reindex: bool, as_json: bool) -> int:
    """Check conjure's home folder, database and tools. The exit status is 1 if a check fails."""
    home = Home.from_environment()
    if reindex:
        note(_what_was_rebuilt(rebuild(home)))
    found = []
    for finding in _findings(home):
        found.append(finding)
        if not as_json:
            _show(finding)
    if as_json:
        write_json([finding.to_dict() for finding in found])
    return int(any(finding.state is State.FAULT for finding in found))


def _findings(home: Home) -> Iterator[Finding]:
    yield Finding("conjure", State.OK, f"{version('conjure')}, python {platform.python_version()}")
    yield from examine(home)
    yield _language_models()


def _language_models() -> Finding:
    """Whether models can run here, and on what; nothing heavy is imported to answer that."""
    if find_spec("tokenizers") is None or find_spec("numpy") is None:
        text = "not installed; runs do not need them"
        return Finding("language models", State.OK, text, install_command("lm"))
    if find_spec("torch") is None:
        works = "no model works" if status().library is None else "only generating, chatting and scoring work"
        text = f"native engine: {describe()}; without torch, {works}"
        return Finding("language models", State.OK, text, install_command("lm"))
    return Finding("language models", State.OK, f"native engine: {describe()}")


def _what_was_rebuilt(rebuilt: Rebuilt) -> str:
    count = len(rebuilt.numbers)
    text = f"Rebuilt the records of {count:,} run{'s' * (count != 1)}"
    if rebuilt.unreadable:
        text += f"; without a readable record: {', '.join(map(str, rebuilt.unreadable))}"
    if rebuilt.set_aside is not None:
        text += f"; the damaged file is now {rebuilt.set_aside}"
    return text


def _show(finding: Finding) -> None:
    mark = _MARKS[finding.state] if on_terminal() else finding.state.ljust(7)
    shown = click.style(mark, fg=_COLOURS[finding.state])
    click.echo(f"{shown} {finding.name:<{_NAME_WIDTH}}  {visible(finding.text)}")
    indent = " " * (len(mark) + _NAME_WIDTH + 3)
    if finding.hint is not None:
        click.echo(f"{indent}{click.style('hint:', bold=True)} {visible(finding.hint)}")
    if finding.fix is not None:
        click.echo(f"{indent}{click.style('try:', bold=True)} {with_home(finding.fix)}")
