"""Sums in a fixed order: a tree of pairs that depends on how many values there are and on nothing else.

Main entries: `PairwiseSum`, `share`. Sums of floating-point numbers depend on their order. Here neighbours
are added in pairs, then the pairs, and so on (a sum of `count` splits at the largest power of two below it),
so whoever adds a stretch of neighbours adds what everybody else would. Invariant: the total is the same bit
for bit however the values are shared out (tests/property/test_pairwise_sum.py).
"""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Span(NamedTuple):
    """The values from number `start` to before `stop`."""

    start: int
    stop: int


class PairwiseSum(Generic[T]):
    """Adds up neighbours as they come; holds no more partial sums than the tree is high.

    Args:
        count: Values that the whole sum has.
        add: Adds two sums; it may change and return the first.

    Attributes:
        partial: The sums so far, left to right; they cannot be added further without others between them.
    """

    def __init__(self, count: int, add: Callable[[T, T], T]) -> None:
        self.count = count
        self.partial: list[tuple[Span, T]] = []
        self._add = add

    def put(self, span: Span, value: T) -> None:
        """Take in the sum of the values of `span`, which is to the right of all before."""
        while self.partial and self._are_siblings(self.partial[-1][0], span):
            left, sum_of_left = self.partial.pop()
            span, value = Span(left.start, span.stop), self._add(sum_of_left, value)
        self.partial.append((span, value))

    @property
    def total(self) -> T:
        """The whole sum, once every value was put in."""
        [(span, total)] = self.partial
        assert span == (0, self.count)
        return total

    def _are_siblings(self, left: Span, right: Span) -> bool:
        """Whether the tree adds these two sums to each other."""
        size = left.stop - left.start
        is_left_child = size & (size - 1) == 0 and left.start % (2 * size) == 0
        return is_left_child and right == (left.stop, min(left.stop + size, self.count))


def share(count: int, rank: int, size: int) -> range:
    """Which of `count` values the process of this rank has, of `size` processes: neighbours, as many each."""
    return range(count * rank // size, count * (rank + 1) // size)


def partial_spans(count: int, rank: int, size: int) -> list[Span]:
    """The spans of the sums that the process of this rank makes of its share."""
    sums = PairwiseSum[None](count, lambda *_: None)
    for number in share(count, rank, size):
        sums.put(Span(number, number + 1), None)
    return [span for span, _ in sums.partial]
