"""Low-rank adaptation: learn a small correction to each matrix instead of the matrix.

Main entries: `add_lora`, `merge_lora`. Every linear layer of the blocks computes ``W x + s B A x``, where W
stays as it is and A (rank, in) and B (out, rank) are learned. Invariants: nothing but A and B is trained; B
starts at zero, so that an untrained model is its base; a merged model gives the logits of the one it was
trained as.

Source: Hu et al. 2021 (arXiv:2106.09685); the scale s: Kalajdzievski 2023 (arXiv:2312.03732).
"""

import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from conjure.errors import option
from conjure.lm.bounds import value_fault
from conjure.lm.models.base import CausalLM

ModelT = TypeVar("ModelT", bound=CausalLM)

ALPHA = 6.0  # at rank 9 the scale is 2, the usual one
_DOWN, _UP = "lora_a", "lora_b"


class LoRALinear(nn.Module):
    """A linear layer with a frozen weight and a trained low-rank correction to it.

    Attributes:
        weight: W, frozen, (out, in).
        bias: Frozen, (out,).
        lora_a: A, (rank, in).
        lora_b: B, (out, rank).
    """

    def __init__(self, base: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1 / math.sqrt(base.in_features)
        down = torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=generator)
        self.weight, self.bias = base.weight, base.bias
        self.lora_a = nn.Parameter(down.to(base.weight))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output (…, out) for `x` (…, in)."""
        correction = functional.linear(functional.linear(x, self.lora_a), self.lora_b)
        return torch.add(functional.linear(x, self.weight, self.bias), correction, alpha=scale(self.lora_a))


def scale(lora_a: Tensor) -> float:
    """What a correction is multiplied by, given its A: alpha / sqrt(rank).

    A sum of `rank` products grows with the root of their number, so with this a learning rate that suits one
    rank suits others. With alpha / rank, the first paper's, high ranks learn too slowly; with a constant,
    too fast (docs/decisions/0007-lora-of-our-own.md).
    """
    return ALPHA / math.sqrt(lora_a.shape[0])


def add_lora(model: ModelT, rank: int, *, seed: int, first_block: int = 0) -> ModelT:
    """Freeze a model and give the linear layers of its blocks corrections to learn; in place.

    Args:
        model: Its weights stay what they are.
        rank: Of every correction, R: the inner size of A and B.
        seed: A is drawn from it.
        first_block: Blocks before this one get none.

    Raises:
        UsageError: No block is left, or the rank is above that of the matrices themselves.
    """
    if first_block >= model.n_layer:
        raise value_fault(
            "freeze",
            f"is {first_block} and the model has {model.n_layer} blocks: none is left for lora",
            fix=option("freeze", model.n_layer - 1),
        )
    layers = [each for each in model.blocks[first_block:].modules() if isinstance(each, nn.Linear)]
    largest_rank = max((min(each.in_features, each.out_features) for each in layers), default=0)
    if rank > largest_rank:
        raise value_fault(
            "lora",
            f"is {rank}; the model's matrices have rank {largest_rank} at most",
            fix=option("lora", 8),
        )
    model.requires_grad_(requires_grad=False)
    generator = torch.Generator().manual_seed(seed)
    for part in list(model.blocks[first_block:].modules()):
        for name, layer in list(part.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(part, name, LoRALinear(layer, rank, generator))
    return model


def merge_lora(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by name, every correction added to its matrix; as they are where there is none."""
    merged = {name: weight for name, weight in weights.items() if not name.endswith((_DOWN, _UP))}
    for name, down in weights.items():
        layer, _, kind = name.rpartition(".")
        if kind == _DOWN:
            matrix = f"{layer}.weight"
            merged[matrix] = torch.addmm(merged[matrix], weights[f"{layer}.{_UP}"], down, alpha=scale(down))
    return merged
