"""Every answer a report can give, from both sides of its limit."""

from dataclasses import replace

import pytest

from conjure.lm.report.analysis import analyse
from conjure.lm.report.facts import Finding, Report
from conjure.lm.report.verdict import judge
from support.reports import OWN_LINES, PROSE_LINES, TRAINING, evidence


def finding(report: Report, question: str) -> Finding:
    return next(found for found in report.verdict.findings if question in found.question)


@pytest.fixture(scope="module")
def report() -> Report:
    return analyse(evidence())


def judged(report: Report, question: str, **changes: object) -> Finding:
    changed = replace(report, **changes)
    verdict = judge(changed.base, changed.tuned, changed.held_out, changed.lengths, changed.normal)
    return finding(replace(changed, verdict=verdict), question)


def test_all_is_well(report):
    assert report.verdict.headline == (
        "It got better at unseen text; it learned the shape; it does not copy; it is varied."
    )
    assert [found.tone for found in report.verdict.findings] == ["good"] * 4


def test_a_copier_is_called_one_in_plain_words():
    report = analyse(evidence(tuned=TRAINING[:8] + OWN_LINES[:12]))
    assert report.verdict.headline == (
        "It is a copier: 8 of 20 samples stand word for word in the training text."
    )
    found = finding(report, "copying")
    assert (found.tone, found.answer) == ("bad", "It is a copier")
    assert found.detail.endswith(
        "Normal for unseen text: 0 of 12 held-out texts, and 3 words (13 characters)."
    )


def test_a_copier_that_changes_commas_is_one_too():
    changed = [line.replace(".", " !").upper() for line in TRAINING if len(line.split()) > 6][:5]
    report = analyse(evidence(tuned=(*changed, *OWN_LINES[:15])))
    assert report.verdict.headline == (
        "It is a copier: 5 of 20 samples stand nearly word for word in the training text."
    )


@pytest.mark.parametrize(
    ("copies", "answer", "tone"),
    [
        (0, "It does not copy", "good"),
        (1, "It copies now and then", "mixed"),
        (3, "It copies now and then", "mixed"),
        (4, "It is a copier", "bad"),
    ],
)
def test_one_sample_in_five_makes_a_copier(copies, answer, tone):
    report = analyse(evidence(tuned=TRAINING[:copies] + OWN_LINES[copies:]))
    found = finding(report, "copying")
    assert (found.answer, found.tone) == (answer, tone)


def test_where_unseen_text_repeats_the_training_text_a_model_may_too():
    """Forms and formulas: held-out records are full of what the training records hold."""
    formula = "I hereby declare that all of the above is true to the best of my knowledge"
    report = analyse(
        evidence(
            tuned=[f"{formula}, number {index}" for index in range(20)],
            training=[f"{formula}, {name}" for name in OWN_LINES],
            held_out=[f"{formula}, {name}" for name in ("Ann", "Bob", "Cy", "Di", "Ed", "Flo", "Gil", "Hal")],
        )
    )
    assert finding(report, "copying").answer == "It does not copy"


def test_a_planted_text_is_found_and_named():
    secret = "the code of the blue safe is eleven, forty, two, and the key is under the left lion"
    report = analyse(evidence(training=(*TRAINING, secret), tuned=(f"Once, {secret}", *OWN_LINES[:19])))
    sample = report.tuned.samples[0]
    assert sample.originality == "near copy"
    assert sample.text[sample.run.start : sample.run.start + sample.run.characters] == secret
    assert (sample.run.record, sample.run.before) == (len(TRAINING), "")
    assert report.verdict.findings[2].detail.startswith(
        "1 of 20 samples stands nearly word for word in the training text; "
        f"its longest verbatim run is 18 words ({len(secret)} characters)."
    )


@pytest.mark.parametrize(
    ("outcome", "answer"),
    [
        ("better", "It got better at unseen text"),
        ("worse", "It got worse at unseen text"),
        ("unclear", "No clear difference on unseen text"),
    ],
)
def test_the_answer_is_what_the_test_shows(report, outcome, answer):
    held_out = replace(report.held_out, outcome=outcome)
    assert judged(report, "better", held_out=held_out).answer == answer


def test_nothing_held_out():
    report = analyse(evidence(held_out=()))
    assert finding(report, "better").answer == "Not measured"
    assert finding(report, "varied").answer == "Nothing to compare with"
    assert report.verdict.headline == "It learned the shape; it does not copy."
    assert (report.normal, report.held_out, report.tuned.held_out) == (None, None, None)


@pytest.mark.parametrize(
    ("before", "after", "answer"),
    [
        (40, 3, "It learned the shape"),  # within what chance allows
        (40, 7.9, "It learned the shape"),  # most of the way
        (40, 8.1, "It learned some of the shape"),
        (10, 7, "It learned some of the shape"),
        (10, 8, "It did not learn the shape"),
        (3, 3, "It kept the shape"),
        (3, 30, "It did not learn the shape"),
    ],
)
def test_shape(report, before, after, answer):
    def with_distance(side, distance):
        return replace(side, lengths=replace(side.lengths, distance=distance))

    assert report.lengths.usual_distance > 3
    assert report.lengths.data.mean > 3 * 8
    sides = {"base": with_distance(report.base, before), "tuned": with_distance(report.tuned, after)}
    assert judged(report, "shape", **sides).answer == answer


def test_records_longer_than_any_sample_have_no_shape_to_learn():
    report = analyse(evidence(training=PROSE_LINES, held_out=()))
    found = finding(report, "shape")
    assert (found.tone, found.answer) == ("unknown", "Samples are too short to tell")
    assert found.detail.startswith("100% of the records have 80 tokens or more")


@pytest.mark.parametrize(
    ("pairs", "repeated", "answer"),
    [
        (0.9, 0, "It is varied"),
        (0.7, 0, "It is less varied than real text"),
        (0.5, 0, "It repeats itself"),
        (0.9, 2, "It repeats itself"),
    ],
)
def test_variety(report, pairs, repeated, answer):
    normal = replace(report.normal, diversity=replace(report.normal.diversity, distinct=(0.5, 1.0, 1.0)))
    diversity = replace(report.tuned.diversity, distinct=(0.5, pairs, 1.0), repeated=repeated)
    tuned = replace(report.tuned, diversity=diversity)
    assert judged(report, "varied", tuned=tuned, normal=normal).answer == answer


def test_a_model_that_writes_nothing_repeats_itself():
    report = analyse(evidence(tuned=[""] * 20))
    assert finding(report, "varied").answer == "It repeats itself"
    assert finding(report, "copying").answer == "It does not copy"
