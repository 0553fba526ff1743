"""Decoding on a GPU: a step is recorded once as a CUDA graph and replayed for every token.

Main entry: `torch_engine`. A step is some hundred small kernels, each of which takes longer to start
than to run; a graph starts all of them at once. Its shapes and addresses are fixed, so a step attends to the
whole cache and a mask says which columns are filled. Invariant: logits are those of `TorchEngine` up to the
order of sums. The fixed step is tested on the CPU; recording it has not been tried on a GPU yet.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from conjure.lm.generation.engines.torch_engine import TorchEngine, evaluating
from conjure.lm.models.base import CausalLM
from conjure.lm.models.decoder import Decoder, KVCache, attention_mask

_WARM_UPS = 2  # steps before recording: libraries choose their kernels and take their memory in the first


def torch_engine(model: CausalLM) -> TorchEngine:
    """The engine for a model where it is: a `GraphEngine` for a decoder on a GPU, else a `TorchEngine`."""
    if isinstance(model, Decoder) and model.device.type == "cuda":
        return GraphEngine(model)
    return TorchEngine(model)


class FixedKVCache(KVCache):
    """Another cache's tensors; the column to fill next is in a tensor too, so that every step is the same."""

    def __init__(self, cache: KVCache) -> None:
        self.keys, self.values, self.length = cache.keys, cache.values, cache.length
        self.column = torch.tensor([cache.length], device=cache.keys[0].device)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's keys and values of one token; return all columns, filled or not."""
        self.keys[layer].index_copy_(2, self.column, keys)
        self.values[layer].index_copy_(2, self.column, values)
        return self.keys[layer], self.values[layer]

    def advance(self, tokens: int) -> None:
        """Count `tokens` more tokens as filled."""
        super().advance(tokens)
        self.column.fill_(self.length)


class GraphEngine(TorchEngine):
    """A `TorchEngine` whose steps are replayed; without a GPU they are computed likewise, one by one."""

    def __init__(self, model: Decoder) -> None:
        super().__init__(model)
        self._decoder = model
        self._fixed: _FixedStep | None = None

    def prefill(self, ids: Tensor, pad: Tensor, capacity: int) -> Tensor:
        """Read new rows; see `Engine.prefill`."""
        self._fixed = None
        return super().prefill(ids, pad, capacity)

    def select(self, rows: Tensor) -> None:
        """Go on with these rows; see `Engine.select`."""
        self._fixed = None
        super().select(rows)

    def step(self, ids: Tensor) -> Tensor:
        """Read one more token per row; see `Engine.step`."""
        assert isinstance(self._cache, KVCache), "nothing was read yet"
        if self._fixed is None:
            cache = FixedKVCache(self._cache)
            self._cache = cache
            self._fixed = _FixedStep(self._decoder, cache, self._pad, self._head, ids.to(self._device))
        return self._fixed(ids)


class _FixedStep:
    """One step with inputs and outputs that stay where they are."""

    def __init__(
        self,
        model: Decoder,
        cache: FixedKVCache,
        pad: Tensor | None,
        head: Callable[[Tensor], Tensor],
        ids: Tensor,
    ) -> None:
        self._model, self._cache, self._head = model, cache, head
        self._ids = ids.clone()
        self._pad = pad if pad is not None else torch.zeros_like(ids)  # (R,)
        self._windows = {layer.window for layer in model.config.layers}
        self._columns = torch.arange(cache.capacity, device=ids.device)
        self._replay = self._recorded() if ids.device.type == "cuda" else self._compute

    def __call__(self, ids: Tensor) -> Tensor:
        self._ids.copy_(ids)
        logits = self._replay()
        self._cache.advance(1)
        return logits

    def _compute(self) -> Tensor:
        with evaluating(self._model):
            column = self._cache.column
            masks = {
                window: attention_mask(column, self._columns, pad=self._pad, window=window)
                for window in self._windows
            }
            positions = (column - self._pad)[:, None]  # (R, 1)
            hidden = self._model.read(self._ids[:, None], positions, masks, self._cache)
            return self._head(hidden[:, -1])

    def _recorded(self) -> Callable[[], Tensor]:
        # What is computed to warm up is what the first step computes again, so the cache is none the worse.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._compute()

        def replay() -> Tensor:
            graph.replay()
            return logits

        return replay
