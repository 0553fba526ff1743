"""Normalisation by the root of the mean square.

Main entry: `RMSNorm`. Invariant: the mean is taken in float32, whatever the number format of what comes in.

Source: Zhang & Sennrich 2019 (arXiv:1910.07467).
"""

from typing import Any

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Scales each vector to a mean square of 1, then each channel by its weight.

    Attributes:
        weight: (C,). With an `offset` of 1 it is stored around 0, and 1 + weight is what multiplies; that is
            done in float32, before the result is rounded. Without one it multiplies what was rounded.
    """

    def __init__(self, channels: int, epsilon: float, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 1.0 - offset))
        self.epsilon, self.offset = epsilon, offset

    def forward(self, x: Tensor) -> Tensor:
        return _RMSNorm.apply(x, self.weight, self.epsilon, self.offset)  # pyright: ignore[reportReturnType]


class _RMSNorm(torch.autograd.Function):
    """Keeps its input and one number for each vector; autograd's own would keep three tensors more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, offset: float) -> Tensor:
        exact = x.float()
        inverse = torch.rsqrt(exact.square().mean(-1, keepdim=True) + epsilon)  # (…, 1)
        ctx.save_for_backward(x, weight, inverse)
        ctx.offset = offset
        if offset:
            return (exact * inverse * (weight.float() + offset)).to(x.dtype)
        return (exact * inverse).to(x.dtype) * weight

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, inverse = ctx.saved_tensors
        scaled, grad = x.float() * inverse, upstream[0].float()
        weight_grad = (
            (grad * scaled).flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        )
        if not ctx.needs_input_grad[0]:
            return None, weight_grad, None, None
        grad = grad * (weight.float() + ctx.offset)
        x_grad = inverse * (grad - scaled * (grad * scaled).mean(-1, keepdim=True))
        return x_grad.to(x.dtype), weight_grad, None, None
