"""The comparison of several fine-tunes as one web page, in the look of a report.

Main entry: `render_comparison`. Invariant: it says only what is in the `Comparison`, and escapes every text.
"""

from functools import partial

from conjure.lm.report.compare import SAMPLE_TOKENS, ComparedRun, Comparison, named
from conjure.lm.report.html.layout import number, percent, rows_of, section, table, term
from conjure.lm.report.html.markup import Markup, element
from conjure.lm.report.html.page import document
from conjure.lm.report.statistics import margin


def render_comparison(comparison: Comparison) -> str:
    """The whole page."""
    title = f"{named([run.run for run in comparison.runs])} compared"
    return document(
        title,
        element(
            "header",
            element("h1", title),
            element("p", comparison.headline, class_="headline"),
        ),
        _figures(comparison),
        _samples(comparison),
    )


def _figures(comparison: Comparison) -> Markup:
    samples = len(comparison.runs[0].samples)
    runs = comparison.runs
    loss = [("loss, nats per token", lambda run: number(run.loss, 3))] if comparison.same_tokenizer else []
    figures = table(
        ("", *(f"run {run.run}" for run in runs)),
        rows_of(
            runs,
            ("trained on", lambda run: ", ".join(run.data)),
            (term("rank", "1 is best; runs without a clear difference share a rank"), rank),
            (
                term("bits per byte", "Held-out loss, comparable between tokenizers; lower is better"),
                lambda run: number(run.bits_per_byte, 3),
            ),
            (
                term("above the lowest, bits per byte", "± is 95% confidence"),
                partial(behind, records=comparison.scored),
            ),
            *loss,
            ("copies among the samples", lambda run: f"{run.copies:,} of {samples:,}"),
            (
                term("distinct word pairs", "Among the same number of words; higher is more varied"),
                lambda run: percent(run.distinct_pairs),
            ),
            (
                "difference of sample lengths from the data, tokens",
                lambda run: f"{run.length_distance:.1f} (normal: up to {run.usual_distance:.1f})",
            ),
        ),
        protocol(comparison),
    )
    return section("Figures", None, element("div", figures, class_="wide"))


def protocol(comparison: Comparison) -> str:
    """On what the runs were compared, as sentences."""
    left_out = f"{_seen(comparison)}{_refused(comparison)}"
    if not comparison.scored:
        return f"No record was scored.{left_out}"
    which = (
        f"All {comparison.scored:,}"
        if comparison.scored == comparison.available
        else f"{comparison.scored:,} of {comparison.available:,}"
    )
    how = (
        "were scored: their answers, given what comes before them,"
        if comparison.questions
        else "were scored, each after an end-of-text token,"
    )
    return (
        f"{which} held-out records that no run was trained on {how} "
        f"context {comparison.context:,} tokens, stride {comparison.stride:,}.{left_out} A run has "
        "the same rank as the best one of that rank if there is no clear difference between them: p of a "
        "sign-flip test is 0.05 or more, or the losses differ by less than 0.02 nats per token."
    )


def _seen(comparison: Comparison) -> str:
    if not comparison.left_out:
        return ""
    return (
        f" {comparison.left_out:,} of {comparison.candidates:,} held-out records are left out, because a "
        "run was trained on them or on duplicates of them."
    )


def _refused(comparison: Comparison) -> str:
    if not comparison.unreadable:
        return ""
    return (
        f" {comparison.unreadable:,} of {comparison.candidates:,} are left out, because the chat template "
        "of a run does not accept them."
    )


def rank(run: ComparedRun) -> str:
    """The rank of a run, or a dash."""
    return str(run.rank) if run.rank is not None else "–"


def behind(run: ComparedRun, records: int) -> str:
    """How far a run is above the lowest held-out loss, and how sure that is; or a dash."""
    if run.behind is None or run.behind_error is None:
        return "–"
    return f"{run.behind:.3f} ± {margin(run.behind_error, records):.3f}"


def _samples(comparison: Comparison) -> Markup:
    columns = [(f"run {run.run}", run.samples) for run in comparison.runs]
    what = "The samples in a row have the same index and the same seed"
    if comparison.questions:
        columns.insert(0, ("question", comparison.questions))
        what = "The samples in a row answer the same question of a held-out conversation, with the same seed"
    names = element("tr", [element("th", name, scope="col") for name, _ in columns])
    rows = [
        element("tr", [element("td", text if text.strip() else "(empty)", dir="auto") for text in texts])
        for texts in zip(*(texts for _, texts in columns), strict=True)
    ]
    return section(
        "Samples",
        f"{what} ({comparison.seed}). A sample has at most {SAMPLE_TOKENS} tokens.",
        element(
            "div",
            element("table", element("thead", names), element("tbody", rows), class_="samples"),
            class_="wide",
        ),
    )
