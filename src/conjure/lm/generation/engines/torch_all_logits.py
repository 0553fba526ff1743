"""Logits after every token of a text, by a model in torch.

Main entry: `TorchPositions`. Invariant: it computes in the model's own number format, which is float32 where
figures are to be exact.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from conjure.lm.generation.engines.all_logits import PIECE, ReadPiece, long_texts, short_texts
from conjure.lm.generation.engines.torch_engine import eval_mode
from conjure.lm.models.base import CausalLM


class TorchPositions:
    """What follows every token; see `PositionReader`."""

    def __init__(self, model: CausalLM) -> None:
        self._model = model

    @property
    def context_length(self) -> int:
        """Most tokens of a text."""
        return self._model.context_length

    def read(self, texts: Sequence[Sequence[int]]) -> Iterator[list[ReadPiece]]:
        """Read texts; see `PositionReader.read`."""
        for group in short_texts(texts):
            yield self._read_together(texts, group)
        for number in long_texts(texts):
            yield from self._read_alone(number, texts[number])

    def _read_together(self, texts: Sequence[Sequence[int]], numbers: list[int]) -> list[ReadPiece]:
        rows = [texts[number] for number in numbers]
        ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.int64)  # (B, T); filled at the right
        for row, text in zip(ids, rows, strict=True):
            row[: len(text)] = torch.tensor(text)
        with eval_mode(self._model):
            hidden = self._model(ids.to(self._model.device))  # (B, T, C)
            return [
                ReadPiece(number, 0, self._logits(row[: len(texts[number])]))
                for number, row in zip(numbers, hidden, strict=True)
            ]

    def _read_alone(self, number: int, text: Sequence[int]) -> Iterator[list[ReadPiece]]:
        ids = torch.tensor([text], dtype=torch.int64).to(self._model.device)
        cache = self._model.new_cache(1, len(text))
        for start in range(0, len(text), PIECE):
            with eval_mode(self._model):
                hidden = self._model(ids[:, start : start + PIECE], cache=cache)
                piece = ReadPiece(number, start, self._logits(hidden[0]))
            yield [piece]

    def _logits(self, hidden: Tensor) -> np.ndarray:
        return self._model.head(hidden).float().cpu().numpy()
