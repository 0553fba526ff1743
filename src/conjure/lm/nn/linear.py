"""Matrix products in float32, by whichever of torch's two libraries is the faster one here.

Main entry: `linear`. torch multiplies float32 with MKL, which on AMD processors is half as fast as oneDNN,
the library it uses for everything else, whether a product waits for arithmetic or, with one row, for memory.
Invariant: value and gradients are those of ``left @ right.T + bias`` up to the order of its sums.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from conjure.lm.hardware import cpu_vendor


def linear(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """``left @ right.T + bias``, differentiable in all three.

    Args:
        left: (…, K).
        right: (M, K), as linear layers keep their weights.
        bias: (M,).

    Returns:
        (…, M).
    """
    if left.dtype != torch.float32 or left.device.type != "cpu" or not _prefers_onednn():
        return functional.linear(left, right, bias)
    return _OneDnnProduct.apply(left, right, bias)  # pyright: ignore[reportReturnType]


@functools.cache
def _prefers_onednn() -> bool:
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return available and cpu_vendor() == "AuthenticAMD"


def _multiply(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")


class _OneDnnProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(left, right)
        return _multiply(left, right, bias)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        left, right = ctx.saved_tensors
        grad = upstream[0].flatten(0, -2)  # (N, M)
        needs_left, needs_right, needs_bias = ctx.needs_input_grad
        return (
            _multiply(grad, right.t()).view(left.shape) if needs_left else None,
            _multiply(grad.t(), left.flatten(0, -2).t()) if needs_right else None,
            grad.sum(0) if needs_bias else None,
        )
