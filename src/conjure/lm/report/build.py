"""A report as files: `report.json` with every figure, and `report.html` to read.

Main entries: `write_report`, `rebuild_page`. Invariant: each file is written whole or not at all, and the
page says what is in the JSON beside it.
"""

from pathlib import Path

from conjure.core.files import write_atomically
from conjure.errors import NotFoundError
from conjure.lm.report.html.page import render_html
from conjure.lm.report.report_schema import Report, report_from_json, report_to_json

JSON_NAME = "report.json"
PAGE_NAME = "report.html"


def write_report(folder: Path, report: Report) -> Path:
    """Write a report's two files into an existing folder; returns the page."""
    write_atomically(folder / JSON_NAME, report_to_json(report))
    page = folder / PAGE_NAME
    write_atomically(page, render_html(report))
    return page


def rebuild_page(folder: Path) -> Path:
    """Make `report.html` again from the `report.json` in a folder; returns the page.

    Raises:
        NotFoundError: There is no report in the folder.
        DataError: It is damaged, or a newer conjure wrote it.
    """
    path = folder / JSON_NAME
    if not path.is_file():
        raise NotFoundError(
            f"{folder} holds no {JSON_NAME}", hint="a fine-tune writes one into its outputs when it ends"
        )
    return write_report(folder, report_from_json(path.read_text(encoding="utf-8")))
