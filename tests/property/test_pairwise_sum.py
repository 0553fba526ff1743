"""Sums that do not depend on who adds what."""

from hypothesis import given
from hypothesis import strategies as st

from conjure.lm.training.distributed.pairwise_sum import PairwiseSum, Span, partial_spans, share

COUNTS = st.integers(1, 40)


def one(number):
    return Span(number, number + 1)


def added_in_order(count, add):
    sums = PairwiseSum(count, add)
    for number in range(count):
        sums.put(one(number), str(number))
    return sums.total


def written(left, right):
    """What an addition is of, so that equal texts are equal orders of additions."""
    return f"({left}+{right})"


@given(COUNTS, st.integers(1, 40))
def test_the_order_of_additions_is_the_same_however_values_are_shared_out(count, size):
    whole = PairwiseSum(count, written)
    for rank in range(size):
        own = PairwiseSum(count, written)
        for number in share(count, rank, size):
            own.put(one(number), str(number))
        assert [span for span, _ in own.partial] == partial_spans(count, rank, size)
        for span, value in own.partial:
            whole.put(span, value)
    assert whole.total == added_in_order(count, written)


@given(COUNTS, st.integers(1, 40))
def test_every_value_is_one_process_s_and_shares_are_alike(count, size):
    shares = [share(count, rank, size) for rank in range(size)]
    assert [number for each in shares for number in each] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(COUNTS)
def test_no_more_partial_sums_are_held_than_the_tree_is_high(count):
    sums = PairwiseSum(count, lambda left, right: left + right)
    for number in range(count):
        sums.put(one(number), number)
        assert len(sums.partial) <= count.bit_length()
    assert sums.total == sum(range(count))


def test_neighbours_are_added_in_pairs():
    assert added_in_order(4, written) == "((0+1)+(2+3))"
    assert added_in_order(7, written) == "(((0+1)+(2+3))+((4+5)+6))"
