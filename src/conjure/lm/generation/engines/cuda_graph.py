"""Decoding on a GPU: a step is recorded once as a CUDA graph and replayed for every token.

Main entry: `torch_engine`. A step is some hundred small kernels, each of which takes longer to start
than to run; a graph starts all of them at once. Its shapes and addresses are fixed, so a step attends to the
whole cache and a mask says which columns are filled. Invariant: logits are those of `TorchEngine` up to the
order of sums. The fixed step is tested on the CPU; recording it has not been tried on a GPU yet.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from conjure.lm.generation.engines.torch_engine import Cohort, TorchEngine, eval_mode
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

    def read(self, ids: Tensor, cohort: Cohort) -> Tensor:
        """Read new tokens; see `TorchEngine.read`."""
        if ids.shape[1] > 1 or cohort.cache.length == 0:
            return super().read(ids, cohort)
        ids = ids[:, 0].to(self._decoder.device)
        if cohort.replay is None:
            assert isinstance(cohort.cache, KVCache), "a decoder's"
            cache = FixedKVCache(cohort.cache)
            cohort.cache = cache
            cohort.replay = _FixedStep(self._decoder, cache, cohort.pad, self.head, ids)
        return cohort.replay(ids)


class _FixedStep:
    """One step with inputs and outputs that stay where they are."""

    def __init__(
        self,
        model: Decoder,
        cache: FixedKVCache,
        pad: Tensor,
        head: Callable[[Tensor], Tensor],
        ids: Tensor,
    ) -> None:
        self._model, self._cache, self._head = model, cache, head
        self._ids = ids.clone()
        self._pad = pad  # (R,)
        self._windows = {layer.window for layer in model.config.layers}
        self._columns = torch.arange(cache.capacity, device=ids.device)
        self._replay = self._recorded() if ids.device.type == "cuda" else self._compute

    def __call__(self, ids: Tensor) -> Tensor:
        self._ids.copy_(ids)
        logits = self._replay()
        self._cache.advance(1)
        return logits

    def _compute(self) -> Tensor:
        with eval_mode(self._model):
            column = self._cache.column
            masks = {
                window: attention_mask(column, self._columns, pad=self._pad, window=window)
                for window in self._windows
            }
            positions = (column - self._pad).clamp(min=0)[:, None]  # (R, 1)
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
