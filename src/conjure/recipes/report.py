"""Reports by name: of a run, an upload or a folder.

Main entry: `report_folder`. Invariant: a run's outputs are never written to.
"""

from pathlib import Path

from conjure.core.home import Home
from conjure.errors import NotFoundError
from conjure.recipes.resources import is_resource, resolve_resource

REPORT_FILE = "report.json"


def report_folder(home: Home, name: str) -> Path:
    """The folder that holds the report of a run (by number or resource) or of a checkpoint folder.

    Raises:
        NotFoundError: There is no such thing, or no report in it.
    """
    resource = f"runs/{name}" if name.isdecimal() else name
    folder = resolve_resource(home, resource) if is_resource(home, resource) else Path(name)
    if not (folder / REPORT_FILE).is_file():
        raise NotFoundError(
            f"{resource} has no report (no {REPORT_FILE})",
            fix="a fine-tune that was not interrupted writes one: conjure ps",
        )
    return folder
