"""`conjure diff`: what differs between two runs."""

from collections.abc import Iterator
from typing import Any

import click

from conjure.cli.render import note, visible, write_json
from conjure.cli.run_number_type import RUN_NUMBER
from conjure.cli.tables import heading, one_line
from conjure.core.home import Home
from conjure.core.text import plural
from conjure.core.units import format_number
from conjure.runs.inspect.run_diff import Change, CodeDifference, Difference, FileChange, compare
from conjure.runs.lifecycle.open_store import open_store

# The longest list comes last, and the two that say how it went before it.
_SECTIONS = ("settings", "params", "variables", "mounts", "result", "metrics", "packages")
_NAMES = {"dirty": "uncommitted changes", "root_name": "folder"}


@click.command
@click.argument("before", type=RUN_NUMBER)
@click.argument("after", type=RUN_NUMBER)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object with a list of changes per section."
)
def command(before: int, after: int, *, as_json: bool) -> None:
    """Compare the code, command, params, mounts, metrics and packages of two runs."""
    home = Home.from_environment()
    with open_store(home) as store:
        records = store.get(before), store.get(after)
        difference = compare(home, *records, store.summaries(before), store.summaries(after))
    if as_json:
        write_json(difference.to_dict())
    elif difference.is_empty:
        note(f"Runs {before} and {after} do not differ")
    else:
        _show(difference)


def _show(difference: Difference) -> None:
    click.echo(f"{_removed(f'- run {difference.before}')}\n{_added(f'+ run {difference.after}')}")
    if not difference.code.is_empty:
        heading("code")
        for line in _code_lines(difference.code):
            click.echo(line)
    for section in _SECTIONS:
        changes = difference.sections[section]
        if changes:
            heading(section)
        for change in changes:
            for line in _lines(section, change):
                click.echo(line)


def _code_lines(code: CodeDifference) -> Iterator[str]:
    for change in code.facts:
        yield from _lines("code", change)
    if code.unknown is not None:
        yield f"  {code.unknown}"
    if code.only_in is None:
        for file in code.files:
            yield f"  {_line_counts(file)}  {visible(_file_name(file))}"
    if code.files:
        whose = "" if code.only_in is None else f"only run {code.only_in} has code: "
        added = sum(file.added or 0 for file in code.files)
        deleted = sum(file.deleted or 0 for file in code.files)
        changed = f"{_added(f'+{added}')} {_removed(f'-{deleted}')} lines"
        yield f"  {whose}{plural(len(code.files), 'file')}, {changed}"


def _line_counts(file: FileChange) -> str:
    if file.added is None or file.deleted is None:
        return f"{'binary':>13}"
    return f"{_added(f'+{file.added}'.rjust(6))} {_removed(f'-{file.deleted}'.rjust(6))}"


def _file_name(file: FileChange) -> str:
    if file.kind == "renamed":
        return f"{file.before} → {file.path}"
    return file.path if file.kind == "modified" else f"{file.path} ({file.kind})"


def _lines(section: str, change: Change) -> Iterator[str]:
    """A short change on one line, a long one on two."""
    before, after = _shown(section, change.before), _shown(section, change.after)
    name = visible(_NAMES.get(change.name, change.name))
    if change.before is None:
        yield f"  {_added(f'+ {name}  {after}')}"
    elif change.after is None:
        yield f"  {_removed(f'- {name}  {before}')}"
    elif len(before) + len(after) <= 60:
        yield f"  {name}  {_removed(before)} → {_added(after)}{_by(section, change)}"
    else:
        yield f"  {name}"
        yield f"    {_removed(f'- {before}')}"
        yield f"    {_added(f'+ {after}')}"


def _by(section: str, change: Change) -> str:
    if section != "metrics":
        return ""
    return click.style(f"  ({change.after - change.before:+.6g})", dim=True)


def _shown(section: str, value: Any) -> str:
    if section == "metrics" and value is not None:
        return format_number(value)
    if value is True:
        return "yes"
    if isinstance(value, list | tuple):
        return visible(one_line(", ".join(map(str, value))))
    return visible(one_line(str(value)))


def _added(text: str) -> str:
    return click.style(text, fg="green")


def _removed(text: str) -> str:
    return click.style(text, fg="red")
