"""What choosing a token needs of logits, by the compiled library where there is one, else by numpy.

Main entries: `logit_summary`, `largest`. Invariant: what is said of a row depends on that row alone, and both
ways say the same but for the last bits of a sum.
"""

import ctypes

import numpy as np

from conjure.lm.hardware import usable_cores
from conjure.lm.native.library import INSTRUCTIONS, Selection, Summary, status

_MOST_SELECTED = 0.25  # of the vocabulary: beyond this share numpy's partition is faster


def logit_summary(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Say of logits, float32, (R, V), what every choice of a token needs.

    Returns:
        The logarithm of each row's sum of e^logit, float32, (R,), which is finite where all logits are
        numbers; and the id of its largest logit, the first of equal ones, int64, (R,).
    """
    if status().library is None:
        return _logsumexp(logits), logits.argmax(1)
    logits = _readable(logits)
    rows, vocab = logits.shape
    logsumexp, argmax = np.empty(rows, np.float32), np.empty(rows, np.int64)
    summary = Summary(
        logits=logits.ctypes.data,
        rows=rows,
        vocab=vocab,
        logsumexp=logsumexp.ctypes.data,
        argmax=argmax.ctypes.data,
        **_means(),
    )
    _run("conjure_summarise", summary)
    return logsumexp, argmax


def largest(logits: np.ndarray, count: int) -> np.ndarray:
    """Ids of exactly `count` largest logits in each row, ascending, (R, count); of equal ones the lowest ids.

    All ids where there are no more than `count`. Of a row that has one which is no number, any ids.
    """
    rows, vocab = logits.shape
    if count >= vocab:
        return np.broadcast_to(np.arange(vocab), (rows, vocab))
    if status().library is None or count > _MOST_SELECTED * vocab:
        return np.stack([_largest(row, count) for row in logits])
    logits = _readable(logits)
    ids = np.empty((rows, count), np.int64)
    selection = Selection(
        logits=logits.ctypes.data, rows=rows, vocab=vocab, count=count, ids=ids.ctypes.data, **_means()
    )
    _run("conjure_largest", selection)
    return ids


def _readable(logits: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(logits, dtype=np.float32)


def _means() -> dict[str, int]:
    return {"threads": usable_cores(), "instructions": INSTRUCTIONS.index(status().instructions)}


def _run(name: str, call: ctypes.Structure) -> None:
    if getattr(status().library, name)(ctypes.byref(call)) != 0:
        raise MemoryError("no memory to look through logits")


def _logsumexp(logits: np.ndarray) -> np.ndarray:
    largest = logits.max(1, keepdims=True)
    base = np.where(np.isneginf(largest), np.float32(0), largest)
    with np.errstate(invalid="ignore", divide="ignore"):  # where a logit is no number, nor is this
        sums = np.exp(logits - base).sum(1, dtype=np.float64)
        return (base[:, 0] + np.log(sums)).astype(np.float32)


def _largest(row: np.ndarray, count: int) -> np.ndarray:
    last = np.partition(row, len(row) - count)[len(row) - count]
    above = np.flatnonzero(row > last)
    tied = np.flatnonzero(row == last)[: count - len(above)]
    if len(above) + len(tied) < count:  # NaN is not above, nor equal to, anything
        return np.arange(count)
    return np.sort(np.concatenate([above, tied]))
