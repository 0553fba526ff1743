"""`conjure report`: what a tuned model learned, in a few lines and as a page.

Main entry: `command`. Invariant: stdout holds the verdict, or the whole report as JSON, and nothing else.
"""

import webbrowser
from pathlib import Path

import click

from conjure.cli.render import note, write_json_text
from conjure.core.home import Home
from conjure.recipes.report import REPORT_FILE, report_folder


@click.command()
@click.argument("names", metavar="[NUMBER|FOLDER]...", nargs=-1)
@click.option("--open", "opened", is_flag=True, help="Open the report in the browser.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the report page to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(names: tuple[str, ...], *, opened: bool, output: Path | None, as_json: bool) -> None:
    """Show the report of the fine-tune of run NUMBER, or in FOLDER.

    The default is the newest run that has a report. Several runs, as in `conjure report 3 5 8`, are compared
    on records that none of them was trained on.
    """
    home, single, wants_page = Home.from_environment(), len(names) < 2, output is not None or opened
    folder = report_folder(home, names[0] if names else None) if single else None
    if folder is not None and as_json:
        write_json_text((folder / REPORT_FILE).read_text("utf-8"))
        if not wants_page:
            return
    # Imports numpy, which --help must not.
    from conjure.cli.language_model import report as implementation

    if folder is not None:
        page = implementation.show_report(folder, output, quiet=as_json)
    else:
        page = implementation.compare_runs(
            home, names, output, as_json=as_json, with_page=wants_page or not as_json
        )
    if page is None:
        return
    note(f"Page: {page}")
    if opened and not webbrowser.open(page.absolute().as_uri()):
        note("No browser could be opened here; open that file in one.")
