"""`conjure upload`: keep a file or folder under a name that runs can mount."""

from pathlib import Path

import click

from conjure.cli.render import StatusLine, note
from conjure.core.home import Home
from conjure.core.text import plural
from conjure.core.trees import Copied
from conjure.core.units import format_size
from conjure.runs.artifacts.uploads import upload


@click.command
@click.argument("path", type=click.Path(path_type=Path))
@click.option("-n", "--name", metavar="NAME", help="Name of the upload; default: the name of PATH.")
def command(path: Path, *, name: str | None) -> int:
    """Store a copy of PATH on this machine as uploads/NAME, and print that resource path.

    If the home belongs to a team with an object store, the copy is also sent there. A file uploaded under its
    own name is uploads/NAME itself; under another name it is a file in uploads/NAME. Uploading different
    content under the same name creates a new version: uploads/NAME is the newest, uploads/NAME@1 the first.
    Runs keep the version they started with. The exit status is 1 if anything was left out.
    """
    with StatusLine() as status:

        def show(copied: Copied) -> None:
            status.show(f"Uploading… {plural(copied.files, 'file')}, {format_size(copied.size_bytes)}")

        done = upload(Home.from_environment(), path, name, watch=show)
    for skipped in done.skipped:
        note(f"Left out: {skipped}")
    kept = done.upload
    what = f"{plural(kept.files, 'file')}, {format_size(kept.size_bytes)}"
    note(f"{what}: {f'version {kept.version}' if done.is_new else f'identical to version {kept.version}'}")
    click.echo(kept.resource)
    return 1 if done.skipped else 0
