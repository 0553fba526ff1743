"""`conjure ls`: what runs and uploads there are, and the files in them."""

from datetime import datetime

import click

from conjure.cli.render import note, visible, write_json
from conjure.core.home import Home
from conjure.core.text import valid_utf8
from conjure.core.units import format_size
from conjure.runs.artifacts.listing import Listed, list_resource
from conjure.runs.lifecycle.open_store import open_store


@click.command
@click.argument("resource", required=False, metavar="[PATH]")
@click.option(
    "-l", "--long", "with_details", is_flag=True, help="Show size, time and link target of each entry."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array of objects.")
def command(resource: str | None, *, with_details: bool, as_json: bool) -> None:
    """List the files in PATH: runs/N, uploads/NAME, a folder in one of them, or a link's name.

    Without PATH, list the folders runs/ and uploads/ and the links; `conjure ps` lists runs. The files of a
    running run can be listed too.
    """
    home = Home.from_environment()
    with open_store(home) as store:
        found = list_resource(home, store, resource)
    if as_json:
        prefix = "" if resource is None else f"{resource.rstrip('/')}/"
        write_json([{"path": f"{prefix}{valid_utf8(each.name)}", **each.to_dict()} for each in found])
        return
    if found:
        click.echo("\n".join(_details(each) if with_details else _name(each) for each in found))
    else:
        note(f"Nothing in {resource}")


def _name(listed: Listed) -> str:
    return visible(valid_utf8(listed.name)) + ("/" if listed.kind == "folder" else "")


def _details(listed: Listed) -> str:
    size = "-" if listed.size_bytes is None else format_size(listed.size_bytes)
    time = "-"
    if listed.modified_at is not None:
        time = f"{datetime.fromtimestamp(listed.modified_at).astimezone():%Y-%m-%d %H:%M}"
    target = "" if listed.target is None else f" -> {visible(valid_utf8(listed.target))}"
    return f"{size:>8}  {time:<16}  {_name(listed)}{target}"
