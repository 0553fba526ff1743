"""int8 weights: what is rounded, how, and the same arithmetic in torch.

Main entries: `QuantisedModel`, which the native engine reads, and `Int8Decoder`, the same numbers as a torch
model: the oracle of the native engine's tests, and what int8 runs on where that engine is not built.
Invariant: both round alike, so their logits differ only as sums in another order do.

A weight matrix has one scale for each output and `GROUP` inputs; activations are rounded afresh each time, to
int16 with one scale per row. Measured on `sprite` half trained: with int8 activations the likeliest token
changed in 2.5 % of places, with one weight scale per output alone in 1.3 %, like this in 1.1 %; and where one
token at a time is read, which the memory's speed limits, finer activations cost nothing. The head is rounded
less its mean row, which is added back in float32: GPT-2's logits lie around -100, and what differs between
tokens is small beside that. Token embeddings are kept in bfloat16, and so are keys and values; everything
else is float32.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from conjure.errors import ModelError
from conjure.lm.models.decoder import Decoder, Linear
from conjure.lm.models.shape import Shape

GROUP = 64  # inputs whose weights share a scale; native/forward.c has the same
PANEL = 32  # outputs stored together; likewise
BLOCK_BYTES = 2 * PANEL + GROUP * PANEL  # one panel's scales and weights for one group
_LARGEST_WEIGHT, _LARGEST_ACTIVATION = 127.0, 32767.0
_SMALLEST_ROW = 1e-30  # activations no larger than this are all zeros
_ROWS = 1024  # of a matrix, rounded at a time: the passes over them find them in the cache


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
            "the model's weights hold NaN or infinity, which cannot be rounded to int8",
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


def _pack(values: Tensor, scales: Tensor) -> Tensor:
    """Lay rounded rows out as the native engine reads them, uint8, (panels, groups, BLOCK_BYTES).

    Args:
        values: int8, (N, groups, GROUP), N a multiple of `PANEL`.
        scales: float32, (N, groups, 1).
    """
    scales_by_panel = scales.bfloat16().unflatten(0, (-1, PANEL)).transpose(1, 2).flatten(2)
    pairs = values.view(torch.int16)  # (N, groups, GROUP / 2): two bytes move as one number, much faster
    pairs_by_panel = pairs.unflatten(0, (-1, PANEL)).permute(0, 2, 3, 1).flatten(2)
    return torch.cat([part.contiguous().view(torch.uint8) for part in (scales_by_panel, pairs_by_panel)], 2)


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedMatrix:
    """A linear layer, ``y = x W' + bias``, in int8.

    Attributes:
        packed: Scales and weights, uint8, (panels, groups, BLOCK_BYTES).
        bias: float32, zero-filled to whole panels.
        inputs: K.
        outputs: N.
    """

    packed: Tensor
    bias: Tensor
    inputs: int
    outputs: int

    @classmethod
    def of(
        cls, weight: Tensor, bias: Tensor | None = None, *, mean: Tensor | None = None
    ) -> "QuantisedMatrix":
        """Round a float matrix, (N, K), less its `mean` row, (K,), where one is given."""
        N, K = weight.shape
        panels, groups = -(-N // PANEL), -(-K // GROUP)
        packed = torch.empty((panels, groups, BLOCK_BYTES), dtype=torch.uint8)
        for start in range(0, N, _ROWS):
            rows = weight[start : start + _ROWS].float()
            rows = rows - mean if mean is not None else rows
            rows = functional.pad(rows, (0, 0, 0, -len(rows) % PANEL))
            packed[start // PANEL : (start + len(rows)) // PANEL] = _pack(*round_weight(rows))
        filled = torch.zeros(panels * PANEL)
        if bias is not None:
            filled[:N] = bias
        return cls(packed, filled, K, N)


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedLayer:
    """One transformer layer; each norm is its (gain, bias).

    Queries come out of `qkv` divided by the root of the head size, ready to be multiplied with keys.
    """

    ln_1: tuple[Tensor, Tensor]
    qkv: QuantisedMatrix
    proj: QuantisedMatrix
    ln_2: tuple[Tensor, Tensor]
    fc: QuantisedMatrix
    fc_proj: QuantisedMatrix


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedModel:
    """All of a model of GPT-2's kind, as the native engine reads it.

    Attributes:
        config: Its shape.
        wte: Token embeddings, bfloat16, (V, C).
        wpe: Position embeddings, float32, (context length, C).
        layers: In order.
        ln_f: (gain, bias) of the final norm.
        head: The head less its mean row.
        head_mean: That row, float32, (C,).
    """

    config: Shape
    wte: Tensor
    wpe: Tensor
    layers: tuple[QuantisedLayer, ...]
    ln_f: tuple[Tensor, Tensor]
    head: QuantisedMatrix
    head_mean: Tensor

    @classmethod
    def of(cls, model: Decoder) -> "QuantisedModel":
        """Round a model in memory."""
        state = {name: weight.detach() for name, weight in model.named_parameters()}
        return cls.read(model.config, state.__getitem__)

    @classmethod
    def read(cls, config: Shape, weight: Callable[[str], Tensor]) -> "QuantisedModel":
        """Round a model whose weights come one at a time, by `Decoder`'s names; no two need be there at once.

        Raises:
            ModelError: A weight is NaN or infinite.
        """
        wte = weight("embedding.weight")
        embeddings = wte.to(torch.bfloat16)
        head = wte if config.tied else weight("lm_head.weight")
        del wte
        head_mean = head.float().mean(0)
        rounded_head = QuantisedMatrix.of(head, mean=head_mean)
        del head
        return cls(
            config=config,
            wte=embeddings,
            wpe=weight("position_embedding.weight").float(),
            layers=tuple(_read_layer(config, weight, layer) for layer in range(config.n_layer)),
            ln_f=_read_norm(weight, "final_norm"),
            head=rounded_head,
            head_mean=head_mean,
        )


def _read_layer(config: Shape, weight: Callable[[str], Tensor], layer: int) -> QuantisedLayer:
    def matrix(name: str, factors: Tensor | None = None) -> QuantisedMatrix:
        matrix, bias = weight(f"blocks.{layer}.{name}.weight"), weight(f"blocks.{layer}.{name}.bias")
        if factors is not None:
            matrix, bias = matrix * factors[:, None], bias * factors
        return QuantisedMatrix.of(matrix, bias)

    return QuantisedLayer(
        ln_1=_read_norm(weight, f"blocks.{layer}.attention_norm"),
        qkv=matrix("attention.qkv", _query_factors(config, layer)),
        proj=matrix("attention.out"),
        ln_2=_read_norm(weight, f"blocks.{layer}.mlp_norm"),
        fc=matrix("mlp.up"),
        fc_proj=matrix("mlp.down"),
    )


def _query_factors(config: Shape, layer: int) -> Tensor:
    """What queries, keys and values are multiplied by, (HD + 2KD,), so that query times key is a score."""
    factors = torch.ones(sum(config.qkv_rows))
    factors[: config.qkv_rows[0]] = config.layers[layer].score_scale
    return factors


def _read_norm(weight: Callable[[str], Tensor], name: str) -> tuple[Tensor, Tensor]:
    return weight(f"{name}.weight").float(), weight(f"{name}.bias").float()


class Int8Decoder(Decoder):
    """A decoder in torch whose numbers are rounded as in int8, and computed with in float32."""

    def __init__(self, model: Decoder) -> None:
        with torch.device("meta"):
            super().__init__(model.config)
        state = {name: weight.detach().float() for name, weight in model.named_parameters()}
        self._head_mean = model.head_weight.detach().float().mean(0)  # (C,)
        self._head = _rounded(model.head_weight.detach().float() - self._head_mean)  # (V, C)
        state["embedding.weight"] = state["embedding.weight"].to(torch.bfloat16).float()
        for name, module in self.named_modules():
            if isinstance(module, Linear) and name.startswith("blocks."):
                weight = state[f"{name}.weight"]
                if name.endswith("qkv"):
                    factors = _query_factors(self.config, int(name.split(".")[1]))[:, None]
                    state[f"{name}.weight"] = _rounded(weight * factors) / factors
                    module.register_forward_hook(_round_memory(self.config.qkv_rows))
                else:
                    state[f"{name}.weight"] = _rounded(weight)
                module.register_forward_pre_hook(_round_inputs)
        self.load_state_dict(state, assign=True)
        self.eval()

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (…, V) of hidden states (…, C)."""
        varying = functional.linear(round_activations(hidden), self._head)
        return varying + (hidden @ self._head_mean)[..., None]


def _round_inputs(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
    return (round_activations(inputs[0]),)


def _round_memory(rows: tuple[int, int, int]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A hook that rounds keys and values, of outputs (B, T, HD + 2KD), as a bfloat16 cache does."""

    def round_them(_layer: nn.Module, _inputs: tuple[Tensor, ...], heads: Tensor) -> Tensor:
        query, key, value = heads.split(rows, dim=-1)
        return torch.cat([query, key.bfloat16().float(), value.bfloat16().float()], dim=-1)

    return round_them


def _rounded(weight: Tensor) -> Tensor:
    """A matrix after rounding to int8 and back."""
    values, scales = round_weight(weight)
    return (values * scales).flatten(1)[:, : weight.shape[1]]
