"""Reports by name: of a run, an upload or a folder.

Main entries: `report_folder`, `learned_nothing`. Invariant: a run's outputs are never written to.
"""

import json
import re
from contextlib import suppress
from pathlib import Path

from conjure.core.home import Home
from conjure.errors import ConjureError, NotFoundError
from conjure.recipes.resource_lookup import is_resource, resolve_resource
from conjure.runs.artifacts.team_transfer import bring_files
from conjure.runs.database.base import RunFilter
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.resource import RUNS, Resource
from conjure.runs.schema.run_folder import RunFolder

REPORT_FILE = "report.json"
_NUMBER = re.compile(r"#?[1-9][0-9]{0,17}")
_WHO_WRITES_ONE = "fine-tunes write one unless they are interrupted"


def report_folder(home: Home, name: str | None) -> Path:
    """The folder that holds the report of a run (by number or resource) or of a checkpoint folder.

    Args:
        name: The run or folder; the newest run that has a report if None.

    Raises:
        NotFoundError: There is no such thing, or no report in it.
    """
    if name is None:
        return _newest_report(home)
    resource = f"runs/{name.removeprefix('#')}" if _NUMBER.fullmatch(name) else name
    if is_resource(home, resource):
        folder = resolve_resource(home, resource)
    else:
        folder = Path(name)
        if not folder.is_dir():
            raise NotFoundError(f"there is no run, resource or folder {name!r}", fix="conjure ps")
    if not (folder / REPORT_FILE).is_file():
        raise NotFoundError(
            f"{resource} has no report (no {REPORT_FILE}); {_WHO_WRITES_ONE}", fix="conjure ps"
        )
    return folder


def _newest_report(home: Home) -> Path:
    with open_store(home) as store:
        numbers = sorted(store.numbers(), reverse=True)
        tuned = {run.number for run in store.listing(RunFilter(limit=None)) if run.kind == "finetune"}
    for number in numbers:
        if home.is_elsewhere(number) and number in tuned:
            with suppress(NotFoundError):  # it goes on, or saved nothing
                bring_files(home, Resource(RUNS, str(number), None, ()))
        folder = RunFolder.of(home, number).outputs
        if (folder / REPORT_FILE).is_file():
            return folder
    raise NotFoundError(f"no run has a report; {_WHO_WRITES_ONE}", fix="conjure ps")


def learned_nothing(home: Home, record: RunRecord) -> bool:
    """Whether a run was a fine-tune whose report says that the result is the untouched base model."""
    if record.spec.kind != "finetune":
        return False
    try:
        report = resolve_resource(home, f"runs/{record.number}") / REPORT_FILE
        return json.loads(report.read_text("utf-8"))["verdict"]["state"] == "unchanged"
    except (ConjureError, OSError, ValueError, KeyError, TypeError):
        return False  # it has no report, or one of 0.1.0
