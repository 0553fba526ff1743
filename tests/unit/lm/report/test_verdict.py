"""Every answer a report can give, from both sides of its limit."""

from dataclasses import replace

import pytest

from conjure.lm.report.analysis import analyse
from conjure.lm.report.html.page import render_html
from conjure.lm.report.report_schema import ExtractedShare, Extraction, Finding, HeldOutFacts, Report
from conjure.lm.report.verdict import Figures, judge, share_interval
from support.reports import HELD_OUT, OWN_LINES, PROSE_LINES, TRAINING, evidence


def finding(report: Report, question: str) -> Finding:
    return next(found for found in report.verdict.findings if question in found.question)


@pytest.fixture(scope="module")
def report() -> Report:
    return analyse(evidence())


def judged(report: Report, question: str, **changes: object) -> Finding:
    changed = replace(report, **changes)
    verdict = judge(
        Figures(
            changed.base, changed.tuned, changed.held_out, changed.lengths, changed.normal, changed.course
        )
    )
    return finding(replace(changed, verdict=verdict), question)


def test_all_is_well(report):
    assert report.verdict.headline == (
        "It got better at unseen text; it nearly learned the text lengths; it does not copy; it is varied."
    )
    assert [found.tone for found in report.verdict.findings] == ["good", "mixed", "good", "good"]
    assert (report.verdict.state, report.verdict.next_step) == ("learned", None)
    assert report.verdict.findings[0].detail == (
        "Its loss on 12 held-out texts is 3.01 nats per token, 5.01 for the base model (lower is better). It "
        "fell by 2.00 (± less than 0.01 with 95% confidence); by chance alone, a difference this large would "
        "occur in less than 0.1% of cases. 12 of the 12 texts became more likely."
    )


def test_a_copier_is_called_one_in_plain_words():
    report = analyse(evidence(tuned=TRAINING[:8] + OWN_LINES[:12]))
    assert report.verdict.headline == (
        "It copies the training text: 8 of 20 samples are copies of a training record."
    )
    found = finding(report, "copying")
    assert (found.tone, found.answer) == ("bad", "It copies the training text")
    assert found.detail == (
        "8 of 20 samples are copies of a training record (held-out texts: 0 of 12); the share among all "
        "samples is 22% to 61% (95% confidence). The longest passage that a sample shares with a training "
        "record word for word has 14 words (held-out texts: 3). Given the first half of a training record, "
        "it completes 0 of 20 word for word (held-out records: 0 of 12)."
    )


def test_a_copier_that_changes_commas_is_one_too():
    changed = [line.replace(".", " !").upper() for line in TRAINING if len(line.split()) > 6][:5]
    report = analyse(evidence(tuned=(*changed, *OWN_LINES[:15])))
    assert report.verdict.headline == (
        "It copies the training text: 5 of 20 samples are copies of a training record, with small changes."
    )


@pytest.mark.parametrize(
    ("copies", "answer", "tone"),
    [
        (0, "It does not copy", "good"),
        (1, "It sometimes copies the training text", "mixed"),
        (3, "It sometimes copies the training text", "mixed"),
        (4, "It copies the training text", "bad"),
    ],
)
def test_one_sample_in_five_makes_a_copier(copies, answer, tone):
    report = analyse(evidence(tuned=TRAINING[:copies] + OWN_LINES[copies:]))
    found = finding(report, "copying")
    assert (found.answer, found.tone) == (answer, tone)
    if tone == "bad":
        assert report.verdict.headline.endswith(f": {copies} of 20 samples are copies of a training record.")


def test_copies_with_and_without_changes_are_counted_apart():
    changed = next(line for line in TRAINING[2:] if len(line.split()) > 6).upper()
    report = analyse(evidence(tuned=(*TRAINING[:2], changed, *OWN_LINES[:17])))
    assert finding(report, "copying").detail.startswith(
        "3 of 20 samples are copies of a training record, 1 of them with small changes (held-out"
    )


def test_a_yardstick_that_is_itself_copied_excuses_nothing():
    """Forms and formulas: every held-out record is nearly a training record."""
    formula = "I hereby declare that all of the above is true to the best of my knowledge"
    report = analyse(
        evidence(
            tuned=[f"{formula}, number {index}" for index in range(20)],
            training=[f"{formula}, {name}" for name in OWN_LINES],
            held_out=[f"{formula}, {name}" for name in ("Ann", "Bob", "Cy", "Di", "Ed", "Flo", "Gil", "Hal")],
        )
    )
    assert finding(report, "copying").answer == "It copies the training text"
    assert (report.normal, report.verdict.state) == (None, "not_comparable")
    assert finding(report, "better").tone == "unknown"


