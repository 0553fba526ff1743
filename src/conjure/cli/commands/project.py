"""`conjure project`: what runs belong to."""

from typing import Any

import click

from conjure.cli.render import note, write_json
from conjure.cli.tables import Column, show_table
from conjure.core.home import Home
from conjure.core.home_selection import with_home
from conjure.core.text import plural, to_iso
from conjure.core.times import age
from conjure.errors import UsageError
from conjure.runs.database.base import Project
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.spec import project_fault


@click.group("project")
def command() -> None:
    """List and rename the projects that runs belong to."""


@command.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array of objects.")
def ls(*, as_json: bool) -> None:
    """List projects, the most recently used first."""
    with open_store(Home.from_environment()) as store:
        projects = store.projects()
    if as_json:
        write_json(list(map(_to_dict, projects)))
        return
    if projects:
        columns = [
            Column("PROJECT"),
            Column("RUNS", right=True),
            Column("ACTIVE", right=True),
            Column("NEWEST", right=True),
            Column("AGE", right=True),
        ]
        show_table(columns, [_row(project) for project in projects])
    else:
        example = with_home('conjure run "echo hello"')
        note(f"No runs yet; start one: {example}")


@command.command("rename")
@click.argument("name")
@click.argument("new_name")
def rename(*, name: str, new_name: str) -> None:
    """Rename project NAME to NEW_NAME. If NEW_NAME exists, the two are merged."""
    fault = project_fault(new_name)
    if fault is not None:
        raise UsageError(fault)
    with open_store(Home.from_environment()) as store:
        runs = store.rename_project(name, new_name)
    click.echo(f"{plural(runs, 'run')} of {name} now belong{'s' if runs == 1 else ''} to {new_name}")


def _row(project: Project) -> list[Any]:
    return [
        "(none)" if project.name is None else project.name,
        str(project.runs),
        str(project.active),
        str(project.newest),
        "-" if project.requested_at is None else age(project.requested_at),
    ]


def _to_dict(project: Project) -> dict[str, Any]:
    return {
        "name": project.name,
        "runs": project.runs,
        "active": project.active,
        "newest": project.newest,
        "requested_at": to_iso(project.requested_at),
    }
