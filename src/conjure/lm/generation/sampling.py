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
from collections.abc import Sequence

import numpy as np

from conjure.errors import ModelError
from conjure.lm.generation.request import SamplingSettings
from conjure.lm.native.logits import largest

# Odd constants of the splitmix64 generator (Steele, Lea, Flood 2014).
_GOLDEN, _MIX_1, _MIX_2 = map(np.uint64, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def random_stream(seed: int, index: int) -> int:
    """The stream of randomness that belongs to one sample of a request, an int64."""
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def no_numbers() -> ModelError:
    """The error for logits of which there is nothing to choose."""
    return ModelError(
        "the model's logits are not numbers (NaN or infinity): its weights are too large for this number"
        " format, or damaged"
    )


def sample_tokens(
    logits: np.ndarray,
    histories: Sequence[Sequence[int]],
    streams: Sequence[int],
    steps: Sequence[int],
    settings: SamplingSettings,
) -> np.ndarray:
    """Choose each row's next token.

    Args:
        logits: Of the next token, float32, (R, V).
        histories: Each row's tokens so far, prompt included.
        streams: Each row's `random_stream`.
        steps: Tokens each row has chosen so far.
        settings: The same for all rows.

    Returns:
        Token ids, int64, (R,).
    """
    logits = without_repetition(logits, histories, settings)
    if settings.temperature == 0:
        return logits.argmax(1)  # the first of equal ones
    ids, scores = candidates(logits, settings)
    winners = (scores + gumbel_noise(streams, steps, ids)).argmax(1)
    return np.take_along_axis(ids, winners[:, None], 1)[:, 0]


def without_repetition(
    logits: np.ndarray, histories: Sequence[Sequence[int]], settings: SamplingSettings
) -> np.ndarray:
    """Logits (R, V) after the settings that look at what a row says already."""
    if settings.repetition_penalty != 1.0:
        logits = penalise_repetition(logits, histories, settings.repetition_penalty)
    if settings.no_repeat_ngram:
        logits = ban_repeated_ngrams(logits, histories, settings.no_repeat_ngram)
    return logits


def candidates(logits: np.ndarray, settings: SamplingSettings) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that may be chosen, for a temperature above 0.

    Returns:
        Ids, int64, ascending, and scores, float64, both (R, K): log-probabilities but for a constant in each
        row; -inf may not be chosen.
    """
    ids = largest(logits, settings.top_k if settings.top_k > 0 else logits.shape[1])  # (R, K)
    scores = np.take_along_axis(logits, ids, 1).astype(np.float64)
    # Relative to the best first, so that no temperature, however small, overflows.
    with np.errstate(over="ignore"):  # towards -inf, which is meant
        scores = (scores - scores.max(1, keepdims=True)) / settings.temperature
    if settings.top_p < 1.0:
        scores = keep_nucleus(scores, settings.top_p)
    if settings.min_p > 0.0:
        scores = np.where(scores < math.log(settings.min_p), -math.inf, scores)
    return ids, scores


def penalise_repetition(logits: np.ndarray, histories: Sequence[Sequence[int]], penalty: float) -> np.ndarray:
    """Logits (R, V) in which tokens of a row's history are less likely for a `penalty` above 1.

    Dividing a negative logit would raise it, which is how the 2019 script rewarded repetition.
    """
    penalised = logits.copy()
    for row, history in zip(penalised, histories, strict=True):
        seen = np.unique(np.asarray(history, dtype=np.int64))
        values = row[seen]
        row[seen] = np.where(values > 0, values / np.float32(penalty), values * np.float32(penalty))
    return penalised


def ban_repeated_ngrams(logits: np.ndarray, histories: Sequence[Sequence[int]], size: int) -> np.ndarray:
    """Logits (R, V) in which no token remains that would end an n-gram of a row's history again.

    A row in which that bans every token is left as it is: something has to follow.
    """
    allowed = logits.copy()
    for row, history in zip(allowed, histories, strict=True):
        banned = _repeated(np.asarray(history, dtype=np.int64), size)
        if len(banned) < len(row):
            row[banned] = -math.inf
    return allowed


def _repeated(history: np.ndarray, size: int) -> np.ndarray:
    """Tokens that would end an n-gram of `history`, (T,), again; each once."""
    if len(history) < size:
        return history[:0]
    grams = np.lib.stride_tricks.sliding_window_view(history, size)  # (T - size + 1, size)
    recent = history[len(history) - size + 1 :]  # (size - 1,): what a next token would follow
    return np.unique(grams[(grams[:, :-1] == recent).all(1), -1])


def keep_nucleus(scores: np.ndarray, top_p: float) -> np.ndarray:
    """Scores (R, K), with -inf outside the smallest set of likeliest tokens that reaches `top_p` in all.

    The token that crosses `top_p` is still in, so at least one always is; equal ones go by position.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    exponentials = np.exp(np.take_along_axis(scores, order, 1) - scores.max(1, keepdims=True))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    before = probabilities.cumsum(1) - probabilities  # mass of the likelier ones
    outside = np.empty(scores.shape, dtype=bool)
    np.put_along_axis(outside, order, before >= top_p, 1)
    return np.where(outside, -math.inf, scores)


def gumbel_noise(streams: Sequence[int], steps: Sequence[int], ids: np.ndarray) -> np.ndarray:
    """Standard Gumbel noise that is a fixed function of its arguments.

    Args:
        streams: Each row's, int64.
        steps: Each row's.
        ids: Token ids, int64, (R, K).

    Returns:
        float64, (R, K), each between -3.6 and 36.8.
    """
    rows = np.asarray(streams, dtype=np.int64).view(np.uint64)
    rows = _mix(rows + np.asarray(steps, dtype=np.uint64) * _GOLDEN)  # wraps, like all of these
    bits = _mix(rows[:, None] + ids.astype(np.uint64) * _GOLDEN) >> np.uint64(12)
    uniform = (bits.astype(np.float64) + 0.5) * 2.0**-52  # strictly between 0 and 1
    return -np.log(-np.log(uniform))


def _mix(z: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every input bit reaches every output bit."""
    z = (z ^ z >> np.uint64(30)) * _MIX_1
    z = (z ^ z >> np.uint64(27)) * _MIX_2
    return z ^ z >> np.uint64(31)
