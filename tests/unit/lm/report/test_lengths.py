"""Length distributions, their distance, and what distance is usual."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conjure.lm.report.lengths import distance, length_counts, usual_distance

lengths = st.lists(st.integers(0, 20), min_size=1, max_size=8)


def test_longer_texts_count_as_the_limit():
    assert length_counts([0, 2, 5, 900], limit=4).tolist() == [1, 0, 1, 0, 2]
    assert length_counts(np.array([1, 1], np.uint16), limit=1).tolist() == [0, 2]
    assert length_counts([1], limit=3).tolist() == [0, 1, 0, 0]


def test_distance_is_tokens_to_add_or_take_away():
    assert distance(length_counts([10, 20], 50), length_counts([13, 21], 50)) == pytest.approx(2)
    assert distance(length_counts([5], 50), length_counts([5, 5, 5], 50)) == 0


@given(lengths, lengths)
def test_distance_is_the_cheapest_way_to_pair_off_the_texts(one, other):
    """Repeated to equal numbers and sorted, the two pair off best in order."""
    pairs = zip(sorted(one * len(other)), sorted(other * len(one)), strict=True)
    cheapest = sum(abs(a - b) for a, b in pairs) / (len(one) * len(other))
    there = distance(length_counts(one, 20), length_counts(other, 20))
    assert there == pytest.approx(cheapest)
    assert there == pytest.approx(distance(length_counts(other, 20), length_counts(one, 20)))


def test_usual_distance_falls_with_the_number_of_texts():
    data = length_counts(np.random.default_rng(1).integers(5, 40, 500), 70)
    few, many = usual_distance(data, 10), usual_distance(data, 1000)
    assert 2 < few < 10
    assert many < few / 5
    assert usual_distance(data, 10) == few  # seeded
    assert usual_distance(length_counts([7, 7], 70), 10) == 0
