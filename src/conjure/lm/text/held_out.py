"""Which part of a text a model is not trained on, so that what it learned can be measured.

Main entry: `hold_out`. A record's own hash decides, so a record stays on its side when others are added, and
two equal records are never on both sides. Invariant: every token is a training token or a held-out token,
never both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from conjure.errors import DataError, UsageError
from conjure.lm.text.token_cache import TokenisedText

MINIMUM_RECORDS = 8  # fewer held-out records than this measure nothing
_TAIL = 0.1  # share of the tokens held out instead


@dataclass(frozen=True, slots=True)
class TokenStream:
    """Some records' tokens as one sequence, read from the memory-mapped file when asked for.

    Attributes:
        ids: All ids of the text, (N,).
        starts: Where each record of this stream starts in `ids`, int64, (R,).
        ends: Where each record of this stream ends in the stream, int64, (R,).
        end_of_text: Whether every record is followed by the end-of-text token.
    """

    ids: npt.NDArray[Any]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    end_of_text: bool

    def __len__(self) -> int:
        """Number of tokens."""
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def records(self) -> int:
        """Number of records, wholly or partly in the stream."""
        return len(self.ends)

    def read(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """The ids of tokens `start` to `stop` of the stream, int64, (stop - start,)."""
        positions = np.arange(start, stop)
        records = np.searchsorted(self.ends, positions, side="right")
        before = np.where(records > 0, self.ends[records - 1], 0)
        return self.ids[self.starts[records] + positions - before].astype(np.int64)


@dataclass(frozen=True, slots=True)
class Split:
    """A text in two parts.

    Attributes:
        train: What a model is trained on.
        heldout: What it is measured on; None if nothing is held out. Where the tail is held out, its first
            token is also the last one trained on: it is context there, never a target of both.
        method: `records`, `tail` or `none`.
        reason: Why it is not records, as a sentence for the plan; None where it is.
    """

    train: TokenStream
    heldout: TokenStream | None
    method: str
    reason: str | None = None


def hold_out(text: TokenisedText, fraction: float = 0.1) -> Split:
    """Split a text into a part to train on and a part to measure on.

    Args:
        text: The text.
        fraction: Share of the records to hold out, 0 (none) up to but not including 1. Where that gives
            fewer than `MINIMUM_RECORDS`, or leaves fewer than 2 tokens to train on, the last tenth of the
            tokens is held out instead.

    Raises:
        UsageError: `fraction` is outside 0…1.
        DataError: The text is a single token: there is nothing to predict.
    """
    if not 0 <= fraction < 1:
        raise UsageError(
            f"holdout is {fraction}; it is a share of the records: 0 (none) to below 1, such as 0.1"
        )
    total = len(text.ids)
    if total < 2:
        raise DataError(f"the text is {total} token long; nothing can be learned from fewer than 2")
    if fraction == 0:
        return Split(_span(text, 0, total), None, "none", "nothing is held out, as asked")
    chosen = text.hashes < np.uint64(int(fraction * 2**64))
    count = int(chosen.sum())
    rest = _records(text, ~chosen)
    if count >= MINIMUM_RECORDS and len(rest) >= 2:
        return Split(rest, _records(text, chosen), "records")
    if total < 3:
        return Split(_span(text, 0, total), None, "none", f"{total} tokens are too few to hold any out")
    cut = total - max(1, round(_TAIL * total))
    few = f"by records it would be {count} of {len(chosen):,}, and {MINIMUM_RECORDS} are needed"
    reason = few if count < MINIMUM_RECORDS else "too little would be left to train on"
    return Split(
        _span(text, 0, cut),
        _span(text, cut - 1, total),
        "tail",
        f"the last {_TAIL:.0%} of the tokens are held out: {reason}",
    )


def _records(text: TokenisedText, chosen: Sequence[bool] | npt.NDArray[np.bool_]) -> TokenStream:
    ends = text.ends.astype(np.int64)
    starts = np.concatenate(([0], ends[:-1]))
    sizes = (ends - starts)[chosen]
    return TokenStream(text.ids, starts[chosen], np.cumsum(sizes), text.end_of_text)


def _span(text: TokenisedText, start: int, stop: int) -> TokenStream:
    """All tokens from `start` to `stop`; the records at its edges may be cut."""
    ends = text.ends.astype(np.int64)
    first = int(np.searchsorted(ends, start, side="right"))
    last = int(np.searchsorted(ends, stop, side="left"))
    inner = ends[first:last]
    return TokenStream(
        text.ids,
        np.concatenate(([start], inner)),
        np.concatenate((inner, [stop])) - start,
        text.end_of_text,
    )
