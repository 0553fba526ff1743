"""`conjure link`: a name for a resource."""

import click

from conjure.cli.render import note, write_json
from conjure.core.home import Home
from conjure.core.home_selection import with_home
from conjure.errors import NotFoundError
from conjure.runs.artifacts.listing import list_resource
from conjure.runs.artifacts.resource_paths import check_link_name, parse
from conjure.runs.artifacts.team_transfer import export_records
from conjure.runs.lifecycle.open_store import open_store


@click.command
@click.argument("name", required=False)
@click.argument("resource", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: an array of all links, or one object.")
def command(name: str | None, resource: str | None, *, as_json: bool) -> None:
    """Create NAME as an alias of RESOURCE.

    With NAME alone, show that link; without arguments, list all links.
    """
    home = Home.from_environment()
    with open_store(home) as store:
        if name is not None and resource is not None:
            list_resource(home, store, resource)  # it must be there; what another machine has is not fetched
            store.set_link(check_link_name(name), str(parse(resource, store.lookup_link)))
        links = store.links() if name is None else [store.link(name)]
    if name is not None and resource is not None:
        export_records(home)
    if name is not None and links == [None]:
        raise NotFoundError(f"there is no link {name!r}", fix="conjure link")
    shown = [
        {"name": link.name, "resource": link.resource, "created_at": link.created_at}
        for link in links
        if link
    ]
    if as_json:
        write_json(shown if name is None else shown[0])
        return
    for link in shown:
        click.echo(f"{link['name']} -> {link['resource']}")
    if not shown:
        note(f"No links yet; create one: {with_home('conjure link NAME runs/N')}")
