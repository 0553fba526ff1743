"""Lengths of texts as distributions, and how far apart two of them are.

Main entries: `length_counts`, `distance`, `usual_distance`. A sample can have only so many tokens, so lengths
are compared as far as that: every longer record counts as one of that length. Invariant: the distance is
symmetric, zero for equal distributions only, and at most that length.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

_DRAWS = 1000
_USUAL = 95  # percent of the draws

Counts = npt.NDArray[np.int64]


def length_counts(lengths: Iterable[int] | npt.NDArray[np.integer[Any]], limit: int) -> Counts:
    """How many texts have each length from 0 to `limit` tokens, (limit + 1,); longer ones count there."""
    values = np.asarray(lengths if isinstance(lengths, np.ndarray) else list(lengths), np.int64)
    return np.bincount(np.minimum(values, limit), minlength=limit + 1)


def distance(one: Counts, other: Counts) -> float:
    """Wasserstein-1 distance of two length distributions, in tokens.

    That is the area between the two cumulative distributions: the number of tokens by which the texts of one
    would have to be lengthened or shortened, on average, to have the lengths of the other.
    """
    return float(np.abs(_cumulative(one) - _cumulative(other)).sum())


def usual_distance(data: Counts, texts: int, *, seed: int = 0) -> float:
    """How far a handful of the data's own records is from all of them: 95 in 100 handfuls are closer.

    A few texts never have exactly the lengths of all, so a smaller distance than this means nothing.

    Args:
        data: Lengths of the data's records.
        texts: Records in a handful.
        seed: Of the draws.
    """
    shares = data / data.sum()
    draws = np.random.default_rng(seed).multinomial(texts, shares, size=_DRAWS)  # (draws, limit + 1)
    gaps = np.abs(np.cumsum(draws, 1) / texts - np.cumsum(shares))
    return float(np.percentile(gaps.sum(1), _USUAL))


def _cumulative(counts: Counts) -> npt.NDArray[np.float64]:
    return np.cumsum(counts) / counts.sum()
