"""The activation functions of GPT-2 checkpoints, by the names in their configuration.

Main entry: `ACTIVATIONS`. GPT-2's own, the tanh-approximated GELU, is the one that torch is slow at: a
compiled pass, where there is one, takes a third of the time.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from conjure.lm.native import kernels


def gelu_tanh(x: Tensor) -> Tensor:
    """Every element's x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) (Hendrycks & Gimpel 2016)."""
    if kernels.usable(x):
        return _Gelu.apply(x)  # pyright: ignore[reportReturnType]
    return functional.gelu(x, approximate="tanh")


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return kernels.gelu(x)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return kernels.gelu_backward(x, upstream[0])


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": gelu_tanh,
    "gelu": functional.gelu,
    "relu": functional.relu,
    "silu": functional.silu,
}
