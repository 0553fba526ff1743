"""`conjure report`: what a tuned model learned, in a few lines and as a page.

Main entry: `command`. Invariant: stdout holds the verdict, or the whole report as JSON, and nothing else.
"""

import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click

from conjure.cli.render import note
from conjure.core.files import write_atomically
from conjure.core.home import Home
from conjure.errors import DataError
from conjure.recipes.report import REPORT_FILE, report_folder

if TYPE_CHECKING:
    from conjure.lm.report.facts import Report

PAGE_FILE = "report.html"
_TONES = {"good": ("✔", "green"), "mixed": ("~", "yellow"), "bad": ("✘", "red")}


@click.command()
@click.argument("name", required=False, metavar="[N|FOLDER]")
@click.option("--open", "opened", is_flag=True, help="Open the page in the browser.")
@click.option("--output", type=click.Path(path_type=Path), help="Make the page afresh, into this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
def command(name: str | None, *, opened: bool, output: Path | None, as_json: bool) -> None:
    """Show what the model of run N (or in FOLDER) learned: is it better, does it copy, is it varied?

    Without N it is the newest run that has a report.
    """
    folder = report_folder(Home.from_environment(), name)
    text = (folder / REPORT_FILE).read_text("utf-8")
    if as_json:
        click.echo(text, nl=False)
        return
    from conjure.lm.report.facts import report_from_json

    report = report_from_json(text)
    _show(report)
    page = _page(report, folder, output)
    note(f"Page: {page}")
    if opened and not webbrowser.open(page.absolute().as_uri()):
        note("No browser could be opened here; open that file in one.")


def _page(report: "Report", folder: Path, output: Path | None) -> Path:
    if output is None and (folder / PAGE_FILE).is_file():
        return folder / PAGE_FILE
    from conjure.lm.report.page import render_html

    page = output if output is not None else Path(PAGE_FILE)
    try:
        write_atomically(page, render_html(report))
    except OSError as error:
        raise DataError(f"{page} cannot be written: {error.strerror or error}") from error
    return page


def _show(report: "Report") -> None:
    click.echo(click.style(report.title, bold=True))
    click.echo(report.verdict.headline)
    for finding in report.verdict.findings:
        mark, colour = _TONES.get(finding.tone, ("·", "white"))
        mark = click.style(mark, fg=colour) if sys.stdout.isatty() else mark
        click.echo(f"\n{mark} {finding.answer}\n  {finding.detail}")
