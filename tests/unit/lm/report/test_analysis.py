"""A report's figures, from evidence small enough to work out by hand."""

import math
from dataclasses import replace

import pytest

from conjure.lm.report.analysis import analyse, choose_gallery, copied_sources, thin_out
from conjure.lm.report.diversity import self_bleu
from conjure.lm.report.html.page import render_html
from conjure.lm.report.measure_model import Excerpt
from conjure.lm.report.novelty import compare_with_training
from conjure.lm.report.report_schema import CurvePoint, Gallery, Report
from conjure.lm.report.word_ngrams import split_words
from support.models import tiny_tokenizer
from support.reports import HELD_OUT, OWN_LINES, PROSE_LINES, TRAINING, evidence


@pytest.fixture(scope="module")
def report() -> Report:
    return analyse(evidence())


def test_held_out_scores_are_side_by_side(report):
    ids = tiny_tokenizer().encode_batch(list(HELD_OUT))
    tokens = [len(text) for text in ids]
    extra = sum(0.01 * (place % 3) * count for place, count in enumerate(tokens)) / sum(tokens)
    assert report.base.held_out.loss == pytest.approx(5 + extra)
    assert report.tuned.held_out.perplexity == pytest.approx(math.exp(3 + extra))
    held_out = report.held_out
    assert (held_out.records, held_out.tokens) == (len(HELD_OUT), sum(tokens))
    assert held_out.bytes == sum(len(text.encode()) for text in HELD_OUT)
    assert (held_out.context, held_out.stride, held_out.likelier) == (32, 16, len(HELD_OUT))
    assert held_out.change == pytest.approx(-2)
    assert held_out.standard_error == pytest.approx(0, abs=1e-9)


def test_samples_carry_what_is_known_of_each(report):
    sample = report.tuned.samples[3]
    assert (sample.index, sample.text, sample.loss) == (3, OWN_LINES[3], 1.0)
    assert sample.tokens == len(tiny_tokenizer().encode(OWN_LINES[3]))  # no end-of-text token
    assert (sample.finish_reason, sample.originality) == ("end_of_text", "own")
    assert report.base.samples[0].finish_reason == "length"


def test_lengths_are_shares_of_bins(report):
    scale = report.lengths
    assert (scale.limit, scale.width, len(scale.data.shares)) == (80, 6, 14)
    assert sum(scale.data.shares) == pytest.approx(1)
    lengths = [sample.tokens for sample in report.tuned.samples]
    assert report.tuned.lengths.mean == pytest.approx(sum(lengths) / 20)
    assert report.tuned.lengths.shares[4] == sum(24 <= length < 30 for length in lengths) / 20
    assert report.base.lengths.at_limit == 1
    assert report.base.lengths.median == 80
    assert scale.data.distance == 0


def test_training_records_are_counted_as_they_are_compared(report):
    assert report.training_text.records == len(TRAINING)
    assert report.training_text.characters == sum(map(len, TRAINING))


def test_diversity_is_measured_on_as_many_words_for_each(report):
    own = sum(len(line.split()) for line in OWN_LINES)
    assert own < sum(len(line.split()) for line in PROSE_LINES)
    assert report.base.diversity.words == report.tuned.diversity.words <= own
    assert report.base.diversity.distinct[0] < 0.3 < report.tuned.diversity.distinct[0]
    assert report.base.diversity.self_bleu > 0.5 > report.tuned.diversity.self_bleu


@pytest.mark.parametrize(("samples", "fewest"), [(4, 4), (20, 12)])
def test_diversity_is_measured_on_as_many_texts_for_each(samples, fewest):
    report = analyse(evidence(tuned=OWN_LINES[:samples], base=PROSE_LINES[:samples], held_out=HELD_OUT))
    assert report.normal is not None
    columns = (report.base.diversity, report.tuned.diversity, report.normal.diversity)
    assert [column.texts for column in columns] == [samples, samples, fewest]
    assert report.tuned.diversity.self_bleu == self_bleu(list(map(split_words, OWN_LINES[:fewest])))
    assert report.normal.diversity.self_bleu == self_bleu(list(map(split_words, HELD_OUT[:fewest])))


def test_repeats_of_held_out_text_are_counted_among_as_many_texts_as_there_are_samples():
    twice = [*HELD_OUT[:4], *HELD_OUT[:4]]
    report = analyse(evidence(tuned=OWN_LINES[:6], base=PROSE_LINES[:6], held_out=twice))
    assert report.normal is not None
    assert (report.normal.diversity.repeated, report.normal.diversity.texts) == (2, 6)
    assert "2 of 6" in render_html(report)


def test_course_keeps_losses_and_the_kept_step(report):
    assert report.course.points[0] == CurvePoint(0, None, 5.0)
    assert (report.course.steps, report.course.kept_step, report.course.end_reason) == (2, 2, "completed")


def test_thinning_out_keeps_ends_and_means():
    points = [CurvePoint(step, float(step), step / 2 if step % 4 == 0 else None) for step in range(1, 1001)]
    thin = thin_out(points, 300)
    assert len(thin) == 250
    assert thin[0] == CurvePoint(4, 2.5, 2.0)
    assert thin[-1].step == 1000
    assert thin_out(points[:300], 300) == tuple(points[:300])
    assert thin_out([], 300) == ()


def test_thinning_out_keeps_every_evaluation_at_its_step():
    points = [
        CurvePoint(step, float(step), 5.0 - step / 999 if step % 500 == 0 else None) for step in range(3000)
    ]
    thin = thin_out(points, 300)
    assert [point.step for point in thin if point.held_out_loss is not None] == [
        0,
        500,
        1000,
        1500,
        2000,
        2500,
    ]
    assert thin[0] == CurvePoint(0, 0.0, 5.0)
    assert len(thin) <= 306


@pytest.mark.parametrize(
    ("losses", "gallery"),
    [
        ([3.0], Gallery((0,), (), ())),
        ([3.0, 1.0], Gallery((1,), (), (0,))),
        ([3.0, 1.0, 2.0], Gallery((1,), (2,), (0,))),
        ([3.0, 1.0, 2.0, 2.0], Gallery((1,), (2,), (0,))),
        ([float(loss) for loss in range(11)], Gallery((0, 1, 2), (4, 5, 6), (8, 9, 10))),
    ],
)
def test_gallery(losses, gallery):
    assert choose_gallery(losses) == gallery


def test_what_says_the_same_is_normal_once():
    """Copies of one held-out text would make unseen text look repetitive, and excuse a model that repeats."""
    once = analyse(evidence()).normal
    copied = replace(
        evidence(held_out=(*HELD_OUT, *[HELD_OUT[0]] * 20)),
        held_out_units=[*range(len(HELD_OUT)), *[0] * 20],
    )
    assert analyse(copied).normal == once


def test_a_text_half_of_which_is_copied_shows_nothing_of_unseen_text():
    own, copied = OWN_LINES[0], TRAINING[0]
    pieces = [(0, own), (0, own), (0, copied), (1, own), (1, copied), (2, copied)]
    overlaps = compare_with_training([text for _, text in pieces], TRAINING, tiny_tokenizer())
    assert copied_sources([Excerpt(*piece) for piece in pieces], overlaps) == {1, 2}
