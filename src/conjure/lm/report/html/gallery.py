"""The samples on the report page: a gallery, all of them, and those closest to the training text.

Main entries: `gallery`, `closest`. Invariant: which samples are shown follows from figures alone.
"""

from conjure.lm.report.html.layout import section
from conjure.lm.report.html.markup import Markup, element
from conjure.lm.report.report_schema import ModelResults, Report, SampleFacts

_CLOSEST = 3
_ENDINGS = {"end_of_text": "ended by itself", "stop": "ended at a stop text", "length": "cut off"}
_TAGS = {"copy": "copy", "near copy": "copy with small changes"}


def gallery(report: Report) -> Markup:
    """The likeliest, the middling and the least likely samples of both models, and all of the tuned one's."""
    seed, tuned = report.sampling.get("seed"), report.tuned
    unchanged = report.verdict.state == "unchanged"
    if unchanged:
        sides = [_one_side(tuned, "base", across=True)]
    else:
        sides = [_one_side(report.base, "base"), _one_side(tuned, "tuned")]
    kind = "base" if unchanged else "tuned"
    return section(
        "What are its samples like?",
        f"The most likely, median and least likely of {len(tuned.samples):,} samples, by each model's own "
        f"loss per token. Samples are selected by these figures only; seed {seed} reproduces them.",
        element("div", *sides, class_="gallery"),
        element(
            "details",
            element("summary", f"All {len(tuned.samples):,} samples of the {kind} model"),
            [_card(sample, kind) for sample in tuned.samples],
        ),
    )


def closest(side: ModelResults) -> Markup:
    """The samples with most in common with a training record, each above that record."""
    rank = {"copy": 0, "near copy": 1, "own": 2}
    order = sorted(side.samples, key=lambda sample: (rank[sample.originality], -sample.run.characters))
    different = {sample.text: sample for sample in reversed(order) if sample.run.characters}
    shown = list(reversed(different.values()))[:_CLOSEST]
    cards = [_card(sample, "tuned", with_record=True) for sample in shown]
    return element(
        "div", element("h3", "Closest to the training text"), element("div", cards, class_="cards")
    )


def _one_side(side: ModelResults, kind: str, *, across: bool = False) -> Markup:
    """A model's samples, in a column of their own or each sort in a column across the page."""
    chosen = {
        "Most likely": side.gallery.best,
        "Median": side.gallery.typical,
        "Least likely": side.gallery.worst,
    }
    parts = [
        element("div", element("h4", name), [_card(side.samples[place], kind) for place in places])
        for name, places in chosen.items()
        if places
    ]
    samples = element("div", parts, class_="cards") if across else parts
    return element("div", element("h3", f"{kind.capitalize()} model"), samples)


def _card(sample: SampleFacts, kind: str, *, with_record: bool = False) -> Markup:
    """A sample with its figures; what it copied is marked, and the record shown that it is from."""
    figures = (
        f"sample {sample.index}",
        f"loss {sample.loss:.2f}",
        f"{sample.tokens:,} tokens",
        _ENDINGS[sample.finish_reason],
    )
    copied = sample.originality != "own"
    tag = [element("span", _TAGS[sample.originality], class_="tag"), " · "] if copied else None
    return element(
        "article",
        element("footer", sample.prompt.strip(), class_="question", dir="auto") if sample.prompt else None,
        _quoted(sample, mark=copied or with_record),
        element("footer", tag, " · ".join(figures)),
        _record(sample) if with_record else None,
        class_=f"sample side-{kind}",
    )


def _quoted(sample: SampleFacts, *, mark: bool) -> Markup:
    if not sample.text.strip():
        return element("p", "(empty)", class_="empty")
    before, verbatim, after = _parted(sample)
    middle = element("mark", verbatim) if mark and verbatim else verbatim
    return element("blockquote", before, middle, after, dir="auto")


def _record(sample: SampleFacts) -> Markup:
    run, (_, verbatim, _) = sample.run, _parted(sample)
    near = sample.near_record
    elsewhere = (
        f"Most of its words occur in the same order in training record {near + 1:,}."
        if sample.originality == "near copy" and near is not None and near != run.record
        else None
    )
    if not run.before and not run.after and verbatim == sample.text.strip():
        return element("footer", f"It is training record {run.record + 1:,}, word for word.")
    return element(
        "footer",
        f"Training record {run.record + 1:,} shares {run.characters:,} characters with it:",
        element("p", run.before, element("mark", verbatim), run.after, class_="source", dir="auto"),
        elsewhere,
    )


def _parted(sample: SampleFacts) -> tuple[str, str, str]:
    """A sample's text before, in and after its longest verbatim run."""
    start, end = sample.run.start, sample.run.start + sample.run.characters
    return sample.text[:start], sample.text[start:end], sample.text[end:]
