"""The engine that computes with torch, on any device and for every architecture.

Main entry: `TorchEngine`. Invariant: an engine's logits are those of a plain forward pass over each row's own
tokens; rows never see each other or the padding.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional

from conjure.lm.models.base import Cache, CausalLM

_PREFILL_TOKENS = 8192  # read at a time over all rows: bounds activations to some 300 MB at 124M parameters


class TorchEngine:
    """A model in torch with its cache, in whatever number format its weights have.

    In bfloat16 the head works on centred weights and adds the mean back in float32: GPT-2's logits lie around
    -100, where neighbouring bfloat16 numbers are 0.5 apart, which would blur the choice of a token.
    """

    def __init__(self, model: CausalLM) -> None:
        self._model = model
        self._device = model.device
        self._dtype = model.dtype
        self._cache: Cache | None = None
        self._pad: Tensor | None = None
        self._centred = _centred_head(model) if self._dtype != torch.float32 else None

    @property
    def context_length(self) -> int:
        """Most tokens a row can hold."""
        return self._model.context_length

    @property
    def bytes_per_token(self) -> int:
        """Memory that one token of one row takes while it is remembered."""
        return self._model.cache_bytes_per_token

    @property
    def length(self) -> int:
        """Columns read so far."""
        return self._cache.length if self._cache is not None else 0

    def prefill(self, ids: Tensor, pad: Tensor, capacity: int) -> Tensor:
        """Read new rows; see `Engine.prefill`."""
        self._pad = pad.to(self._device) if bool(pad.any()) else None
        self._cache = self._model.new_cache(len(ids), capacity)
        *parts, last = ids.split(max(1, _PREFILL_TOKENS // len(ids)), dim=1)
        for part in parts:
            self._read(part)
        return self._read(last)

    def hand_over(self) -> Cache:
        """What it remembers, for another engine to go on with; this one forgets it."""
        assert self._cache is not None, "nothing was read yet"
        cache, self._cache = self._cache, None
        return cache

    def step(self, ids: Tensor) -> Tensor:
        """Read one more token per row; see `Engine.step`."""
        return self._read(ids[:, None])

    def select(self, rows: Tensor) -> None:
        """Go on with these rows; see `Engine.select`."""
        assert self._cache is not None, "nothing was read yet"
        rows = rows.to(self._device)
        self._cache.select(rows)
        self._pad = self._pad[rows] if self._pad is not None else None

    def summarise(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """What choosing needs; see `Engine.summarise`."""
        return logits.logsumexp(1, keepdim=True), logits.argmax(1)

    def _read(self, ids: Tensor) -> Tensor:
        with evaluating(self._model):
            return self._head(self._model(ids.to(self._device), cache=self._cache, pad=self._pad)[:, -1])

    def _head(self, hidden: Tensor) -> Tensor:
        """Logits, float32, (R, V), of hidden states, (R, C)."""
        if self._centred is None:
            return self._model.head(hidden)
        weight, mean = self._centred
        return functional.linear(hidden, weight).float() + (hidden.float() @ mean)[:, None]


@contextmanager
def evaluating(model: CausalLM) -> Iterator[None]:
    """Gradients and dropout off inside the block, and dropout as it was afterwards."""
    training = model.training
    if training:  # walking through all modules takes longer than it looks, so not without need
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        if training:
            model.train()


def _centred_head(model: CausalLM) -> tuple[Tensor, Tensor]:
    """The head's weight less its mean row, (V, C), and that row in float32, (C,)."""
    with torch.inference_mode():
        weight = model.head_weight.float()
        mean = weight.mean(0)
        return (weight - mean).to(model.head_weight.dtype), mean
