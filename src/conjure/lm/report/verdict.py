"""From figures to plain words: did it get better, learn the shape, copy, vary?

Main entry: `judge`. Every limit stands here, with its reason. Invariant: what is called good or bad is
measured against what is normal for unseen text of the same kind where there is any, and against what so few
samples can show.
"""

from conjure.lm.report.facts import (
    Diversity,
    Finding,
    HeldOutComparison,
    HeldOutScore,
    LengthScale,
    Normal,
    Side,
    Verdict,
)
from conjure.lm.report.novelty import Novelty

ALL_LONG = 0.9  # where so many records reach a sample's limit, there is no shape to be learned
CLOSE = 0.15  # of the mean length: so small a distance is no difference to a reader
ALIKE = 1 / 3  # of the mean length: a difference, but of degree …
MOST_OF_THE_WAY = 0.2  # … where so little of the base's distance is left
PART_OF_THE_WAY = 0.75  # of the base's distance is left: at least a quarter of the way
COPIER = 0.2  # share of copies and near copies above what is normal: one sample in five
VARIED = 0.8  # of the distinct-2 that unseen text has
MONOTONOUS = 0.6
REPEATING = 0.1  # share of samples that repeat another word for word


def judge(
    base: Side, tuned: Side, held_out: HeldOutComparison | None, lengths: LengthScale, normal: Normal | None
) -> Verdict:
    """Put the figures of a report into words."""
    copying = _copying(tuned.novelty, normal.novelty if normal is not None else None)
    findings = (
        _better(base.held_out, tuned.held_out, held_out),
        _shape(base, tuned, lengths),
        copying,
        _variety(tuned, normal.diversity if normal is not None else None),
    )
    if copying.tone == "bad":
        return Verdict(f"{copying.answer}: {_copied(tuned.novelty)}.", findings)
    first, *others = [finding.answer for finding in findings if finding.tone != "unknown"]
    return Verdict("; ".join([first, *(answer[0].lower() + answer[1:] for answer in others)]) + ".", findings)


def _better(
    base: HeldOutScore | None, tuned: HeldOutScore | None, comparison: HeldOutComparison | None
) -> Finding:
    question = "Is it better on text it has not seen?"
    if base is None or tuned is None or comparison is None:
        return Finding(question, "unknown", "Not measured", "Nothing was held out of the training data.")
    texts = _counted(comparison.records, "held-out text")
    detail = (
        f"Loss {tuned.loss:.2f} instead of {base.loss:.2f} nats per token on {texts}, "
        f"{comparison.likelier:,} of which became likelier."
    )
    if comparison.outcome == "unclear":
        return Finding(question, "mixed", "No clear difference on unseen text", detail)
    if comparison.outcome == "worse":
        return Finding(question, "bad", "It got worse at unseen text", detail)
    return Finding(question, "good", "It got better at unseen text", detail)


def _shape(base: Side, tuned: Side, lengths: LengthScale) -> Finding:
    question = "Has it learned the shape?"
    before, after = base.lengths.distance, tuned.lengths.distance
    if lengths.data.at_limit >= ALL_LONG:
        long = f"{lengths.data.at_limit:.0%} of the records"
        detail = f"{long} have {lengths.limit} tokens or more, and no sample may be longer."
        return Finding(question, "unknown", "Samples are too short to tell", detail)
    samples = len(tuned.samples)
    detail = (
        f"The lengths of its samples are {after:.1f} tokens away from the data's, the base's {before:.1f}; "
        f"{_counted(samples, 'real record')} would usually be within {lengths.usual_distance:.1f}."
    )
    close = max(lengths.usual_distance, CLOSE * lengths.data.mean)
    if before <= close and after <= close:
        return Finding(question, "good", "It kept the shape", detail)
    if after <= max(close, min(ALIKE * lengths.data.mean, MOST_OF_THE_WAY * before)):
        return Finding(question, "good", "It learned the shape", detail)
    if after <= PART_OF_THE_WAY * before:
        return Finding(question, "mixed", "It learned some of the shape", detail)
    return Finding(question, "bad", "It did not learn the shape", detail)


def _copying(tuned: Novelty, normal: Novelty | None) -> Finding:
    question = "Is it just copying?"
    usual = normal.copied / normal.texts if normal is not None else 0.0
    share = tuned.copied / tuned.texts
    sentence = _copied(tuned)
    detail = f"{sentence[0].upper()}{sentence[1:]}; its longest verbatim run is {_run(tuned)}."
    if normal is not None:
        count = f"{normal.copied:,} of {_counted(normal.texts, 'held-out text')}"
        detail += f" Normal for unseen text: {count}, and {_run(normal)}."
    if share >= usual + COPIER:
        return Finding(question, "bad", "It is a copier", detail)
    if share > usual:
        return Finding(question, "mixed", "It copies now and then", detail)
    return Finding(question, "good", "It does not copy", detail)


def _variety(tuned: Side, normal: Diversity | None) -> Finding:
    question = "Is it varied?"
    own, repeated, samples = tuned.diversity, tuned.diversity.repeated, len(tuned.samples)
    details = [f"{repeated or 'None'} of {samples:,} samples repeat{'s' * (repeated < 2)} an earlier one"]
    distinct, usual = own.distinct[1], normal.distinct[1] if normal is not None else None
    share = distinct / usual if distinct is not None and usual else None
    if distinct is not None:
        details.append(f"{distinct:.0%} of its word pairs are different ones")
    if usual is not None:
        details.append(f"of unseen text {usual:.0%} would be")
    detail = "; ".join(details) + "."
    if repeated >= REPEATING * samples or (share is not None and share < MONOTONOUS):
        return Finding(question, "bad", "It repeats itself", detail)
    if share is None:
        return Finding(question, "unknown", "Nothing to compare with", detail)
    if share < VARIED:
        return Finding(question, "mixed", "It is less varied than real text", detail)
    return Finding(question, "good", "It is varied", detail)


def _copied(novelty: Novelty) -> str:
    """How many texts are copies or nearly so, as the end of a sentence."""
    samples = _counted(novelty.texts, "sample")
    if novelty.copied == 0:
        return f"none of {samples} stands word for word, or nearly so, in the training text"
    if novelty.copies == 0:
        stand = "stands" if novelty.near_copies == 1 else "stand"
        return f"{novelty.near_copies:,} of {samples} {stand} nearly word for word in the training text"
    stand = "stands" if novelty.copies == 1 else "stand"
    nearly = f", and {novelty.near_copies:,} more nearly so" if novelty.near_copies else ""
    return f"{novelty.copies:,} of {samples} {stand} word for word in the training text{nearly}"


def _run(novelty: Novelty) -> str:
    return f"{_counted(novelty.longest_run_words, 'word')} ({novelty.longest_run_characters:,} characters)"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"