def test_held_out_texts_that_are_trained_on_too_do_not_make_copies_normal():
    report = analyse(evidence(tuned=TRAINING[:2] + OWN_LINES[2:], held_out=(*HELD_OUT, *TRAINING[:12])))
    assert (report.normal.left_out, report.normal.novelty.copied) == (12, 0)
    assert report.verdict.state == "learned"
    found = finding(report, "copying")
    assert (found.tone, found.answer) == ("mixed", "It sometimes copies the training text")
    assert "(held-out texts: 0 of 12);" in found.detail


def test_no_normal_excuses_every_twentieth_sample(report):
    """Long held-out records may quote the training text here and there."""

    def copying(samples: int, held_out: int) -> str:
        tuned = replace(report.tuned.novelty, texts=100, copies=samples)
        normal = replace(report.normal.novelty, texts=100, copies=held_out)
        sides = {
            "tuned": replace(report.tuned, novelty=tuned),
            "normal": replace(report.normal, novelty=normal),
        }
        return judged(report, "copying", **sides).answer

    assert copying(4, 4) == "It does not copy"
    assert copying(4, 3) == "It sometimes copies the training text"
    assert copying(5, 40) == "It sometimes copies the training text"
    assert copying(20, 100) == "It copies the training text"


@pytest.mark.parametrize(
    ("trained_on", "held_out", "answer", "tone"),
    [
        (0, 0, "It does not copy", "good"),
        (4, 0, "It does not copy", "good"),
        (5, 0, "It has memorized some training records", "mixed"),
        (30, 26, "It does not copy", "good"),  # easy records: held-out ones are completed as often
        (20, 0, "It has memorized training records", "bad"),
        (31, 10, "It has memorized training records", "bad"),
    ],
)
def test_what_a_model_can_recite_counts_as_copying(report, trained_on, held_out, answer, tone):
    extraction = Extraction(ExtractedShare(100, trained_on), ExtractedShare(100, held_out))
    found = judged(report, "copying", tuned=replace(report.tuned, extraction=extraction))
    assert (found.answer, found.tone) == (answer, tone)
    assert f"it completes {trained_on} of 100 word for word (held-out records: {held_out} of 100)" in (
        found.detail
    )


def test_a_model_that_recites_is_said_to_in_the_headline(report):
    tuned = replace(report.tuned, extraction=Extraction(ExtractedShare(100, 31), None))
    figures = Figures(base=report.base, tuned=tuned, held_out=report.held_out, lengths=report.lengths,
                      normal=report.normal, course=report.course)  # fmt: skip
    assert judge(figures).headline == (
        "It has memorized training records: given the first half of a record, it completes 31 of 100."
    )
    assert judged(report, "copying", tuned=tuned).detail.endswith("it completes 31 of 100 word for word.")


@pytest.mark.parametrize("extraction", [None, Extraction(None, None), Extraction(None, ExtractedShare(9, 9))])
def test_where_no_record_is_long_enough_nothing_is_said_of_reciting(report, extraction):
    found = judged(report, "copying", tuned=replace(report.tuned, extraction=extraction))
    assert found.answer == "It does not copy"
    assert "completes" not in found.detail


def test_a_share_has_bounds():
    assert share_interval(0, 50) == (0.0, pytest.approx(0.0713, abs=1e-3))
    assert share_interval(8, 20) == (pytest.approx(0.219, abs=1e-3), pytest.approx(0.613, abs=1e-3))
    assert share_interval(50, 50)[1] == 1.0


def test_a_planted_text_is_found_and_named():
    secret = "the code of the blue safe is eleven, forty, two, and the key is under the left lion"
    report = analyse(evidence(training=(*TRAINING, secret), tuned=(f"Once, {secret}", *OWN_LINES[:19])))
    sample = report.tuned.samples[0]
    assert sample.originality == "near copy"
    assert sample.text[sample.run.start : sample.run.start + sample.run.characters] == secret
    assert (sample.run.record, sample.run.before) == (len(TRAINING), "")
    assert report.verdict.findings[2].detail.startswith(
        "1 of 20 samples is a copy of a training record, with small changes (held-out texts: 0 of 12); "
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


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"p_value": 0.34}, "one that would occur by chance in less than 5% of cases."),
        ({"p_value": 0.05}, "one that would occur by chance in less than 5% of cases."),
        ({"p_value": 0.0004}, "A difference below 0.02 is too small to matter."),
        ({"units": 6, "p_value": 0.34}, "one that would occur by chance in less than 5% of cases."),
        ({"units": 5, "p_value": 0.0625}, "Fewer than 6 different texts cannot show a clear difference."),
    ],
)
def test_what_is_missing_for_a_clear_difference_is_said(report, changes, sentence):
    held_out = replace(report.held_out, outcome="unclear", change=-0.0012, standard_error=0.0002, **changes)
    found = judged(report, "better", held_out=held_out)
    assert found.detail.endswith(sentence)
    error = {5: "0.0006", 6: "0.0005"}.get(
        changes.get("units", 12), "0.0004"
    )  # a few texts tell less of how much they vary
    assert f"It fell by 0.0012 (± {error} with 95% confidence); by chance alone, a" in found.detail


