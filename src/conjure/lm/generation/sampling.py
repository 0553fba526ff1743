"""Choosing the next token from a model's logits, for many rows at once.

Main entry: `sample_tokens`. The steps come in transformers' order: repetition
penalty, no-repeat n-grams, temperature, top-k, top-p, min-p. Invariant: what a row gets depends on its own
logits, its own history and its own `random_stream`, never on the rows beside it.

Randomness is the Gumbel-max rule: the token with the largest ``score + noise`` wins, where the noise is a
fixed function of (seed, sample index, step, token id). So there is no generator state to carry along or to
spoil, and a batch that computes its logits in another order (their last bits then differ) still chooses the
same tokens: logits off by at most e change a choice with probability at most about 2e, 2e-5 for float32.
"""

import hashlib
import math

import torch
from torch import Tensor

from conjure.lm.generation.request import SamplingSettings

# Odd constants of the splitmix64 generator (Steele, Lea, Flood 2014), as the signed numbers torch has.
_GOLDEN, _MIX_1, _MIX_2 = (
    constant - 2**64 for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def random_stream(seed: int, index: int) -> int:
    """The stream of randomness that belongs to one sample of a request, an int64."""
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


@torch.inference_mode()
def sample_tokens(
    logits: Tensor, history: Tensor, streams: Tensor, steps: Tensor, settings: SamplingSettings
) -> Tensor:
    """Choose each row's next token.

    Args:
        logits: Of the next token, float32, (R, V).
        history: The row's tokens so far, prompt included, int64, (R, T); -1 pads the left of shorter rows.
        streams: Each row's `random_stream`, int64, (R,).
        steps: Tokens each row has chosen so far, int64, (R,).
        settings: The same for all rows.

    Returns:
        Token ids, int64, (R,).
    """
    logits = without_repetition(logits, history, settings)
    if settings.temperature == 0:
        return logits.argmax(1)  # the first of equal ones
    ids, scores = candidates(logits, settings)
    winners = (scores + gumbel_noise(streams, steps, ids)).argmax(1, keepdim=True)
    return ids.gather(1, winners).squeeze(1)


def without_repetition(logits: Tensor, history: Tensor, settings: SamplingSettings) -> Tensor:
    """Logits (R, V) after the settings that look at what a row says already."""
    if settings.repetition_penalty != 1.0:
        logits = penalise_repetition(logits, history, settings.repetition_penalty)
    if settings.no_repeat_ngram:
        logits = ban_repeated_ngrams(logits, history, settings.no_repeat_ngram)
    return logits


def candidates(logits: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
    """The tokens that may be chosen, for a temperature above 0.

    Returns:
        Ids, int64, ascending, and scores, float64, both (R, K): log-probabilities but for a constant in each
        row; -inf may not be chosen.
    """
    ids = largest(logits, settings.top_k if settings.top_k > 0 else logits.shape[1])  # (R, K)
    scores = logits.gather(1, ids).double()
    # Relative to the best first, so that no temperature, however small, overflows.
    scores = (scores - scores.amax(1, keepdim=True)) / settings.temperature
    if settings.top_p < 1.0:
        scores = keep_nucleus(scores, settings.top_p)
    if settings.min_p > 0.0:
        scores = scores.masked_fill(scores < math.log(settings.min_p), -math.inf)
    return ids, scores


def penalise_repetition(logits: Tensor, history: Tensor, penalty: float) -> Tensor:
    """Logits (R, V) in which tokens of `history` (R, T) are less likely for a `penalty` above 1.

    Dividing a negative logit would raise it, which is how the 2019 script rewarded repetition.
    """
    R, V = logits.shape
    seen = logits.new_zeros((R, V + 1), dtype=torch.bool)  # a last column takes the padding
    seen.scatter_(1, history.where(history >= 0, V), True)
    penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen[:, :V], penalised, logits)


def ban_repeated_ngrams(logits: Tensor, history: Tensor, size: int) -> Tensor:
    """Logits (R, V) in which no token remains that would end an n-gram of `history` (R, T) again.

    A row in which that bans every token is left as it is: something has to follow.
    """
    R, V = logits.shape
    if history.shape[1] < size:
        return logits
    grams = history.unfold(1, size, 1)  # (R, T - size + 1, size)
    recent = history[:, history.shape[1] - size + 1 :]  # (R, size - 1): what a next token would follow
    repeated = (grams[:, :, :-1] == recent[:, None]).all(2) & (grams[:, :, 0] >= 0)
    banned = logits.new_zeros((R, V + 1), dtype=torch.bool)
    banned.scatter_(1, grams[:, :, -1].where(repeated, V), True)
    banned = banned[:, :V] & ~banned[:, :V].all(1, keepdim=True)
    return logits.masked_fill(banned, -math.inf)


def largest(logits: Tensor, count: int) -> Tensor:
    """Ids of exactly `count` largest logits in each row, ascending, (R, count); of equal ones the lowest ids.

    All ids where there are no more than `count`.
    """
    R, V = logits.shape
    if count >= V:
        return torch.arange(V, device=logits.device).expand(R, V)
    values, ids = logits.topk(count + 1, dim=1)
    last = values[:, count - 1 : count]  # (R, 1)
    if (last > values[:, count:]).all():
        return ids[:, :count].sort(1).values
    # There are more like the last than there is room for, and topk takes any of them.
    above, tied = logits > last, logits == last
    room = count - above.sum(1, keepdim=True)
    kept = above | (tied & (tied.cumsum(1) <= room))
    return kept.nonzero()[:, 1].view(R, count)


def keep_nucleus(scores: Tensor, top_p: float) -> Tensor:
    """Scores (R, K), with -inf outside the smallest set of likeliest tokens that reaches `top_p` in all.

    The token that crosses `top_p` is still in, so at least one always is; equal ones go by position.
    """
    ordered, order = scores.sort(dim=1, descending=True, stable=True)
    probabilities = ordered.softmax(1)
    before = probabilities.cumsum(1) - probabilities  # mass of the likelier ones
    outside = torch.zeros_like(scores, dtype=torch.bool).scatter(1, order, before >= top_p)
    return scores.masked_fill(outside, -math.inf)


def gumbel_noise(streams: Tensor, steps: Tensor, ids: Tensor) -> Tensor:
    """Standard Gumbel noise that is a fixed function of its arguments.

    Args:
        streams: int64, (R,).
        steps: int64, (R,).
        ids: Token ids, int64, (R, K).

    Returns:
        float64, (R, K), each between -3.6 and 36.8.
    """
    rows = _mix(streams + steps * _GOLDEN)
    bits = _mix(rows[:, None] + ids * _GOLDEN) >> 12 & (2**52 - 1)
    uniform = (bits.double() + 0.5) * 2.0**-52  # strictly between 0 and 1
    return -torch.log(-torch.log(uniform))


def _mix(z: Tensor) -> Tensor:
    """The finaliser of splitmix64: every input bit reaches every output bit. Wraps like unsigned numbers."""
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own keeps the sign."""
    return z >> bits & (2 ** (64 - bits) - 1)
