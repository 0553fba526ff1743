"""`conjure config`: what is set, where it was set, and setting it."""

from pathlib import Path
from typing import Any

import click

from conjure.cli.explicit_options import give_json_to_subcommand
from conjure.cli.render import write_json
from conjure.cli.tables import Column, show_table
from conjure.core.config import PROJECT_FILE, find_project_file, find_setting, load_config, write_setting
from conjure.core.home import Home
from conjure.errors import NotFoundError
from conjure.runs.schema.spec import current_folder

_project_option = click.option(
    "--project", is_flag=True, help="Change the project's conjure.toml instead of your own settings."
)


@click.group("config", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, *, as_json: bool) -> None:
    """Show all settings and where each was set, or change them."""
    if context.invoked_subcommand is not None:
        if as_json:
            give_json_to_subcommand(context)
        return
    config = load_config(Home.from_environment(), current_folder())
    rows = [(key, value, config.origins[key]) for key, value in config.values.items()]
    if as_json:
        write_json([{"key": key, "value": value, "from": origin} for key, value, origin in rows])
        return
    columns = [Column("SETTING"), Column("VALUE", shrinks=True), Column("FROM", shrinks=True)]
    show_table(columns, [[key, _shown(value), origin] for key, value, origin in rows])


@command.command("get")
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def get(key: str, *, as_json: bool) -> None:
    """Show the value of the setting KEY."""
    find_setting(key)
    config = load_config(Home.from_environment(), current_folder())
    value = config.values[key]
    if as_json:
        write_json({"key": key, "value": value, "from": config.origins[key]})
    else:
        click.echo(_shown(value))


@command.command("set")
@click.argument("key")
@click.argument("values", nargs=-1, required=True, metavar="VALUE...")
@_project_option
def set_(key: str, values: tuple[str, ...], *, project: bool) -> None:
    """Set the setting KEY to VALUE; only lists take several values."""
    path = _file(project=project)
    write_setting(path, key, values)
    click.echo(f"{key} is {_shown(values)} in {path}")


@command.command("unset")
@click.argument("key")
@_project_option
def unset(key: str, *, project: bool) -> None:
    """Remove the setting KEY, so that its default applies."""
    path = _file(project=project)
    if not path.exists():
        find_setting(key)
        raise NotFoundError(f"{key} is not set: there is no {path}", fix="conjure config")
    write_setting(path, key, None)
    click.echo(f"{key} is not set in {path}")


def _file(*, project: bool) -> Path:
    """The file to change: the user's, or the project's, which is made in the current folder if need be."""
    if not project:
        return Home.from_environment().create().config_file
    folder = current_folder()
    return find_project_file(folder) or folder / PROJECT_FILE


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
