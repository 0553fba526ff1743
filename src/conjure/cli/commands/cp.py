"""`conjure cp`: copy files out of a run or upload."""

import sys
from pathlib import Path

import click

from conjure.cli.render import StatusLine, note
from conjure.core.home import Home
from conjure.core.text import plural
from conjure.core.trees import Copied
from conjure.core.units import format_size
from conjure.runs.artifacts.copy_out import plan_retrieval, retrieve
from conjure.runs.lifecycle.open_store import open_store


@click.command
@click.argument("source", metavar="SRC")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option("-f", "--force", "overwrite", is_flag=True, help="Overwrite existing files without asking.")
def command(source: str, folder: Path, *, overwrite: bool) -> int:
    """Copy SRC (runs/N[/path], uploads/NAME[/path] or a link's name) into the folder DIR.

    A file is copied into DIR; for a folder, its contents are. DIR is created if missing; the default is the
    current folder. The copies are writable. The exit status is 1 if anything was left out: a link that points
    outside, or a file that was removed during the copy.
    """
    home = Home.from_environment()
    with open_store(home) as store:
        plan = plan_retrieval(home, source, folder, store.lookup_link)
    if plan.in_the_way and not overwrite and sys.stdin.isatty():
        if not click.confirm(f"Overwrite {plan.describe_conflict()}?", err=True):
            note("Nothing was copied")
            return 1
        overwrite = True
    with StatusLine() as status:

        def show(copied: Copied) -> None:
            status.show(f"Copying… {plural(copied.files, 'file')}, {format_size(copied.size_bytes)}")

        copied = retrieve(plan, overwrite=overwrite, watch=show)
    for skipped in copied.skipped:
        note(f"Left out: {skipped}")
    note(f"Copied {plural(copied.files, 'file')} ({format_size(copied.size_bytes)}) to {folder}")
    return 1 if copied.skipped else 0