@pytest.mark.parametrize(
    ("change", "standard_error", "p_value", "sentence"),
    [
        (0.00004, 0.00001, 1.0, "rose by less than 0.0001 (± less than 0.0001 with 95% confidence)"),
        (-0.00004, 0.0002, 0.7, "fell by less than 0.0001 (± 0.0004 with 95% confidence)"),
        (
            0.00006,
            None,
            0.996,
            "by chance alone, a difference this large would occur in more than 99% of cases.",
        ),
        (0.00006, None, 0.994, "; by chance alone, a difference this large would occur in 99% of cases."),
        (-0.01, 0.002, 0.3, "fell by 0.01 (± less than 0.01 with 95% confidence)"),
        (0.0, 0.0, 1.0, "It did not change."),
    ],
)
def test_a_change_is_never_shown_as_nothing(report, change, standard_error, p_value, sentence):
    held_out = replace(
        report.held_out, outcome="unclear", change=change, standard_error=standard_error, p_value=p_value
    )
    assert sentence in judged(report, "better", held_out=held_out).detail


@pytest.mark.parametrize(
    ("p_value", "cases"),
    [
        (None, " confidence)."),
        (0.0009, "would occur in less than 0.1% of cases."),
        (0.001, "would occur in 0.1% of cases."),
        (0.0994, "would occur in 9.9% of cases."),
        (0.0995, "would occur in 10% of cases."),
        (0.9949, "would occur in 99% of cases."),
        (0.995, "would occur in more than 99% of cases."),
    ],
)
def test_how_often_chance_does_as_much_is_said_in_few_digits(report, p_value, cases):
    detail = judged(report, "better", held_out=replace(report.held_out, p_value=p_value)).detail
    assert f"{cases} 12 of the 12 texts became more likely." in detail


@pytest.mark.parametrize(
    ("units", "sentence"),
    [
        (12, "9 of the 12 texts became more likely."),
        (11, "With duplicates counted once, 9 of 11 texts became more likely."),
        (40, "Split into 40 segments, of which 9 became more likely."),
    ],
)
def test_what_counts_once_is_said(report, units, sentence):
    held_out = replace(report.held_out, units=units, likelier=9)
    assert judged(report, "better", held_out=held_out).detail.endswith(sentence)


def test_nothing_held_out():
    report = analyse(evidence(held_out=()))
    assert finding(report, "better").answer == "Not measured"
    assert finding(report, "varied").answer == "Not measured"
    assert finding(report, "varied").detail.startswith("There is no held-out text to compare with. ")
    assert report.verdict.headline == (
        "Nothing was held out, so whether it is better was not measured; it learned the text lengths; it "
        "does not copy."
    )
    assert report.verdict.state == "nothing_held_out"
    assert "--holdout 0.1" in report.verdict.next_step
    assert (report.normal, report.held_out, report.tuned.held_out) == (None, None, None)


def held_out_facts(records: int, excluded: int, **more: object) -> HeldOutFacts:
    return HeldOutFacts("records", None, records, records, records, records, excluded, **more)


@pytest.mark.parametrize(
    ("facts", "state", "headline"),
    [
        (held_out_facts(0, 0), "nothing_held_out", "Nothing was held out, so whether it is better"),
        (held_out_facts(0, 5), "not_comparable", "All held-out text is also in the training text, so"),
    ],
)
def test_why_nothing_was_scored_is_said(facts, state, headline):
    verdict = analyse(replace(evidence(held_out=()), held_out_facts=facts)).verdict
    assert verdict.state == state
    assert verdict.headline.startswith(headline)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("a.txt", "b.txt", "c.txt"), "tuned on a.txt, b.txt, c.txt, and that data"),
        (("a.txt", "b.txt", "c.txt", "d.txt", "e.txt"), "tuned on a.txt, b.txt, c.txt and 2 more, and that"),
    ],
)
def test_of_many_files_that_the_base_was_tuned_on_some_are_named(files, said):
    facts = held_out_facts(12, 0, base_files=files)
    detail = finding(analyse(replace(evidence(), held_out_facts=facts)), "better").detail
    assert said in detail
    assert "not counted" not in detail


