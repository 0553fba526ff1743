"""Choosing tokens: each setting does what it says, on rows that know nothing of each other."""

import math

import numpy as np
import pytest
import torch

from conjure.errors import UsageError
from conjure.lm.bounds import LARGEST_COUNT, Bound
from conjure.lm.generation.request import LARGEST_SEED, SamplingSettings, draw_seed
from conjure.lm.generation.sampling import (
    ban_repeated_ngrams,
    gumbel_noise,
    keep_nucleus,
    penalise_repetition,
    random_stream,
    sample_tokens,
)
from conjure.lm.native.logits import largest


def draw(logits: list[float], count: int, **settings) -> np.ndarray:
    """Choose `count` times from the same logits, with a step number of its own each time."""
    rows = np.tile(np.array(logits, np.float32), (count, 1))
    streams = [random_stream(1, 0)] * count
    return sample_tokens(
        rows, [[]] * count, streams, range(count), SamplingSettings(**{"top_k": 0, **settings})
    )


def shares(chosen: np.ndarray, size: int) -> torch.Tensor:
    return torch.from_numpy(np.bincount(chosen, minlength=size) / len(chosen))


class TestSettings:
    def test_defaults_are_those_of_the_command(self):
        assert SamplingSettings() == SamplingSettings(
            temperature=1.0, top_k=50, top_p=1.0, min_p=0.0, repetition_penalty=1.0, no_repeat_ngram=0
        )

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("temperature", -1, "temperature must be at least 0, not -1"),
            ("temperature", math.nan, "temperature must be a number of at least 0, not nan"),
            ("temperature", math.inf, "temperature must be a number of at least 0, not inf"),
            ("temperature", -math.inf, "temperature must be a number of at least 0, not -inf"),
            ("temperature", "hot", "temperature must be a number of at least 0, not 'hot'"),
            ("temperature", True, "temperature must be a number of at least 0, not True"),
            ("top_k", -1, "top_k must be at least 0, not -1"),
            ("top_k", 1.5, "top_k must be an integer of at least 0, not 1.5"),
            ("top_p", 7, "top_p must be above 0 and at most 1, not 7"),
            ("top_p", 0, "top_p must be above 0 and at most 1, not 0"),
            ("min_p", 1.1, "min_p must be from 0 to 1, not 1.1"),
            ("min_p", -0.1, "min_p must be from 0 to 1, not -0.1"),
            ("repetition_penalty", 0, "repetition_penalty must be above 0, not 0"),
            ("no_repeat_ngram", -2, "no_repeat_ngram must be at least 0, not -2"),
        ],
    )
    def test_a_value_out_of_bounds_is_named_with_what_is_allowed(self, name, value, words):
        with pytest.raises(UsageError) as caught:
            SamplingSettings(**{name: value})
        assert str(caught.value) == words

    @pytest.mark.parametrize(
        ("name", "value"),
        [("temperature", 0), ("top_k", 0), ("top_p", 1), ("top_p", 1e-9), ("min_p", 0), ("min_p", 1)],
    )
    def test_the_edges_are_allowed(self, name, value):
        assert getattr(SamplingSettings(**{name: value}), name) == value

    def test_numbers_beyond_a_floats_reach_are_compared_exactly(self):
        assert not Bound(0, LARGEST_SEED, whole=True).allows(LARGEST_SEED + 1)
        assert Bound(0, LARGEST_SEED, whole=True).allows(LARGEST_SEED - 1)
        assert Bound(1, whole=True).allows(LARGEST_COUNT)
        assert not Bound(1, whole=True).allows(LARGEST_COUNT + 1)
        assert not Bound(1, whole=True).allows(10**400)
        assert not Bound(0).allows(10**400)

    def test_all_faults_come_at_once(self):
        with pytest.raises(UsageError) as caught:
            SamplingSettings(temperature=-1, top_p=7, no_repeat_ngram=-1)
        assert [word in str(caught.value) for word in ("temperature", "top_p", "no_repeat_ngram")] == [
            True
        ] * 3


