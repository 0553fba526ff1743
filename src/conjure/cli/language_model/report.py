"""What `conjure report` shows: one fine-tune's report, or several side by side.

Main entries: `show_report`, `compare_runs`. Invariant: a page that is there is shown, not
made again.
"""

import sys
from pathlib import Path
from types import ModuleType

import click

from conjure.cli.render import visible
from conjure.core.home import Home
from conjure.lm.report.report_schema import Report, report_from_json
from conjure.recipes.report import REPORT_FILE

PAGE_FILE = "report.html"
_TONES = {"good": ("✔", "green"), "mixed": ("~", "yellow"), "bad": ("✘", "red")}


def show_report(folder: Path, output: Path | None, *, quiet: bool) -> Path:
    """Print the verdict of the report in a folder; its page, made afresh into `output` if that is given.

    Args:
        folder: Where the report is.
        output: Where to write the page.
        quiet: Print nothing.
    """
    report = report_from_json((folder / REPORT_FILE).read_text("utf-8"))
    if not quiet:
        _show(report)
    return _page(report, folder, output)


def compare_runs(
    home: Home, names: tuple[str, ...], output: Path | None, *, as_json: bool, with_page: bool
) -> Path | None:
    """Compare runs and print what came out; the page, or None where none was wanted."""
    return _with_torch().compare_runs(home, names, output, as_json=as_json, with_page=with_page)


def _page(report: Report, folder: Path, output: Path | None) -> Path:
    if output is None and (folder / PAGE_FILE).is_file():
        return folder / PAGE_FILE
    page = output if output is not None else Path(PAGE_FILE)
    _with_torch().save_page(report, page)
    return page


def _with_torch() -> ModuleType:
    # torch takes a second to import, and the report of one run that has its page does without.
    from conjure.cli.language_model import report_comparison

    return report_comparison


def _show(report: Report) -> None:
    title = f"Run {report.run}: {report.title}" if report.run is not None else report.title
    click.echo(click.style(visible(title), bold=True))
    click.echo(visible(report.verdict.headline))
    if report.verdict.next_step is not None:
        click.echo(visible(report.verdict.next_step))
    for finding in report.verdict.findings:
        mark, colour = _TONES.get(finding.tone, ("·", "white"))
        mark = click.style(mark, fg=colour) if sys.stdout.isatty() else mark
        click.echo(f"\n{mark} {visible(finding.answer)}\n  {visible(finding.detail)}")