def test_of_a_base_that_was_not_tuned_nothing_is_said():
    facts = held_out_facts(12, 0, seen_by_base=1)
    detail = finding(analyse(replace(evidence(), held_out_facts=facts)), "better").detail
    assert "tuned on" not in detail


def test_held_out_text_that_the_base_was_trained_on():
    facts = HeldOutFacts(
        "records", None, records=12, groups=12, scored_records=0, scored_groups=0, excluded_shared=0,
        seen_by_base=12,
    )  # fmt: skip
    report = analyse(replace(evidence(held_out=()), held_out_facts=facts))
    assert report.verdict.state == "not_comparable"
    assert report.verdict.headline.startswith(
        "The base model was trained on all held-out text, so improvement could not be measured; it learned"
    )
    assert finding(report, "better").detail == (
        "The base model was trained on every held-out record or a near-duplicate of it, so its loss does not "
        "measure unseen text."
    )
    assert report.verdict.next_step == ("To measure it, evaluate on a file of other texts: --validation FILE")
    assert "also in the training text" not in render_html(report)
    assert "The base model was trained on all held-out text, so its loss" in render_html(report)


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (1, "1 other held-out record is not counted, because the base model was trained on it or on a"),
        (2, "2 other held-out records are not counted, because the base model was trained on them or on"),
    ],
)
def test_some_held_out_text_that_the_base_was_trained_on_and_what_else_it_was_tuned_on(seen, said):
    facts = HeldOutFacts(
        "records", None, records=12, groups=12, scored_records=12 - seen, scored_groups=12 - seen,
        excluded_shared=0, seen_by_base=seen, base_files=("first.txt",),
    )  # fmt: skip
    detail = finding(analyse(replace(evidence(), held_out_facts=facts)), "better").detail
    assert f"{said} near-duplicate" in detail
    assert "was itself tuned on first.txt, and that data may include held-out text." in detail


def test_the_best_step_is_the_untouched_base():
    report = analyse(evidence(kept_step=0))
    verdict = report.verdict
    assert verdict.headline == "Nothing was learned: the result is the base model, unchanged."
    assert verdict.state == "unchanged"
    assert {found.tone for found in verdict.findings} == {"unknown"}
    assert verdict.findings[0].detail == (
        "The loss on held-out text was 5.000 nats per token before training, and 3.200 at its lowest in 2 "
        "steps."
    )
    assert "--learning-rate 2e-3" in verdict.next_step


@pytest.mark.parametrize("losses", [(), (5.0,)])
def test_without_evaluations_the_best_step_is_the_base_too(report, losses):
    points = [
        replace(report.course.points[-1], step=step, held_out_loss=loss) for step, loss in enumerate(losses)
    ]
    figures = Figures(report.base, report.tuned, report.held_out, report.lengths, report.normal,
                      replace(report.course, points=tuple(points), kept_step=0))  # fmt: skip
    verdict = judge(figures)
    assert verdict.findings[0].detail == "No step of 2 lowered the loss on held-out text."
    assert verdict.next_step.endswith("Try more epochs (--epochs) or a higher learning rate.")


def test_training_that_made_it_worse_calls_for_a_lower_rate(report):
    points = [replace(report.course.points[-1], step=step, held_out_loss=3 + step) for step in (0, 1)]
    course = replace(report.course, points=tuple(points), kept_step=0)
    figures = Figures(
        report.base, report.tuned, report.held_out, report.lengths, report.normal, course, learning_rate=1e-3
    )
    assert judge(figures).next_step == (
        "Training made it worse from the first evaluation on. Try a lower learning rate "
        "(--learning-rate 2e-4)."
    )

    high = replace(figures, learning_rate=1.0)
    assert "(--learning-rate 1e-3)" in judge(high).next_step
    assert judge(replace(figures, learning_rate=None)).next_step.endswith("Try a lower learning rate.")


