"""A stream of tokens as (B, T) blocks for training and measuring.

Main entry: `Blocks`. Consecutive blocks overlap by one token, so that the last of one is the first one's
context in the next. Invariant: in an epoch every token of the stream but the first is a target exactly once,
unless it counts nothing or only opens a record (tests/property/test_packing.py).
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from conjure.core.text import plural
from conjure.errors import DataError
from conjure.lm.nn.loss import IGNORE
from conjure.lm.text.split import TokenStream

PADDING_SEGMENT = -1


class Batch(NamedTuple):
    """Blocks for one forward pass.

    Attributes:
        ids: Tokens to read, int64, (B, T).
        targets: The token that comes next at each place, int64, (B, T); `IGNORE` past the stream's end.
        segments: Number of the record each token helps to predict, int64, (B, T). The end-of-text token
            before a record belongs to that record, for it is what a new text is generated from.
            `PADDING_SEGMENT` past the stream's end.
        weights: What each target counts in training, float32, (B, T); None where all count 1.
    """

    ids: Tensor
    targets: Tensor
    segments: Tensor
    weights: Tensor | None = None

    @property
    def target_count(self) -> int:
        """Targets that count."""
        return int((self.targets != IGNORE).sum())

    @property
    def token_count(self) -> int:
        """Tokens to read, the stream's end not exceeded."""
        return int((self.segments != PADDING_SEGMENT).sum())

    @property
    def total_weight(self) -> float:
        """What the targets count together."""
        if self.weights is None:
            return float(self.target_count)
        return self.weights[self.targets != IGNORE].double().sum().item()


class Blocks:
    """The blocks of a stream: a sequence of fixed cuts, taken in a new order every epoch.

    Attributes:
        block_size: Tokens in a block, T; smaller than asked for where the stream is.
        target_count: Places in all the blocks: one fewer than the stream has tokens.
    """

    def __init__(self, stream: TokenStream, block_size: int) -> None:
        if len(stream) < 2:
            raise DataError(
                f"a stream of {plural(len(stream), 'token')} has nothing to predict; at least 2 are needed"
            )
        self._stream = stream
        self.target_count = len(stream) - 1
        self.block_size = min(block_size, self.target_count)
        # An end-of-text token, as input, opens the next record: it is that record's first context, unless
        # records have a token of their own to start with.
        self._segment_ends = stream.ends - int(stream.end_of_text and stream.start_id is None)

    def __len__(self) -> int:
        """Number of blocks; the last may be partly empty."""
        return -(-self.target_count // self.block_size)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The blocks with these numbers, as rows."""
        T = self.block_size
        ids = np.zeros((len(numbers), T), np.int64)
        targets = np.full((len(numbers), T), IGNORE, np.int64)
        segments = np.full((len(numbers), T), PADDING_SEGMENT, np.int64)
        weights = np.zeros((len(numbers), T), np.float32) if self._stream.is_weighted else None
        for row, number in enumerate(numbers):
            start = number * T
            stop = min(start + T, self.target_count)
            tokens = self._stream.read(start, stop + 1)
            filled = slice(0, stop - start)
            ids[row, filled] = tokens[:-1]
            counts = self._stream.weights_of(start + 1, stop + 1)
            is_no_target = self._opens_record(start + 1, stop + 1) | (counts == 0)
            targets[row, filled] = np.where(is_no_target, IGNORE, tokens[1:])
            segments[row, filled] = np.searchsorted(self._segment_ends, np.arange(start, stop), side="right")
            if weights is not None:
                weights[row, filled] = counts
        return Batch(
            torch.from_numpy(ids),
            torch.from_numpy(targets),
            torch.from_numpy(segments),
            torch.from_numpy(weights) if weights is not None else None,
        )

    def _opens_record(self, start: int, stop: int) -> npt.NDArray[np.bool_]:
        """Which tokens `start` to `stop` of the stream are only there to start a record, (stop - start,).

        Told by their place: elsewhere the same token may end a record, as GPT-2's does.
        """
        if self._stream.start_id is None:
            return np.zeros(stop - start, np.bool_)
        records = np.searchsorted(self._stream.ends, np.arange(start - 1, stop), side="right")
        return np.diff(records) > 0

    def counting(self, most: int) -> list[int]:
        """The first so many blocks that have a target; of a long question, a block may have none."""
        numbers = (number for number in range(len(self)) if self._counts(number))
        return list(islice(numbers, most))

    def _counts(self, number: int) -> bool:
        start = number * self.block_size
        return bool(
            self._stream.weights_of(start + 1, min(start + self.block_size, self.target_count) + 1).any()
        )

    def order(self, epoch: int, seed: int) -> list[int]:
        """The order of the blocks in one epoch: a shuffle that (seed, epoch) alone decides."""
        return np.random.default_rng([seed, epoch]).permutation(len(self)).tolist()

    def epoch(self, epoch: int, *, batch_size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch.

        Args:
            epoch: Its number, from 0.
            batch_size: Blocks in a batch, B; the last batch has what is left.
            seed: Decides the order, together with `epoch`.
            start: Blocks of this epoch already taken, to go on exactly where an earlier iterator was.

        Yields:
            Batches; each takes ``len(batch.ids)`` blocks.
        """
        order = self.order(epoch, seed)
        for first in range(start, len(order), batch_size):
            yield self.batch(order[first : first + batch_size])
