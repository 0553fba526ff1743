"""`conjure verify`: whether what was kept is still as it was kept."""

import click

from conjure.cli.render import visible, write_json
from conjure.core.home import Home
from conjure.core.text import plural
from conjure.core.units import format_size
from conjure.runs.artifacts.verification import verify
from conjure.runs.lifecycle.open_store import open_store


@click.command
@click.argument("resources", nargs=-1, required=True, metavar="RUN|UPLOAD...")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array: resource, files, faults.")
def command(resources: tuple[str, ...], *, as_json: bool) -> int:
    """Check the files of runs (N or runs/N) and uploads (uploads/NAME) against their digests.

    The exit status is 1 if a file was changed, was added or is missing.
    """
    home = Home.from_environment()
    with open_store(home) as store:
        found = [verify(home, store, resource) for resource in resources]
    if as_json:
        write_json([each.to_dict() for each in found])
    else:
        for each in found:
            for fault in each.faults:
                click.echo(f"{each.resource}: {visible(fault)}")
            if not each.faults:
                what = f"{plural(each.files, 'file')}, {format_size(each.size_bytes)}"
                click.echo(f"{each.resource}: {what}, unchanged")
    return 1 if any(each.faults for each in found) else 0
