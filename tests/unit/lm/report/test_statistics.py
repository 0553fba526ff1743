"""The test of "is it better?": its size, its power, and that each group counts once."""

from itertools import product

import numpy as np
import pytest

from conjure.lm.generation.score import Score, Tally, Windows
from conjure.lm.report.statistics import (
    LEVEL,
    SMALLEST_CHANGE,
    compare_losses,
    group_tallies,
    margin,
    sign_flip_test,
    stretches,
)


def tallies(tokens, totals):
    return [Tally(total, count, 3, 10) for count, total in zip(tokens, totals, strict=True)]


def compared(tokens, differences):
    """`differences` are in nats; below 0 is likelier."""
    before = tallies(tokens, [-100.0] * len(tokens))
    return compare_losses(before, tallies(tokens, [-100.0 - one for one in differences]))


def test_a_group_is_the_mean_of_its_records():
    found = group_tallies(tallies([10, 20, 30], [-5.0, -7.0, -9.0]), [4, 1, 4])
    assert found == [Tally(-7.0, 20, 3, 10), Tally(-7.0, 20, 3, 10)]


def test_copies_change_nothing():
    tokens, before, after = [10, 20, 30], [-40.0, -60.0, -80.0], [-35.0, -66.0, -82.0]
    alone = compare_losses(tallies(tokens, before), tallies(tokens, after))
    units = [0, 1, 2, *[2] * 30]
    many = compare_losses(
        *(
            group_tallies(tallies([*tokens, *[30] * 30], [*losses, *[losses[2]] * 30]), units)
            for losses in (before, after)
        )
    )
    assert (many.groups, many.likelier, many.outcome) == (3, 1, alone.outcome)
    assert many.change == pytest.approx(alone.change)
    assert many.standard_error == pytest.approx(alone.standard_error)
    assert many.p_value == alone.p_value


@pytest.mark.parametrize("groups", [1, 3, 6, 10])
def test_p_equals_that_of_trying_all_signs(groups):
    differences = np.random.default_rng(groups).normal(size=groups)
    sums = [abs(np.dot(signs, differences)) for signs in product((-1, 1), repeat=groups)]
    expected = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12)
    assert sign_flip_test(differences) == (pytest.approx(expected), "exact")


@pytest.mark.parametrize("groups", [12, 200])
def test_the_ways_of_testing_agree(groups, monkeypatch):
    from conjure.lm.report import statistics

    differences = np.random.default_rng(5).normal(0.1, 1, groups)
    found = {}
    for exact, sampled in ((14, 1000), (0, 1000), (0, 0)):
        monkeypatch.setattr(statistics, "_EXACT_GROUPS", exact)
        monkeypatch.setattr(statistics, "_SAMPLED_GROUPS", sampled)
        p_value, method = sign_flip_test(differences)
        found[method] = p_value
    assert set(found) == ({"exact", "sampled", "normal"} if groups == 12 else {"sampled", "normal"})
    values = list(found.values())
    assert max(values) - min(values) < (0.05 if groups == 12 else 0.01)


@pytest.mark.parametrize(
    ("groups", "method"), [(14, "exact"), (15, "sampled"), (1000, "sampled"), (1001, "normal")]
)
def test_the_way_of_testing_follows_from_the_number_of_groups(groups, method):
    differences = np.arange(1.0, groups + 1) * (-1) ** np.arange(groups)
    p_value, found = sign_flip_test(differences)
    assert found == method
    assert 0.8 < p_value <= 1


def test_drawn_signs_give_a_probability():
    """Two halves that cancel out: any signs give a sum at least as far from 0."""
    assert sign_flip_test(np.repeat([1.0, -1.0], 500)) == (1.0, "sampled")


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "nulls"), [(7, 500), (59, 300), (1200, 500)])  # exact, sampled, normal
def test_of_nulls_at_most_so_many_are_called_a_change(groups, nulls):
    source = np.random.default_rng(groups)
    tokens = source.integers(5, 60, groups)
    sizes = source.standard_t(2, groups) * tokens  # a few groups differ very much
    outcomes = [compared(tokens, source.choice([-1, 1], groups) * sizes).outcome for _ in range(nulls)]
    called = nulls - outcomes.count("unclear")
    assert called <= 0.05 * nulls + 3 * (0.05 * 0.95 * nulls) ** 0.5


def test_five_groups_are_never_enough_and_six_can_be():
    assert compared([20] * 5, [-20.0] * 5).outcome == "unclear"
    assert compared([20] * 6, [-20.0] * 6).outcome == "better"
    assert compared([20] * 6, [20.0] * 6).outcome == "worse"


def test_a_change_too_small_to_notice_is_none_however_sure():
    groups = 500
    almost = compared([20] * groups, [-20 * SMALLEST_CHANGE * 0.9] * groups)
    assert almost.p_value < LEVEL
    assert almost.outcome == "unclear"
    assert compared([20] * groups, [-20 * SMALLEST_CHANGE * 1.1] * groups).outcome == "better"


def test_the_smallest_change_that_counts_does():
    assert compared([50] * 8, [-1.0] * 8).change == -SMALLEST_CHANGE
    assert compared([50] * 8, [-1.0] * 8).outcome == "better"
    assert compared([50] * 8, [1.0] * 8).outcome == "worse"


def test_no_change_at_all():
    found = compared([20] * 30, [0.0] * 30)
    assert (found.change, found.p_value, found.likelier, found.outcome) == (0.0, 1.0, 0, "unclear")


def test_of_groups_of_one_length_the_standard_error_is_that_of_a_mean():
    differences = np.array([-3.0, -1.0, 2.0, -4.0])
    found = compared([10] * 4, differences)
    assert found.standard_error == pytest.approx(np.std(differences / 10, ddof=1) / 2)


def test_two_groups_have_a_standard_error_and_one_has_none():
    assert compared([10, 10], [-3.0, -1.0]).standard_error == pytest.approx(0.1)
    assert compared([10], [-3.0]).standard_error is None


@pytest.mark.slow
def test_the_standard_error_is_what_many_draws_show():
    source = np.random.default_rng(0)
    found = []
    for _ in range(400):
        tokens = source.integers(5, 60, 100)
        found.append(compared(tokens, source.normal(-0.1 * tokens, 3.0)))
    spread = np.std([one.change for one in found])
    assert np.mean([one.standard_error for one in found]) == pytest.approx(spread, rel=0.1)


def test_the_stretches_of_a_text_add_up_to_it():
    logprobs = np.random.default_rng(0).uniform(-9, 0, 1900).tolist()
    whole = Tally(sum(logprobs), 1900, 1000, 5000)
    parts = list(stretches(Score([0] * 1900, logprobs, whole, Windows(64, 32))))
    assert [part.tokens for part in parts] == [475] * 4
    together = sum(parts, Tally())
    assert together.total == pytest.approx(whole.total)
    assert (together.words, together.bytes) == (1000, 5000)


def test_a_margin_is_wider_over_few_groups():
    """Beside the tables of Student's t."""
    known = {1: 12.706, 2: 4.303, 3: 3.182, 5: 2.571, 10: 2.228, 30: 2.042, 1000: 1.962}
    for freedom, factor in known.items():
        assert margin(0.5, freedom + 1) == pytest.approx(0.5 * factor, rel=0.012)
    assert margin(1.0, 11) == pytest.approx(2.22814, rel=1e-4)
