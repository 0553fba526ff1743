"""Logits after every token of a text, which scoring needs; a session gives those after the last one only.

Main entries: `PositionReader`, and `NativePositions` for the native engine (`torch_positions` has torch's).
Invariant: a text's logits depend on the texts that were given with it alone, and come in pieces of at most
`PIECE` tokens, so that a server can do other work between two of them. Nothing here needs torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from conjure.lm.generation.engines.base import RowQueue
from conjure.lm.generation.engines.native import NativeEngine, NativeRow

PIECE = 128  # tokens read at once


@dataclass(frozen=True, slots=True)
class ReadPiece:
    """Some tokens of a text that were read.

    Attributes:
        text: Its number among those given.
        start: The place of the first of these tokens in it.
        logits: What follows each of them, float32, (T, V).
    """

    text: int
    start: int
    logits: np.ndarray


class PositionReader(Protocol):
    """A model in float32 that tells what follows every token."""

    @property
    def context_length(self) -> int:
        """Most tokens of a text."""
        ...

    def read(self, texts: Sequence[Sequence[int]]) -> Iterator[list[ReadPiece]]:
        """Read texts, at most `PIECE` tokens for each item.

        Args:
            texts: Their tokens: at least one, at most the context.
        """
        ...


class NativePositions:
    """What follows every token, by the native engine.

    Args:
        engine: With exact weights.
    """

    def __init__(self, engine: NativeEngine) -> None:
        assert engine.format != "int8"
        self._engine = engine

    @property
    def context_length(self) -> int:
        """Most tokens of a text."""
        return self._engine.context_length

    def read(self, texts: Sequence[Sequence[int]]) -> Iterator[list[ReadPiece]]:
        """Read texts; see `PositionReader.read`."""
        for group in short_texts(texts):
            yield self._read([(number, self._row(texts[number])) for number in group])
        for number in long_texts(texts):
            row = self._row(texts[number])
            while row.queue.unread:
                yield self._read([(number, row)])

    def _row(self, ids: Sequence[int]) -> NativeRow:
        config = self._engine.config
        queue = RowQueue(ids, len(ids), config.context_length, config.vocab_size)
        return NativeRow(queue, config, self._engine.remembered)

    def _read(self, rows: list[tuple[int, NativeRow]]) -> list[ReadPiece]:
        starts = [row.queue.length for _, row in rows]
        pieces = [row.queue.take(PIECE) for _, row in rows]
        tokens = sum(map(len, pieces))
        logits = np.empty((tokens, self._engine.config.vocab_size), np.float32)
        self._engine.forward([row for _, row in rows], pieces, range(tokens), logits)
        ends = np.cumsum([len(piece) for piece in pieces])
        parts = np.split(logits, ends[:-1])
        return [
            ReadPiece(number, start, part)
            for (number, _), start, part in zip(rows, starts, parts, strict=True)
        ]


def short_texts(texts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Numbers of texts that are read together: alike in length, at most `PIECE` columns in all."""
    order = sorted((len(ids), number) for number, ids in enumerate(texts) if len(ids) <= PIECE)
    group: list[int] = []
    for length, number in order:
        if group and (len(group) + 1) * length > PIECE:
            yield group
            group = []
        group.append(number)
    if group:
        yield group


def long_texts(texts: Sequence[Sequence[int]]) -> list[int]:
    """Numbers of texts that are read alone, piece by piece."""
    return [number for number, ids in enumerate(texts) if len(ids) > PIECE]
