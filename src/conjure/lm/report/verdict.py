"""From figures to plain words: did it get better, learn the lengths, copy, vary?

Main entry: `judge`. Every limit stands here, with its reason. Invariants: what is called good or bad is
measured against what is normal for unseen text of the same kind where there is any, against what so few
samples can show, and, where it copies, against a limit that nothing excuses; and a model that is the
untouched base, or that could not be measured, is never called good.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from conjure.core.text import plural
from conjure.core.units import format_number
from conjure.lm.report.novelty import Novelty
from conjure.lm.report.report_schema import (
    Course,
    Diversity,
    Extraction,
    Finding,
    HeldOutBaseline,
    HeldOutComparison,
    HeldOutFacts,
    HeldOutScore,
    LengthScale,
    ModelResults,
    State,
    Verdict,
)
from conjure.lm.report.statistics import FEWEST_CLEAR_GROUPS, LEVEL, SMALLEST_CHANGE, margin

ALL_LONG = 0.9  # where so many records reach a sample's limit, there are no lengths to be learned
NEARLY = 2.0  # times the normal distance: a difference that shows, but a small one
PART_OF_THE_WAY = 0.5  # of the base's distance is left, and …
ALIKE = 1 / 3  # … of the mean length: so far from it a shape is another one
COPIER = 0.2  # share of copies and near copies that nothing excuses: one sample in five
COPYING = 0.05  # share that no normal excuses from being called copying sometimes
RECITED = 0.05  # share of training records recited, above that of held-out records
VARIED = 0.8  # of the distinct-2 that unseen text has
MONOTONOUS = 0.6
REPEATING = 0.1  # share of samples that repeat another word for word
HIGHEST_ADVISED_RATE = 1e-3  # five times less than far too much is still too much


_QUESTIONS = (
    "Is it better on text it has not seen?",
    "Has it learned how long texts are?",
    "Is it just copying?",
    "Is it varied?",
)
_BETTER, _SHAPE, _COPYING, _VARIED = _QUESTIONS
_Z_95 = 1.96  # standard errors on either side of a share: 95 % confidence


@dataclass(frozen=True, slots=True)
class Figures:
    """What a verdict is made from; the fields are those of a `Report`.

    Attributes:
        held_out_facts: What was held out; None where it is not known.
        copied_held_out: Held-out records that stand in the training text too.
        learning_rate: The peak one, to name another; None where it is not known.
    """

    base: ModelResults
    tuned: ModelResults
    held_out: HeldOutComparison | None
    lengths: LengthScale
    normal: HeldOutBaseline | None
    course: Course
    held_out_facts: HeldOutFacts | None = None
    copied_held_out: int = 0
    learning_rate: float | None = None


def judge(figures: Figures) -> Verdict:
    """Put the figures of a report into words."""
    state = _state(figures)
    if state == "unchanged":
        return _unchanged(figures)
    base, tuned, normal = figures.base, figures.tuned, figures.normal
    unmeasured = _unmeasured(state, figures.held_out_facts)
    copying = _copying(tuned, normal)
    findings = (
        _better(base.held_out, tuned.held_out, figures.held_out, figures.held_out_facts)
        if unmeasured is None
        else Finding(_BETTER, "unknown", "Not measured", unmeasured.why),
        _shape(base, tuned, figures.lengths),
        copying,
        _variety(tuned, normal.diversity if normal is not None else None),
    )
    if copying.tone == "bad":
        headline = f"{copying.answer}: {_reason(tuned)}."
    else:
        answers = [finding.answer for finding in findings if finding.tone != "unknown"]
        opening = () if unmeasured is None else (unmeasured.headline,)
        first, *others = (*opening, *answers)
        headline = "; ".join([first, *(answer[0].lower() + answer[1:] for answer in others)]) + "."
    return Verdict(headline, findings, state, None if unmeasured is None else unmeasured.next_step)


@dataclass(frozen=True, slots=True)
class _Unmeasured:
    """Why it was not measured whether a model is better, and what would measure it."""

    headline: str
    why: str
    next_step: str


_NOTHING_HELD_OUT = _Unmeasured(
    "Nothing was held out, so whether it is better was not measured",
    "Nothing was held out of the training data.",
    "To measure it, hold out some of the records: --holdout 0.1",
)
_ALL_TRAINED_ON = _Unmeasured(
    "All held-out text is also in the training text, so improvement could not be measured",
    "Every held-out record is also a training record, or nearly one, so its loss does not measure unseen "
    "text.",
    "To measure it, add records that differ from one another, or evaluate on a file of other texts: "
    "--validation FILE",
)
_ALL_SEEN_BY_BASE = _Unmeasured(
    "The base model was trained on all held-out text, so improvement could not be measured",
    "The base model was trained on every held-out record or a near-duplicate of it, so its loss does not "
    "measure unseen text.",
    "To measure it, evaluate on a file of other texts: --validation FILE",
)


def _unmeasured(state: State, facts: HeldOutFacts | None) -> _Unmeasured | None:
    """What to say where it was not measured; None where it was."""
    if state == "learned":
        return None
    if state == "nothing_held_out":
        return _NOTHING_HELD_OUT
    return _ALL_SEEN_BY_BASE if facts is not None and facts.all_seen_by_base else _ALL_TRAINED_ON


def _state(figures: Figures) -> State:
    facts = figures.held_out_facts
    if figures.course.nothing_learned:
        return "unchanged"
    if figures.held_out is None:
        return "not_comparable" if facts is not None and facts.nothing_comparable else "nothing_held_out"
    return "not_comparable" if figures.normal is None and figures.copied_held_out else "learned"


def _unchanged(figures: Figures) -> Verdict:
    """The verdict on a model whose best step is the one before the first."""
    course = figures.course
    losses = [point.held_out_loss for point in course.points if point.held_out_loss is not None]
    detail, rise = f"No step of {course.steps:,} lowered the loss on held-out text.", 0.0
    if len(losses) > 1:
        rise = min(losses[1:]) - losses[0]
        detail = (
            f"The loss on held-out text was {losses[0]:.3f} nats per token before training, and "
            f"{min(losses[1:]):.3f} at its lowest in {course.steps:,} steps."
        )
    findings = [Finding(_BETTER, "unknown", "It is the base model, unchanged", detail)]
    same = "The tuned model is the base model, so there is nothing to compare."
    findings += [Finding(question, "unknown", "Not measured", same) for question in _QUESTIONS[1:]]
    return Verdict(
        "Nothing was learned: the result is the base model, unchanged.",
        tuple(findings),
        "unchanged",
        _after_nothing(rise, figures.learning_rate),
    )


def _after_nothing(rise: float, rate: float | None) -> str:
    """What to try where no step was better than none: the loss rose by so much at its lowest."""
    if rise > SMALLEST_CHANGE:
        lower = min(rate / 5, HIGHEST_ADVISED_RATE) if rate is not None else None
        option = f" (--learning-rate {_one_digit(lower)})" if lower is not None else ""
        return f"Training made it worse from the first evaluation on. Try a lower learning rate{option}."
    option = f" (--learning-rate {_one_digit(rate * 3)})" if rate is not None else ""
    return f"Training had little effect. Try more epochs (--epochs) or a higher learning rate{option}."


def _one_digit(value: float) -> str:
    return format_number(float(f"{value:.1g}"))


def _better(
    base: HeldOutScore | None,
    tuned: HeldOutScore | None,
    comparison: HeldOutComparison | None,
    facts: HeldOutFacts | None,
) -> Finding:
    assert base is not None
    assert tuned is not None
    assert comparison is not None
    sentences = [
        f"Its loss on {plural(comparison.records, 'held-out text')} is {tuned.loss:.2f} nats per token, "
        f"{base.loss:.2f} for the base model (lower is better).",
        _sure_of_change(comparison),
        _likelier(comparison),
        *_seen_by_base(facts),
    ]
    if comparison.outcome == "unclear":
        detail = " ".join([*sentences, _what_is_clear(comparison)])
        return Finding(_BETTER, "mixed", "No clear difference on unseen text", detail)
    detail = " ".join(sentences)
    if comparison.outcome == "worse":
        return Finding(_BETTER, "bad", "It got worse at unseen text", detail)
    return Finding(_BETTER, "good", "It got better at unseen text", detail)


_MOST_FILES = 3  # that a sentence names


def _seen_by_base(facts: HeldOutFacts | None) -> Iterator[str]:
    """What the base model may know of the held-out text."""
    if facts is not None and facts.seen_by_base:
        records = plural(facts.seen_by_base, "other held-out record")
        are, them = ("is", "it or on a near-duplicate")
        if facts.seen_by_base != 1:
            are, them = ("are", "them or on near-duplicates")
        yield f"{records} {are} not counted, because the base model was trained on {them}."
    if facts is not None and facts.base_files:
        more = len(facts.base_files) - _MOST_FILES
        files = ", ".join(facts.base_files[:_MOST_FILES]) + (f" and {more} more" if more > 0 else "")
        yield f"The base model was itself tuned on {files}, and that data may include held-out text."


def _sure_of_change(comparison: HeldOutComparison) -> str:
    """How large a change of the loss the held-out texts allow, and how often chance alone makes as much."""
    change, p_value = comparison.change, comparison.p_value
    if change == 0:
        return "It did not change."
    digits = change_digits(change)
    words = f"It {'fell' if change < 0 else 'rose'} by {change_size(abs(change), digits)}"
    if comparison.standard_error is not None:
        half = margin(comparison.standard_error, comparison.counted)
        words += f" (± {change_size(half, digits)} with 95% confidence)"
    if p_value is None:
        return f"{words}."
    return f"{words}; by chance alone, a difference this large would occur {_cases(p_value)}."


def change_digits(change: float) -> int:
    """Decimal places of a change of the loss: more where two would show it as nothing."""
    return 2 if abs(change) >= SMALLEST_CHANGE / 2 else 4


def change_size(size: float, digits: int) -> str:
    """How large a change of the loss is, in words where so many decimal places would show it as nothing."""
    return f"{size:.{digits}f}" if round(size, digits) else f"less than {10**-digits:.{digits}f}"


def _cases(p_value: float) -> str:
    """How often something occurs that has this probability, never as 0% or 100%."""
    if p_value < 0.001:
        return "in less than 0.1% of cases"
    if p_value >= 0.995:
        return "in more than 99% of cases"
    return f"in {p_value:.{1 if p_value < 0.0995 else 0}%} of cases"


def _likelier(comparison: HeldOutComparison) -> str:
    """How many texts became more likely, each of those that say the same counting once."""
    counted = comparison.counted
    if counted == comparison.records:
        return f"{comparison.likelier:,} of the {counted:,} texts became more likely."
    if counted > comparison.records:
        return f"Split into {counted:,} segments, of which {comparison.likelier:,} became more likely."
    return f"With duplicates counted once, {comparison.likelier:,} of {counted:,} texts became more likely."


def _what_is_clear(comparison: HeldOutComparison) -> str:
    """What the difference lacks to be called one."""
    if comparison.counted < FEWEST_CLEAR_GROUPS:
        return f"Fewer than {FEWEST_CLEAR_GROUPS} different texts cannot show a clear difference."
    if comparison.p_value is not None and comparison.p_value < LEVEL:
        return f"A difference below {SMALLEST_CHANGE:g} is too small to matter."
    return f"A clear difference is one that would occur by chance in less than {LEVEL:.0%} of cases."


def _shape(base: ModelResults, tuned: ModelResults, lengths: LengthScale) -> Finding:
    before, after, normal = base.lengths.distance, tuned.lengths.distance, lengths.usual_distance
    if lengths.data.at_limit >= ALL_LONG:
        long = f"{lengths.data.at_limit:.0%} of the records"
        detail = f"{long} have {lengths.limit} tokens or more, the maximum length of a sample."
        return Finding(_SHAPE, "unknown", "Samples are too short to tell", detail)
    detail = (
        f"Sample lengths differ from the data's by {after:.1f} tokens on average (base model: {before:.1f}). "
        f"Up to {normal:.1f} is normal: 95% of random draws of {len(tuned.samples):,} real records differ by "
        f"{normal:.1f} tokens or less."
    )
    if after <= normal:
        kept = before <= normal
        answer = "It kept the text lengths" if kept else "It learned the text lengths"
        return Finding(_SHAPE, "good", answer, detail)
    if after <= NEARLY * normal and after >= before:
        return Finding(_SHAPE, "mixed", "Its text lengths are slightly off", detail)
    if after <= NEARLY * normal:
        return Finding(_SHAPE, "mixed", "It nearly learned the text lengths", detail)
    if after <= min(PART_OF_THE_WAY * before, ALIKE * lengths.data.mean):
        return Finding(_SHAPE, "mixed", "It partly learned the text lengths", detail)
    return Finding(_SHAPE, "bad", "It did not learn the text lengths", detail)


def _copying(tuned: ModelResults, normal: HeldOutBaseline | None) -> Finding:
    novelty = tuned.novelty
    usual = normal.novelty.copied / normal.novelty.texts if normal is not None else 0.0
    share = novelty.copied / novelty.texts
    recited = _recited_above_normal(tuned.extraction)
    usual_copies = (
        f" (held-out texts: {normal.novelty.copied:,} of {normal.novelty.texts:,})" if normal else ""
    )
    sentences = [
        f"{_copied(novelty)}{usual_copies}; {_of_all(novelty.copied, novelty.texts)}.",
        _longest_match(novelty, normal),
        *_recital(tuned.extraction),
    ]
    detail = " ".join(sentences)
    if share >= COPIER:
        return Finding(_COPYING, "bad", "It copies the training text", detail)
    if recited >= COPIER:
        return Finding(_COPYING, "bad", "It has memorized training records", detail)
    if share > usual or share >= COPYING:
        return Finding(_COPYING, "mixed", "It sometimes copies the training text", detail)
    if recited >= RECITED:
        return Finding(_COPYING, "mixed", "It has memorized some training records", detail)
    return Finding(_COPYING, "good", "It does not copy", detail)


def _variety(tuned: ModelResults, normal: Diversity | None) -> Finding:
    own, repeated, samples = tuned.diversity, tuned.diversity.repeated, len(tuned.samples)
    distinct, usual = own.distinct[1], normal.distinct[1] if normal is not None else None
    share = distinct / usual if distinct is not None and usual else None
    sentences = [] if usual else ["There is no held-out text to compare with."]
    if distinct is not None:
        compared = (
            f" (held-out text of the same length: {usual:.0%}; normal: {VARIED * usual:.0%} or more)"
            if usual
            else ""
        )
        sentences.append(f"{distinct:.0%} of the word pairs in its samples are distinct{compared}.")
    repeat = "repeat" if repeated > 1 else "repeats"
    sentences.append(
        f"{repeated or 'None'} of {samples:,} samples {repeat} an earlier one; {_of_all(repeated, samples)}."
    )
    detail = " ".join(sentences)
    if repeated >= REPEATING * samples or (share is not None and share < MONOTONOUS):
        return Finding(_VARIED, "bad", "It repeats itself", detail)
    if share is None:
        return Finding(_VARIED, "unknown", "Not measured", detail)
    if share < VARIED:
        return Finding(_VARIED, "mixed", "It is less varied than real text", detail)
    return Finding(_VARIED, "good", "It is varied", detail)


def _reason(tuned: ModelResults) -> str:
    """Why a model is called one that copies, as the end of a sentence."""
    if tuned.novelty.copied >= COPIER * tuned.novelty.texts:
        return _copied(tuned.novelty)
    assert tuned.extraction is not None
    assert tuned.extraction.training is not None
    recited = tuned.extraction.training
    return f"given the first half of a record, it completes {recited.extracted:,} of {recited.records:,}"


def _copied(novelty: Novelty) -> str:
    """How many samples are copies or nearly so."""
    changed = ""
    if novelty.near_copies:
        of_them = f"{novelty.near_copies:,} of them " if novelty.copies else ""
        changed = f", {of_them}with small changes"
    what = "is a copy" if novelty.copied <= 1 else "are copies"
    count = f"{novelty.copied:,}" if novelty.copied else "None"
    return f"{count} of {plural(novelty.texts, 'sample')} {what} of a training record{changed}"


def _of_all(count: int, samples: int) -> str:
    """Which share of all that a model would write so few samples allow."""
    low, high = share_interval(count, samples)
    share = f"{low:.0%} to {high:.0%}" if low >= 0.005 else f"at most {high:.0%}"
    return f"the share among all samples is {share} (95% confidence)"


def _longest_match(novelty: Novelty, normal: HeldOutBaseline | None) -> str:
    held_out = f" (held-out texts: {normal.novelty.longest_run_words:,})" if normal is not None else ""
    return (
        "The longest passage that a sample shares with a training record word for word has "
        f"{plural(novelty.longest_run_words, 'word')}{held_out}."
    )


def _recital(extraction: Extraction | None) -> list[str]:
    if extraction is None or extraction.training is None:
        return []
    trained, held_out = extraction.training, extraction.held_out
    normal = f" (held-out records: {held_out.extracted:,} of {held_out.records:,})" if held_out else ""
    return [
        f"Given the first half of a training record, it completes {trained.extracted:,} of "
        f"{trained.records:,} word for word{normal}."
    ]


def _recited_above_normal(extraction: Extraction | None) -> float:
    if extraction is None or extraction.training is None:
        return 0.0
    normal = extraction.held_out.share if extraction.held_out is not None else 0.0
    return extraction.training.share - normal


def share_interval(count: int, of: int) -> tuple[float, float]:
    """Bounds of a share with 95 % confidence, seen `count` times in `of`.

    Source:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    middle = (count + _Z_95**2 / 2) / (of + _Z_95**2)
    half = _Z_95 / (of + _Z_95**2) * math.sqrt(count * (of - count) / of + _Z_95**2 / 4)
    return max(0.0, middle - half), min(1.0, middle + half)
