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
from conjure.recipes.report import REPORT_FILE, report_folder, tuned_models

if TYPE_CHECKING:
    from conjure.lm.report.compare import Comparison
    from conjure.lm.report.facts import Report

PAGE_FILE = "report.html"
_TONES = {"good": ("✔", "green"), "mixed": ("~", "yellow"), "bad": ("✘", "red")}


@click.command()
@click.argument("names", metavar="[N|FOLDER…]", nargs=-1)
@click.option("--open", "opened", is_flag=True, help="Open the report in the browser.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the report page to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(names: tuple[str, ...], *, opened: bool, output: Path | None, as_json: bool) -> None:
    """Show the report of the fine-tune of run N, or in FOLDER.

    The default is the newest run that has a report. Several runs, as in `conjure report 3 5 8`, are compared
    on records that none of them was trained on.
    """
    home = Home.from_environment()
    if len(names) > 1:
        page = _compare(home, names, output, as_json)
    else:
        page = _one(home, names[0] if names else None, output, as_json)
    if page is None:
        return
    note(f"Page: {page}")
    if opened and not webbrowser.open(page.absolute().as_uri()):
        note("No browser could be opened here; open that file in one.")


def _one(home: Home, name: str | None, output: Path | None, as_json: bool) -> Path | None:
    folder = report_folder(home, name)
    text = (folder / REPORT_FILE).read_text("utf-8")
    if as_json:
        click.echo(text, nl=False)
        return None
    from conjure.lm.report.facts import report_from_json

    report = report_from_json(text)
    _show(report)
    return _page(report, folder, output)


def _compare(home: Home, names: tuple[str, ...], output: Path | None, as_json: bool) -> Path | None:
    models = tuned_models(home, names)
    from conjure.lm.report.compare import compare, comparison_to_json
    from conjure.lm.report.compare_page import render_comparison

    comparison = compare(models, tell=lambda sentence: note(f"{sentence}…"))
    if as_json:
        click.echo(comparison_to_json(comparison), nl=False)
        return None
    for line in comparison_lines(comparison):
        click.echo(line)
    page = output if output is not None else Path(f"report-{'-'.join(str(m.run) for m in models)}.html")
    _write(page, render_comparison(comparison))
    return page


def comparison_lines(comparison: "Comparison") -> list[str]:
    """A comparison as a terminal shows it."""
    from conjure.lm.report.compare_page import place, protocol

    samples = len(comparison.runs[0].samples)
    header = ("run", "place", "bits/byte", "copies", "distinct pairs", "length difference")
    rows = [
        (
            str(run.run),
            place(run),
            f"{run.bits_per_byte:.3f}" if run.bits_per_byte is not None else "–",
            f"{run.copies:,} of {samples:,}",
            f"{run.distinct_pairs:.0%}" if run.distinct_pairs is not None else "–",
            f"{run.length_distance:.1f} (chance: up to {run.usual_distance:.1f})",
        )
        for run in comparison.runs
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    return [comparison.headline, "", *lines, "", protocol(comparison)]


def _page(report: "Report", folder: Path, output: Path | None) -> Path:
    if output is None and (folder / PAGE_FILE).is_file():
        return folder / PAGE_FILE
    from conjure.lm.report.page import render_html

    page = output if output is not None else Path(PAGE_FILE)
    _write(page, render_html(report))
    return page


def _write(page: Path, content: str) -> None:
    try:
        write_atomically(page, content)
    except OSError as error:
        raise DataError(f"{page} cannot be written: {error.strerror or error}") from error


def _show(report: "Report") -> None:
    title = f"Run {report.run}: {report.title}" if report.run is not None else report.title
    click.echo(click.style(title, bold=True))
    click.echo(report.verdict.headline)
    if report.verdict.next_step is not None:
        click.echo(report.verdict.next_step)
    for finding in report.verdict.findings:
        mark, colour = _TONES.get(finding.tone, ("·", "white"))
        mark = click.style(mark, fg=colour) if sys.stdout.isatty() else mark
        click.echo(f"\n{mark} {finding.answer}\n  {finding.detail}")
