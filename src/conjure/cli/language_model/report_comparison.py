"""What `conjure report` makes with torch: pages, and what it shows of several fine-tunes side by side.

Main entries: `compare_runs`, `save_page`. Invariant: stdout holds the comparison, or all of it as JSON,
and nothing else.
"""

from collections.abc import Sequence
from pathlib import Path

import click

from conjure.cli.render import note, remark, save_text, write_json_text
from conjure.core.home import Home
from conjure.lm.checkpoints.weights_digest import SHORT
from conjure.lm.report.compare import Comparison, compare, comparison_to_json
from conjure.lm.report.html.compare_page import behind, protocol, rank, render_comparison
from conjure.lm.report.html.page import render_html
from conjure.lm.report.report_schema import Report
from conjure.recipes.comparison_inputs import tuned_models
from conjure.recipes.used_models import models_of_one_name
from conjure.runs.lifecycle.open_store import open_store


def compare_runs(
    home: Home, names: tuple[str, ...], output: Path | None, *, as_json: bool, with_page: bool
) -> Path | None:
    """Compare runs and print what came out; the page, or None where none was wanted."""
    models = tuned_models(home, names)
    _note_models_of_one_name(home, [model.run for model in models])
    comparison = compare(models, tell=lambda sentence: note(f"{sentence}…"))
    if as_json:
        write_json_text(comparison_to_json(comparison))
    else:
        click.echo("\n".join(comparison_lines(comparison)))
    if not with_page:
        return None
    page = output if output is not None else Path(f"report-{'-'.join(str(m.run) for m in models)}.html")
    save_text(page, render_comparison(comparison))
    return page


def save_page(report: Report, page: Path) -> None:
    """Write the page of one run's report."""
    save_text(page, render_html(report))


def _note_models_of_one_name(home: Home, runs: Sequence[int]) -> None:
    """Say which runs started from which model, where several have one name."""
    with open_store(home) as store:
        records = [store.get(run) for run in runs]
    for name, digests in models_of_one_name(home, records).items():
        each = ", ".join(f"run {run} from {digest[:SHORT]}" for run, digest in digests.items())
        remark(f"the runs started from different models named {name}: {each}")


def comparison_lines(comparison: Comparison) -> list[str]:
    """A comparison as a terminal shows it."""
    samples = len(comparison.runs[0].samples)
    header = ("run", "rank", "bits/byte", "above lowest", "copies", "distinct pairs", "length difference")
    rows = [
        (
            str(run.run),
            rank(run),
            f"{run.bits_per_byte:.3f}" if run.bits_per_byte is not None else "–",
            behind(run, comparison.scored),
            f"{run.copies:,} of {samples:,}",
            f"{run.distinct_pairs:.0%}" if run.distinct_pairs is not None else "–",
            f"{run.length_distance:.1f} (normal: up to {run.usual_distance:.1f})",
        )
        for run in comparison.runs
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    return [comparison.headline, "", *lines, "", protocol(comparison)]