@pytest.mark.parametrize(
    ("before", "after", "answer", "tone"),
    [
        (40, 4.9, "It learned the text lengths", "good"),  # within what chance allows
        (40, 5, "It learned the text lengths", "good"),
        (5, 4, "It kept the text lengths", "good"),
        (90, 10, "It nearly learned the text lengths", "mixed"),
        (10, 10, "Its text lengths are slightly off", "mixed"),
        (90, 15, "It partly learned the text lengths", "mixed"),
        (24, 12, "It partly learned the text lengths", "mixed"),
        (40, 5.1, "It nearly learned the text lengths", "mixed"),
        (90, 9.9, "It nearly learned the text lengths", "mixed"),  # however far a base that never stops was
        (90, 10.1, "It partly learned the text lengths", "mixed"),
        (90, 16, "It did not learn the text lengths", "bad"),  # more than a third of the mean length
        (20, 10.1, "It did not learn the text lengths", "bad"),
        (3, 3, "It kept the text lengths", "good"),
        (3, 30, "It did not learn the text lengths", "bad"),
        (3, 7, "Its text lengths are slightly off", "mixed"),  # they were better before
        (7, 7, "Its text lengths are slightly off", "mixed"),
        (7.1, 7, "It nearly learned the text lengths", "mixed"),
    ],
)
def test_shape(report, before, after, answer, tone):
    def with_distance(side, distance):
        return replace(side, lengths=replace(side.lengths, distance=distance))

    lengths = replace(report.lengths, usual_distance=5.0, data=replace(report.lengths.data, mean=45.0))
    sides = {"base": with_distance(report.base, before), "tuned": with_distance(report.tuned, after)}
    found = judged(report, "how long", lengths=lengths, **sides)
    assert (found.answer, found.tone) == (answer, tone)
    assert found.detail == (
        f"Sample lengths differ from the data's by {after:.1f} tokens on average (base model: {before:.1f}). "
        "Up to 5.0 is normal: 95% of random draws of 20 real records differ by 5.0 tokens or less."
    )


def test_records_longer_than_any_sample_have_no_lengths_to_learn():
    report = analyse(evidence(training=PROSE_LINES, held_out=()))
    found = finding(report, "how long")
    assert (found.tone, found.answer) == ("unknown", "Samples are too short to tell")
    assert found.detail.startswith("100% of the records have 80 tokens or more")


@pytest.mark.parametrize(("at_limit", "tone"), [(0.9, "unknown"), (0.89, "mixed")])
def test_nine_records_in_ten_are_too_many_to_be_cut_off(report, at_limit, tone):
    lengths = replace(report.lengths, data=replace(report.lengths.data, at_limit=at_limit))
    assert judged(report, "how long", lengths=lengths).tone == tone


@pytest.mark.parametrize(
    ("pairs", "repeated", "answer"),
    [
        (0.9, 0, "It is varied"),
        (0.8, 0, "It is varied"),
        (0.7, 0, "It is less varied than real text"),
        (0.6, 0, "It is less varied than real text"),
        (0.5, 0, "It repeats itself"),
        (0.9, 1, "It is varied"),
        (0.9, 2, "It repeats itself"),
    ],
)
def test_variety(report, pairs, repeated, answer):
    normal = replace(report.normal, diversity=replace(report.normal.diversity, distinct=(0.5, 1.0, 1.0)))
    diversity = replace(report.tuned.diversity, distinct=(0.5, pairs, 1.0), repeated=repeated)
    tuned = replace(report.tuned, diversity=diversity)
    found = judged(report, "varied", tuned=tuned, normal=normal)
    assert found.answer == answer
    assert (
        f"{pairs:.0%} of the word pairs in its samples are distinct (held-out text of the same length: 100%"
        in (found.detail)
    )


def test_a_model_is_as_varied_as_unseen_text_that_is_not(report):
    normal, tuned = (
        replace(side, diversity=replace(side.diversity, distinct=(0.5, 0.5, 1.0)))
        for side in (report.normal, report.tuned)
    )
    found = judged(report, "varied", tuned=tuned, normal=normal)
    assert found.answer == "It is varied"
    assert "(held-out text of the same length: 50%; normal: 40% or more)" in found.detail


@pytest.mark.parametrize(
    ("repeated", "said"),
    [
        (0, "None of 20 samples repeats an earlier one"),
        (1, "1 of 20 samples repeats an earlier one"),
        (2, "2 of 20 samples repeat an earlier one"),
    ],
)
def test_how_many_samples_are_repeated_is_said(report, repeated, said):
    tuned = replace(report.tuned, diversity=replace(report.tuned.diversity, repeated=repeated))
    assert f" {said}; the share among all samples is" in judged(report, "varied", tuned=tuned).detail


def test_a_model_that_writes_nothing_repeats_itself():
    report = analyse(evidence(tuned=[""] * 20))
    assert finding(report, "varied").answer == "It repeats itself"
    assert finding(report, "copying").answer == "It does not copy"
