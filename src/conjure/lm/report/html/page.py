"""A report as one web page: no script, nothing fetched, readable on a phone, in the dark and on paper.

Main entry: `render_html`. Invariant: it says only what is in the `Report`, and every text in it is escaped.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from conjure.core.text import plural
from conjure.lm.report.extraction import LONGEST, SHORTEST
from conjure.lm.report.html.charts import length_histograms, loss_curve, new_ngrams_chart, runs_chart
from conjure.lm.report.html.gallery import closest, gallery
from conjure.lm.report.html.layout import (
    Row,
    figure,
    number,
    pair,
    percent,
    rows_of,
    section,
    section_beside,
    signed,
    table,
    term,
)
from conjure.lm.report.html.markup import Child, Markup, element
from conjure.lm.report.novelty import (
    COPY_WORDS,
    FEW_CHANGES,
    LONGEST_NGRAM,
    NEAR_COPY_RUN_WORDS,
    NEAR_COPY_SHARE,
)
from conjure.lm.report.report_schema import (
    Diversity,
    ExtractedShare,
    Extraction,
    Finding,
    HeldOutBaseline,
    HeldOutComparison,
    HeldOutScore,
    Plain,
    Report,
    State,
)
from conjure.lm.report.statistics import margin
from conjure.lm.report.verdict import change_digits, change_size

_SIGNS = {"good": "✓", "mixed": "≈", "bad": "✕", "unknown": "–"}
_ENDINGS = {"early_stop": ", where it stopped early", "interrupted": ", where it was interrupted"}
_MODELS = ("base model", "tuned model")
_NO_FETCHING = "default-src 'none'; style-src 'unsafe-inline'"  # for the browser to hold the page to it


def render_html(report: Report) -> str:
    """The whole page."""
    compared = (_lengths, _copying, _variety) if report.verdict.state != "unchanged" else ()
    sections = (_opening, _held_out, *compared, gallery, _circumstances)
    return document(f"{_heading(report)}: report", *(part(report) for part in sections))


def document(title: str, *parts: Markup) -> str:
    """A page of these parts, in the look of a report."""
    style = resources.files("conjure.lm.report.html").joinpath("report.css").read_text("utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_NO_FETCHING),
        element("title", title),
        element("style", Markup(style)),
    )
    body = element("body", element("main", *parts))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _opening(report: Report) -> Markup:
    verdict = report.verdict
    findings = verdict.findings[:1] if verdict.state == "unchanged" else verdict.findings
    return element(
        "header",
        element("h1", _heading(report)),
        element("p", _models(report), class_="quiet models"),
        element("p", verdict.headline, class_="headline"),
        element("p", _next_step(verdict.next_step), class_="next") if verdict.next_step is not None else None,
        element("ul", [_finding(finding) for finding in findings], class_="findings"),
    )


def _next_step(sentence: str) -> list[Child]:
    """A sentence whose options are not broken at their hyphens."""
    parts = re.split(r"(--[a-z-]+)", sentence)
    return [element("code", part) if part.startswith("--") else part for part in parts]


def _heading(report: Report) -> str:
    return f"Run {report.run}: {report.title}" if report.run is not None else report.title


def _models(report: Report) -> str:
    tuned = report.tuned.name if report.run is None else f"runs/{report.run}"
    return f"Base model: {report.base.name} · tuned model: {tuned}"


def _finding(finding: Finding) -> Markup:
    sign = element("span", _SIGNS[finding.tone], class_="sign", aria_hidden="true")
    return element(
        "li",
        element("h2", finding.question),
        element("p", sign, finding.answer, class_="answer"),
        element("p", finding.detail),
        class_=finding.tone,
    )


def _held_out(report: Report) -> Markup:
    heading, introduction = "Better on unseen text?", _about_losses(report)
    figures = _held_out_table(report) if report.verdict.state == "learned" else None
    if figures is None:
        return section_beside(heading, introduction, _loss_figure(report))
    return section(heading, introduction, pair(figures, _loss_figure(report)))


_LOSSES: dict[State, str] = {
    "learned": "Both models read the same held-out texts. Perplexity is the number of equally likely tokens "
    "with the same uncertainty; lower is better.",
    "unchanged": "The loss on held-out text was measured before and during training. It was never "
    "lower than before training, so the base model's weights were kept.",
    "nothing_held_out": "Nothing was held out of the training data, so there is no loss on unseen text. The "
    "training loss alone does not show whether a model got better.",
    "not_comparable": "All held-out text is also in the training text, so its loss does not measure "
    "unseen text.",
}
_SEEN_BY_BASE = (
    "The base model was trained on all held-out text, so its loss does not measure unseen text. The training "
    "loss alone does not show whether a model got better."
)


def _about_losses(report: Report) -> str:
    state, facts = report.verdict.state, report.held_out_facts
    seen = state == "not_comparable" and facts is not None and facts.all_seen_by_base
    return _SEEN_BY_BASE if seen else _LOSSES[state]


def _loss_figure(report: Report) -> Markup:
    course = report.course
    ended = f"Training took {course.steps:,} steps{_ENDINGS.get(course.end_reason, '')}."
    measured = any(point.held_out_loss is not None for point in course.points)
    note = (
        " The eval loss is measured on packed blocks of held-out tokens, so it differs a little from the "
        "loss in the table."
    )
    return figure(
        loss_curve(course),
        f"{ended} The weights of step {course.kept_step:,} were kept."
        + (note if report.verdict.state == "learned" else ""),
        ("train", "training loss"),
        *([("unseen", "eval loss")] if measured else []),
    )


def _held_out_table(report: Report) -> Markup | None:
    base, tuned, on = report.base.held_out, report.tuned.held_out, report.held_out
    if base is None or tuned is None or on is None:
        return None

    def row(name: Child, digits: int, of: Callable[[HeldOutScore], float | None]) -> Row:
        before, after = of(base), of(tuned)
        change = signed(after - before, digits) if before is not None and after is not None else "–"
        return name, (number(before, digits), number(after, digits), change)

    digits = change_digits(on.change)
    change = signed(on.change, digits) if round(on.change, digits) else change_size(abs(on.change), digits)
    error = ""
    if on.standard_error is not None:
        error = f" ± {change_size(margin(on.standard_error, on.counted), digits)}"
    loss = (f"{base.loss:.3f}", f"{tuned.loss:.3f}", f"{change}{error}")
    return table(
        ("", *_MODELS, "change"),
        (
            (term("loss", "Mean negative log-probability, in nats per token"), loss),
            row(term("perplexity", "exp(loss); depends on the tokenizer"), 1, lambda s: s.perplexity),
            row(term("bits per byte", "Comparable across tokenizers"), 3, lambda s: s.bits_per_byte),
            row(term("perplexity per word", "Comparable across tokenizers"), 0, lambda s: s.word_perplexity),
        ),
        f"{on.records:,} held-out {_protocol(report)}: {on.tokens:,} tokens, {on.words:,} "
        f"words, {on.bytes:,} bytes; context {on.context:,} tokens, stride {on.stride:,}. "
        f"{_counted_once(on)}± is 95% confidence.",
    )


def _protocol(report: Report) -> str:
    """What was scored, and after what."""
    if report.data.get("answer_tokens") is not None:
        return "records, the answers given what comes before them"
    return "texts, each after an end-of-text token"


def _counted_once(on: HeldOutComparison) -> str:
    """What the mean and its error are of, where that is not each text."""
    if on.counted == on.records:
        return f"{on.likelier:,} of the texts are more likely with the tuned model. "
    if on.counted > on.records:
        return (
            f"Because there are few texts, they are split into {on.counted:,} segments, each counted once. "
        )
    return (
        f"Duplicate texts are grouped; each of the {on.counted:,} groups is counted once; "
        f"{on.likelier:,} are more likely with the tuned model. "
    )


def _lengths(report: Report) -> Markup:
    scale, samples = report.lengths, len(report.tuned.samples)
    columns = (report.base.lengths, report.tuned.lengths, scale.data)
    figures = table(
        ("", *_MODELS, "data"),
        rows_of(
            columns,
            ("median length, tokens", lambda lengths: f"{lengths.median:g}"),
            ("mean length, tokens", lambda lengths: f"{lengths.mean:.1f}"),
            (f"{scale.limit} tokens or more", lambda lengths: percent(lengths.at_limit)),
            (
                term("distance to the data, tokens", "Wasserstein-1"),
                lambda lengths: f"{lengths.distance:.1f}",
            ),
        ),
        f"{samples:,} samples of at most {scale.limit:,} tokens; longer records count as {scale.limit:,}. "
        f"For 95% of random draws of {samples:,} real records, the distance is {scale.usual_distance:.1f} or "
        "less.",
    )
    histograms = figure(
        length_histograms(report),
        f"Share of the samples (bars) and of the data's records (line) in bins of {scale.width} tokens.",
        ("unseen", "the data's records"),
    )
    return section(
        "Learned the text lengths?",
        "The distance (Wasserstein-1) is the number of tokens by which the samples would have to grow or "
        "shrink, on average, to be as long as the data's records are.",
        pair(figures, histograms),
    )


def _copying(report: Report) -> Markup:
    text = report.training_text
    yardstick = (
        "Held-out text shows what is normal: records of the same kind, cut to the length of a sample, share "
        f"phrases with the training text too.{_left_out(report.normal)}"
        if report.normal is not None
        else "There is no held-out text to show what is normal."
    )
    ngrams = figure(
        new_ngrams_chart(report),
        "Share of the word n-grams that occur in no training record, ignoring case and punctuation.",
        *zip(("base", "tuned", "unseen"), _names(report), strict=False),
    )
    runs = figure(
        runs_chart(report),
        "The longest part of each text that occurs in a training record, character for character. "
        "Copies, with or without small changes, are larger and red. Hover over a dot for its figures.",
    )
    return section(
        "Just copying?",
        f"Every sample was compared with all {text.records:,} training records ({text.characters:,} "
        f"characters). {yardstick}",
        pair(
            element("div", _copying_table(report), _recital(report), class_="stack"),
            element("div", ngrams, runs, class_="stack"),
        ),
        closest(report.tuned),
    )


def _left_out(normal: HeldOutBaseline) -> str:
    if not normal.left_out:
        return ""
    texts, are, they = ("text", "is", "it is") if normal.left_out == 1 else ("texts", "are", "they are")
    return (
        f" {normal.left_out:,} held-out {texts} {are} left out of this comparison because {they} in the "
        "training text too, word for word or with small changes."
    )


def _copying_table(report: Report) -> Markup:
    columns = [report.base.novelty, report.tuned.novelty]
    columns += [report.normal.novelty] if report.normal is not None else []
    copy = (
        f"the whole text occurs in one training record, and has at least {COPY_WORDS} words or is the whole "
        "record"
    )
    near = (
        f"ignoring case and punctuation, {NEAR_COPY_SHARE:.0%} of its words, or all but {FEW_CHANGES} "
        f"({COPY_WORDS} at least), occur in the same order in one record, or in sequences of {COPY_WORDS} "
        f"words from records; or it contains {NEAR_COPY_RUN_WORDS} consecutive words of a record verbatim"
    )
    return table(
        ("", *_names(report)),
        rows_of(
            columns,
            (term("copies", copy), lambda novelty: f"{novelty.copies:,} of {novelty.texts:,}"),
            (
                term("copies with small changes", near),
                lambda novelty: f"{novelty.near_copies:,} of {novelty.texts:,}",
            ),
            ("longest verbatim match, words", lambda novelty: f"{novelty.longest_run_words:,}"),
            ("longest, tokens", lambda novelty: f"{novelty.longest_run_tokens:,}"),
            ("longest, characters", lambda novelty: f"{novelty.longest_run_characters:,}"),
            ("median text's longest match, words", lambda novelty: f"{novelty.median_run_words:g}"),
            *(
                (f"new {n}-grams", lambda novelty, n=n: percent(novelty.new_ngrams[n - 1]))
                for n in range(1, LONGEST_NGRAM + 1)
            ),
        ),
        f"Copy: {copy}. With small changes: {near}. The more texts a column has, the longer its longest "
        "match tends to be.",
    )


def _recital(report: Report) -> Markup | None:
    """How often each model completes a record whose first half it is given."""
    sides = (report.base.extraction, report.tuned.extraction)
    if None in sides:
        return None

    def row(name: str, of: Callable[[Extraction], ExtractedShare | None]) -> Row:
        shares = [of(side) for side in sides if side is not None]
        return name, [f"{share.extracted:,} of {share.records:,}" if share else "–" for share in shares]

    held_out = (row("held-out records completed", lambda extraction: extraction.held_out),)
    if not any(side is not None and side.held_out for side in sides):
        held_out = ()
    return table(
        ("", *_MODELS),
        (
            row("training records completed", lambda extraction: extraction.training),
            *held_out,
        ),
        "Each model is given the first half of a record and continues it with greedy decoding. A record "
        f"counts if the second half is reproduced exactly. Only records of at least {SHORTEST} tokens are "
        f"used, and only the first {LONGEST} tokens of longer ones.",
    )


def _variety(report: Report) -> Markup:
    columns = [report.base.diversity, report.tuned.diversity]
    columns += [report.normal.diversity] if report.normal is not None else []
    figures = table(
        ("", *_names(report)),
        rows_of(
            columns,
            *(
                (
                    term(f"distinct-{n}", f"Share of distinct {kind}"),
                    lambda d, n=n: percent(d.distinct[n - 1]),
                )
                for n, kind in enumerate(("words", "word pairs", "word triples"), start=1)
            ),
            (
                term("self-BLEU", "Mean BLEU-4 of each text against the others"),
                lambda d: number(d.self_bleu, 3),
            ),
            ("texts that repeat an earlier one", _repeats),
        ),
        f"distinct-n on the first {report.tuned.diversity.words:,} words of each column, because longer text "
        f"repeats more.{_equal_texts(columns)}",
    )
    explanation = element(
        "p",
        "distinct-n is the share of distinct words, pairs and triples among all; higher is more varied. "
        "self-BLEU measures how similar the texts are (1 means identical); lower is more varied.",
    )
    return section("Varied?", None, pair(figures, explanation))


def _repeats(diversity: Diversity) -> str:
    return f"{diversity.repeated:,}" + (f" of {diversity.texts:,}" if diversity.texts is not None else "")


def _equal_texts(columns: Sequence[Diversity]) -> str:
    """How many texts self-BLEU is of, where a report has it of as many in each column."""
    texts = [diversity.texts for diversity in columns if diversity.texts]
    return (
        f" self-BLEU on the first {plural(min(texts), 'text')} of each, for the same reason." if texts else ""
    )


def _names(report: Report) -> Sequence[str]:
    """What the columns are called: the models, and held-out text where there is any."""
    return _MODELS if report.normal is None else (*_MODELS, "held-out text")


def _circumstances(report: Report) -> Markup:
    parts = {"Training": report.settings, "Data": report.data, "Samples": report.sampling}
    blocks = [element("div", element("h3", name), _facts(values)) for name, values in parts.items()]
    return section("Settings", None, pair(*blocks))


def _facts(values: Plain) -> Markup:
    rows = [
        element("tr", element("th", name, scope="row"), element("td", value)) for name, value in _flat(values)
    ]
    return element("table", element("tbody", rows), class_="facts")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Names and values in words; histograms, which nobody reads as text, are left out."""
    for key, value in values.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        if isinstance(value, Mapping):
            if not any(isinstance(part, list) for part in value.values()):
                yield from _flat(value, f"{name}: ")
        elif not isinstance(value, list):
            yield name, _plain(value)
        elif value:
            yield name, "; ".join(map(_plain, value))


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(str(part) for part in value.values() if part is not None)
    if isinstance(value, int):
        return str(value) if value > 10**9 else f"{value:,}"  # a seed is no quantity
    if isinstance(value, float):
        return f"{value:g}"
    return value if value.strip() else "(empty)"
