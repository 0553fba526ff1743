"""Two to fifty runs beside each other: only what differs, their curves over each other, their samples.

Main entry: `show`. Invariant: what is equal in all of them is not shown.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from conjure.core.files import open_regular
from conjure.core.home import Home
from conjure.core.units import format_number, format_size
from conjure.errors import ConjureError
from conjure.runs.artifacts.team_transfer import bring_files
from conjure.runs.inspect.code_diff import diff_between_runs
from conjure.runs.inspect.run_diff import compare_many
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.resource import RUNS, Resource
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.telemetry.metrics import Summary
from conjure.runs.views import status_text, status_tone
from conjure.web.rendering import page
from conjure.web.routes.curves import MOST_RUNS, numbers_in
from conjure.web.site import Site

_SAMPLES_FILE = "samples.json"
_MOST_SAMPLES = 20
_LARGEST_SAMPLES_BYTES = 1 << 22
_READING_S = 0.1


def show(request: Request) -> Response:
    """The page; without runs, it says how to choose some."""
    site: Site = request.app.state.site
    given = ",".join(request.query_params.getlist("runs"))
    numbers = numbers_in(given) if given else []
    with site.store() as store:
        records = [store.get(number) for number in numbers]
        summaries = [store.summaries(number) for number in numbers]
    until = time.monotonic() + _READING_S
    names = dict.fromkeys(
        name
        for number, known in zip(numbers, summaries, strict=True)
        for name in site.metric_names(number, known, until)
    )
    return page(
        request,
        "compare.html",
        records=[(record, status_text(record.facts), status_tone(record.facts)) for record in records],
        numbers=numbers,
        most=MOST_RUNS,
        sections=shown_differences(records, summaries),
        metrics=list(names),
        diff=diff_between_runs(site.home, *records) if len(records) == 2 else None,
        samples=_samples(site.home, records),
    )


def shown_differences(
    records: Sequence[RunRecord], summaries: Sequence[Mapping[str, Summary]]
) -> dict[str, list[tuple[str, list[str | None]]]]:
    """What differs between some runs, as text: rows by section, without sections that have none."""
    sections = compare_many(records, summaries) if len(records) > 1 else {}
    return {
        name: [(row, [_shown(row, value) for value in values]) for row, values in rows]
        for name, rows in sections.items()
        if rows
    }


def _shown(name: str, value: Any) -> str | None:
    """A value of a comparison as text, None where a run has none."""
    if value is None or isinstance(value, str):
        return value
    if name.endswith("_bytes") and isinstance(value, int):
        return format_size(value)
    if isinstance(value, float):
        return format_number(value)
    return json.dumps(value, ensure_ascii=False)


def _samples(home: Home, records: list[RunRecord]) -> list[tuple[str, list[str | None]]]:
    """What the runs generated from the same prompt with the same seed: what they share, and each's text."""
    by_run = [_generated(home, record.number) for record in records]
    shared = [key for key in by_run[0] if sum(key in each for each in by_run) > 1] if len(by_run) > 1 else []
    return [(key, [each.get(key) for each in by_run]) for key in shared[:_MOST_SAMPLES]]


def _generated(home: Home, number: int) -> dict[str, str]:
    """The samples that ``conjure generate`` saved in a run, by prompt, seed and place."""
    try:
        bring_files(home, Resource(RUNS, str(number), None, (_SAMPLES_FILE,)))
    except ConjureError:
        return {}
    file = RunFolder.of(home, number).outputs / _SAMPLES_FILE
    try:
        if file.is_symlink() or file.stat().st_size > _LARGEST_SAMPLES_BYTES:
            return {}
        with open_regular(file) as opened:
            stored = json.loads(opened.read())
        return {
            f"prompt {sample['prompt']!r}, seed {sample['seed']}, sample {sample['index']}": str(
                sample["text"]
            )
            for sample in stored["samples"]
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
