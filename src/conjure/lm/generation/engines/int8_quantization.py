"""int8 weights: what is rounded, how, and the same arithmetic in torch.

Main entry: `Int8Decoder`, the numbers that the native engine computes with as a torch model: the oracle of
that engine's tests, and what int8 runs on where it is not built. Invariant: both round alike, so their logits
differ only as sums in another order do.

A weight matrix has one scale for each output and `GROUP` inputs; activations are rounded afresh each time, to
int16 with one scale per row. Measured on `sprite` half trained: with int8 activations the likeliest token
changed in 2.5 % of places, with one weight scale per output alone in 1.3 %, like this in 1.1 %; and where one
token at a time is read, which the memory's speed limits, finer activations cost nothing. The head of a model
with layer norm is rounded less its mean row, which is added back in float32: GPT-2's logits lie around -100,
and what differs between tokens is small beside that. With RMS norm some channels are large in all rows, and
exact as a group's largest number; less the mean they are rounded like others, which costs SmolLM2 a
divergence of 2.3e-3 nats instead of 1.4e-3. Token embeddings are kept in bfloat16, and so are keys and
values; everything else is float32.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from conjure.errors import ModelError
from conjure.lm.generation.engines.native_weights import GROUP
from conjure.lm.models.decoder import Decoder, KVCache, Linear

_LARGEST_WEIGHT, _LARGEST_ACTIVATION = 127.0, 32767.0
_SMALLEST_ROW = 1e-30  # activations no larger than this are all zeros


def round_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a matrix to int8.

    Args:
        weight: float32, (N, K).

    Returns:
        The rounded values, int8, (N, groups, GROUP), with zeros after the K-th; and their scales, float32 but
        exact in bfloat16, (N, groups, 1).

    Raises:
        ModelError: The matrix holds NaN or infinity.
    """
    groups = functional.pad(weight, (0, -weight.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    largest = groups.abs().amax(2, keepdim=True)
    if not largest.isfinite().all():
        raise ModelError(
            "the model's weights contain NaN or infinity, which cannot be quantized to int8",
            hint="use another copy of the model",
        )
    scales = _round_up(largest / _LARGEST_WEIGHT)
    inverse = torch.where(scales > 0, 1.0 / scales, 0.0)
    return (groups * inverse).round_().to(torch.int8), scales


def _round_up(scales: Tensor) -> Tensor:
    """Positive float32 numbers, made exact in bfloat16; upwards, so that no weight leaves the range."""
    bits = scales.contiguous().view(torch.int32) + 0xFFFF
    return (bits & ~0xFFFF).view(torch.float32)


def round_activations(x: Tensor) -> Tensor:
    """What is left of activations (…, K) after rounding each row to int16 and back."""
    largest = x.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest > _SMALLEST_ROW, _LARGEST_ACTIVATION / largest, 0.0)
    return (x * inverse).round_() * (largest / _LARGEST_ACTIVATION)


class Int8Decoder(Decoder):
    """A decoder in torch whose numbers are rounded as in int8, and computed with in float32."""

    def __init__(self, model: Decoder) -> None:
        with torch.device("meta"):
            super().__init__(model.config)
        state = {name: weight.detach().float() for name, weight in model.named_parameters()}
        head = model.head_weight.detach().float()  # (V, C)
        self._head_mean = head.mean(0) if model.config.norm == "layer" else head.new_zeros(head.shape[1])
        self._head = _rounded(head - self._head_mean)
        state["embedding.weight"] = state["embedding.weight"].to(torch.bfloat16).float()
        for name, module in self.named_modules():
            if isinstance(module, Linear) and name.startswith("blocks."):
                state[f"{name}.weight"] = _rounded(state[f"{name}.weight"])
                module.register_forward_pre_hook(_round_inputs)
        self.load_state_dict(state, assign=True)
        self.eval()

    def new_cache(self, rows: int, capacity: int) -> KVCache:
        """An empty cache that rounds what it is given; see `Decoder.new_cache`."""
        return _RoundingCache(self.config, rows, capacity, self.dtype, self.device)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (…, V) of hidden states (…, C)."""
        varying = functional.linear(round_activations(hidden), self._head)
        return varying + (hidden @ self._head_mean)[..., None]


class _RoundingCache(KVCache):
    """Keeps keys and values as a bfloat16 cache would."""

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return super().extend(layer, keys.bfloat16().float(), values.bfloat16().float())


def _round_inputs(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
    return (round_activations(inputs[0]),)


def _rounded(weight: Tensor) -> Tensor:
    """A matrix after rounding to int8 and back."""
    values, scales = round_weight(weight)
    return (values * scales).flatten(1)[:, : weight.shape[1]]