class TestDistribution:
    """Seeds are fixed, so these numbers never move; the bounds are five standard deviations wide."""

    LOGITS = (2.0, 1.0, 0.0, -1.0, 1.0)
    COUNT = 20_000

    def assert_drawn_from(self, expected: torch.Tensor, **settings) -> None:
        chosen = shares(draw(list(self.LOGITS), self.COUNT, **settings), 5)
        bound = 5 * (expected * (1 - expected) / self.COUNT).sqrt() + 1e-9
        assert ((chosen - expected).abs() <= bound).all(), (chosen, expected)

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
    def test_tokens_come_as_often_as_their_probability_says(self, temperature):
        expected = (torch.tensor(self.LOGITS).double() / temperature).softmax(0)
        self.assert_drawn_from(expected, temperature=temperature)

    def test_top_k_leaves_the_likeliest_and_of_equals_the_lower_id(self):
        expected = torch.tensor([math.e, 1.0, 0.0, 0.0, 0.0]).double()
        self.assert_drawn_from(expected / expected.sum(), top_k=2)

    def test_top_p_leaves_the_smallest_set_that_reaches_it(self):
        # Probabilities 0.51, 0.19, 0.07, 0.03, 0.19: two make 0.697, three 0.885.
        expected = torch.tensor([math.e**2, math.e, 0.0, 0.0, math.e]).double()
        self.assert_drawn_from(expected / expected.sum(), top_p=0.8)

    def test_min_p_is_relative_to_the_likeliest(self):
        expected = torch.tensor([math.e**2, math.e, 0.0, 0.0, math.e]).double()
        self.assert_drawn_from(expected / expected.sum(), min_p=0.2)

    def test_top_p_counts_mass_within_top_k_as_transformers_does(self):
        # Of the best three, 0.576 + 0.212 + 0.212, two reach 0.75; of all five they would not.
        expected = torch.tensor([math.e, 1.0, 0.0, 0.0, 0.0]).double()
        self.assert_drawn_from(expected / expected.sum(), top_k=3, top_p=0.75)


class TestGreedy:
    def test_temperature_zero_takes_the_likeliest_and_the_first_of_equals(self):
        assert draw([0.0, 3.0, 3.0, 1.0], 5, temperature=0).tolist() == [1] * 5

    @pytest.mark.parametrize("temperature", [1e-300, 5e-324, 1e-9])
    def test_a_tiny_temperature_is_greedy_and_no_overflow(self, temperature):
        assert draw([-300.0, -100.0, -101.0], 50, temperature=temperature).tolist() == [1] * 50

    def test_a_huge_temperature_is_uniform(self):
        chosen = shares(draw([-300.0, -100.0, 50.0, 0.0], 4000, temperature=1e300), 4)
        assert (chosen - 0.25).abs().max() < 0.04

    @pytest.mark.parametrize(
        "change", [{"temperature": 0.1}, {"repetition_penalty": 1.2}, {"no_repeat_ngram": 2}]
    )
    def test_only_untouched_logits_need_no_choosing(self, change):
        assert SamplingSettings(temperature=0.0, top_p=0.5).takes_likeliest
        assert not SamplingSettings(**{"temperature": 0.0, **change}).takes_likeliest

    def test_top_k_of_one_is_greedy(self):
        assert draw([0.0, 1.0, 0.9], 100, top_k=1).tolist() == [1] * 100


class TestLargest:
    def test_ties_at_the_edge_keep_exactly_k_by_id(self):
        logits = np.array([[1.0, 0.0, 1.0, 1.0, 2.0, 1.0], [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]], np.float32)

        assert largest(logits, 3).tolist() == [[0, 2, 4], [0, 1, 2]]

    def test_ids_ascend_whatever_the_order_of_the_logits(self):
        assert largest(np.array([[1.0, 3.0, 0.0, 5.0, 4.0]], np.float32), 3).tolist() == [[1, 3, 4]]

    def test_all_equal(self):
        assert largest(np.zeros((2, 1000), np.float32), 7).tolist() == [list(range(7))] * 2

    def test_more_than_there_are_is_all(self):
        assert largest(np.zeros((2, 3), np.float32), 50).tolist() == [[0, 1, 2]] * 2

    def test_banned_tokens_fill_up_and_can_never_win(self):
        logits = [-math.inf, 0.0, -math.inf, -math.inf]
        assert draw(logits, 100, top_k=3).tolist() == [1] * 100


class TestRepetitionPenalty:
    LOGITS = np.array([[2.0, -2.0, 0.0, 5.0, -5.0]], np.float32)

    @pytest.mark.parametrize("penalty", [1.0001, 1.2, 2.0, 100.0])
    def test_it_never_raises_a_seen_token_whatever_its_sign(self, penalty):
        penalised = penalise_repetition(self.LOGITS, [[0, 1, 2, 2, 0]], penalty)

        assert (penalised <= self.LOGITS).all()
        assert (penalised[0, :2] < self.LOGITS[0, :2]).all()
        assert np.array_equal(penalised[0, 3:], self.LOGITS[0, 3:]), "tokens not seen stay as they are"

    def test_a_token_seen_twice_is_penalised_once(self):
        once = penalise_repetition(self.LOGITS, [[0]], 2.0)
        twice = penalise_repetition(self.LOGITS, [[0, 0, 0]], 2.0)

        assert once[0, 0] == 1.0
        assert np.array_equal(once, twice)

    def test_a_row_that_says_nothing_stays_as_it_is(self):
        assert np.array_equal(penalise_repetition(self.LOGITS, [[]], 2.0), self.LOGITS)


