"""What held-out losses show, each group of records that say the same counting once.

Main entries: `group_tallies`, `compare_losses`. The test is a sign-flip (permutation) test: if training had
changed nothing, each group's difference could as well have the other sign. Its statistic is the sum of the
differences, so that it judges the figure that is shown, the change of the mean loss per token. It supposes
nothing about how differences are distributed, only that groups are independent of each other.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from conjure.lm.generation.score import Score, Tally
from conjure.lm.report.report_schema import Outcome

LEVEL = 0.05  # one null in twenty is called a difference
SMALLEST_CHANGE = 0.02  # nats per token: 2 % of perplexity, which no reader would notice
STRETCH_TOKENS = 512  # a long text counts as several, each of so many tokens …
FEWEST_CLEAR_GROUPS = 6  # 2 of 2**5 signs give the largest sum of 5 differences: more often than LEVEL
FEWEST_GROUPS = 8  # … where fewer groups than this are held out

_EXACT_GROUPS = 14  # all 2**14 signs are tried
_SAMPLED_GROUPS = 1000  # above, the sum is normally distributed
_DRAWS = 19_999
_DRAWN_AT_ONCE = 1 << 22

Method = Literal["exact", "sampled", "normal"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LossChange:
    """How the held-out loss changed.

    Attributes:
        groups: Groups compared.
        likelier: Groups that became likelier.
        change: Of the mean loss, nats per token; below 0 is better.
        standard_error: Of `change`, over the groups; None of fewer than two.
        p_value: How often signs drawn at random give so large a change, either way.
        method: Whether all signs were tried (``exact``), many drawn, or their limit, the normal distribution,
            was used.
        outcome: ``better`` or ``worse`` where `p_value` is below `LEVEL` and the change is at least
            `SMALLEST_CHANGE`.
    """

    groups: int
    likelier: int
    change: float
    standard_error: float | None
    p_value: float
    method: Method
    outcome: Outcome


def margin(standard_error: float, groups: int) -> float:
    """How far the true value of a mean over so many groups may be from the one found, with 95 % confidence.

    Args:
        standard_error: Of the mean.
        groups: At least 2; few of them tell the standard error itself only roughly.

    Source:
        Student's t; for more than two degrees of freedom by Abramowitz and Stegun 1964, 26.7.5.
    """
    freedom = groups - 1
    if freedom == 1:
        return math.tan(math.pi / 2 * 0.95) * standard_error
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2)) * standard_error
    z = NormalDist().inv_cdf(0.975)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms)) * standard_error


def group_tallies(tallies: Sequence[Tally], groups: Sequence[int]) -> list[Tally]:
    """One tally for each group, the mean of its records', in the order of the groups' numbers."""
    values = np.array([(t.total, t.tokens, t.words, t.bytes) for t in tallies], np.float64).reshape(-1, 4)
    _, numbers, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    sums = np.zeros((len(sizes), 4))
    np.add.at(sums, numbers, values)
    return [Tally(*row) for row in (sums / sizes[:, None]).tolist()]


def stretches(score: Score, tokens: int = STRETCH_TOKENS) -> Iterator[Tally]:
    """A long text's tally in parts of so many tokens; its words and bytes are spread over them evenly."""
    count = max(1, round(len(score.token_logprobs) / tokens))
    bounds = [part * len(score.token_logprobs) // count for part in range(count + 1)]
    for start, stop in pairwise(bounds):
        total = math.fsum(score.token_logprobs[start:stop])
        yield Tally(total, stop - start, score.tally.words / count, score.tally.bytes / count)


def compare_losses(before: Sequence[Tally], after: Sequence[Tally]) -> LossChange:
    """Compare two models on the same groups, one tally each; there must be a token among them.

    Source:
        Sign-flip test: Fisher 1935, "The Design of Experiments", section 21.
    """
    tokens = np.array([tally.tokens for tally in after], np.float64)
    differences = np.array(
        [b.total - a.total for b, a in zip(before, after, strict=True)]
    )  # nats; < 0: better
    change = float(differences.sum() / tokens.sum())
    p_value, method = sign_flip_test(differences)
    outcome: Outcome = "unclear"
    if p_value < LEVEL and abs(change) >= SMALLEST_CHANGE:
        outcome = "better" if change < 0 else "worse"
    return LossChange(
        groups=len(differences),
        likelier=int((differences < 0).sum()),
        change=change,
        standard_error=_ratio_error(differences, tokens, change),
        p_value=p_value,
        method=method,
        outcome=outcome,
    )


def sign_flip_test(differences: Floats) -> tuple[float, Method]:
    """How often random signs give a sum at least as far from 0, and how that was found."""
    observed = abs(float(differences.sum()))
    scale = math.sqrt(float((differences**2).sum()))
    if scale == 0:
        return 1.0, "exact"
    close = observed - 1e-9 * scale  # equal sums, whatever order they were added in
    if len(differences) <= _EXACT_GROUPS:
        signs = (np.arange(1 << len(differences))[:, None] >> np.arange(len(differences)) & 1) * 2.0 - 1
        return float((np.abs(signs @ differences) >= close).mean()), "exact"
    if len(differences) <= _SAMPLED_GROUPS:
        return (1 + _drawn_as_far(differences, close)) / (1 + _DRAWS), "sampled"
    return math.erfc(observed / scale / math.sqrt(2)), "normal"


def _drawn_as_far(differences: Floats, distance: float) -> int:
    """How many of `_DRAWS` draws of signs give a sum at least so far from 0; the same ones every time."""
    generator = np.random.default_rng(0)
    far = 0
    rows = max(1, _DRAWN_AT_ONCE // len(differences))
    for start in range(0, _DRAWS, rows):
        shape = (min(rows, _DRAWS - start), len(differences))
        signs = generator.integers(0, 2, shape, np.int8).astype(np.float32) * 2 - 1
        far += int((np.abs(signs @ differences) >= distance).sum())
    return far


def _ratio_error(sums: Floats, counts: Floats, ratio: float) -> float | None:
    """Standard error of ``sums.sum() / counts.sum()``, over groups; linearised, for lengths differ."""
    n = len(sums)
    if n < 2:
        return None
    deviations = sums - ratio * counts
    return float(np.sqrt(n / (n - 1) * (deviations**2).sum()) / counts.sum())