class TestNoRepeatNgram:
    def banned(self, history: list[int], size: int) -> list[int]:
        logits = ban_repeated_ngrams(np.zeros((1, 8), np.float32), [history], size)
        return np.flatnonzero(np.isinf(logits[0])).tolist()

    def test_what_would_end_an_old_ngram_is_banned(self):
        assert self.banned([1, 2, 3, 1, 2, 4, 1, 2], 3) == [3, 4]
        assert self.banned([1, 2, 3, 2], 2) == [3]
        assert self.banned([1, 2, 2], 1) == [1, 2]

    def test_a_short_row_bans_nothing(self):
        assert self.banned([1, 2], 3) == []
        assert self.banned([1], 2) == []

    def test_if_every_token_would_be_banned_none_is(self):
        logits = np.array([[1.0, 2.0]], np.float32)
        assert np.array_equal(ban_repeated_ngrams(logits, [[0, 1, 0]], 1), logits)


class TestNucleus:
    def test_equal_scores_go_by_position(self):
        kept = keep_nucleus(np.zeros((1, 4)), 0.5)
        assert np.isfinite(kept[0]).tolist() == [True, True, False, False]

    @pytest.mark.parametrize("top_p", [1e-12, 0.01, 0.5])
    def test_at_least_one_token_is_left(self, top_p):
        kept = keep_nucleus(np.array([[0.0, 10.0, 0.0]]), top_p)
        assert np.isfinite(kept[0]).tolist() == [False, True, False]


class TestNoise:
    def noise(self, steps: int, tokens: int, index: int = 0) -> torch.Tensor:
        ids = np.broadcast_to(np.arange(tokens), (steps, tokens))
        return torch.from_numpy(gumbel_noise([random_stream(0, index)] * steps, range(steps), ids))

    def test_it_is_standard_gumbel(self):
        noise = self.noise(200, 2000)

        assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
        assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.03)
        expected = [-math.log(-math.log(quantile)) for quantile in (0.1, 0.5, 0.9)]
        ordered = noise.flatten().sort().values
        actual = [ordered[int(quantile * len(ordered))].item() for quantile in (0.1, 0.5, 0.9)]
        assert actual == pytest.approx(expected, abs=0.02)

    def test_streams_steps_and_tokens_are_uncorrelated(self):
        # A stream and a step in each of 100 rows.
        series = torch.cat([self.noise(5, 300, index) for index in range(20)])

        correlation = torch.corrcoef(series) - torch.eye(100)

        assert correlation.abs().max() < 0.3  # 4,950 pairs of 300 numbers: five deviations are 0.29

    def test_it_depends_on_seed_and_index_alone(self):
        assert random_stream(3, 4) == random_stream(3, 4)
        assert len({random_stream(seed, index) for seed in range(30) for index in range(30)}) == 900
        assert all(-(2**63) <= random_stream(seed, 0) < 2**63 for seed in (0, 1, 2**64 - 1))

    def test_rows_do_not_see_each_other(self):
        generator = torch.Generator().manual_seed(0)
        logits = (torch.randn(6, 40, generator=generator) * 3).numpy()
        history = torch.randint(0, 40, (6, 9), generator=generator).tolist()
        streams = [random_stream(0, index) for index in range(6)]
        settings = SamplingSettings(
            temperature=0.9, top_k=20, top_p=0.9, min_p=0.01, repetition_penalty=1.3, no_repeat_ngram=2
        )

        together = sample_tokens(logits, history, streams, range(6), settings)

        for order in ([5, 4, 3, 2, 1, 0], [3], [5, 5, 0]):
            rows = [[each[row] for row in order] for each in (history, streams)]
            alone = sample_tokens(logits[order], *rows, order, settings)
            assert np.array_equal(alone, together[order])

    def test_a_last_bit_of_the_logits_hardly_ever_changes_a_choice(self):
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(5000, 200, generator=generator) * 3
        streams = [random_stream(7, 0)] * 5000

        def chosen(error: float) -> np.ndarray:
            nudge = torch.randn(5000, 200, generator=torch.Generator().manual_seed(1)) * error
            rows = (logits + nudge).numpy()
            return sample_tokens(rows, [[]] * 5000, streams, range(5000), SamplingSettings(top_k=50))

        # The promise is 2 errors in a hundred at 0.01, in proportion to the error.
        assert (chosen(0.01) != chosen(0)).mean() < 0.02
        assert (chosen(1e-6) != chosen(0)).sum() == 0


def test_drawn_seeds_differ_and_leave_global_randomness_alone():
    before = torch.get_rng_state()

    assert len({draw_seed() for _ in range(20)}) > 15
    assert torch.equal(torch.get_rng_state(), before)
