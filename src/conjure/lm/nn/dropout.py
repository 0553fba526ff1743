"""Dropout whose masks come from a counter, not from global random state.

Main entry: `Dropout`. torch draws CPU masks one number at a time; a compiled pass hashes a counter to 16 bits
for each element, which is all that a mask needs, and without one numpy's SFC64 fills a buffer with as many.
Invariant: the same key and the same sequence of calls give the same masks on the same installation, so that
a resumed training run repeats an unbroken one bit for bit. On a GPU torch's own generator draws,
and the key sets it.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from conjure.lm.native import kernels


class Dropout(nn.Module):
    """Drops elements while training; one object serves every layer of a model.

    It holds no weights and no probability: each call site passes its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reseed(0)

    def reseed(self, *key: int) -> None:
        """Start the sequence that belongs to `key`: whole numbers >= 0, as (seed, step, micro-batch)."""
        seeds = np.random.SeedSequence(key)
        self._bits = np.random.SFC64(seeds)
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(int(seeds.generate_state(1, np.uint64)[0] >> 1))

    def active(self, p: float) -> bool:
        """Whether a call with this probability would drop anything now."""
        return self.training and p > 0.0

    def mask(self, shape: torch.Size | tuple[int, ...], p: float, like: Tensor) -> Tensor:
        """Zeros (with probability p) and ones on the CPU, with the dtype of `like`."""
        if kernels.usable(like):
            mask = torch.empty(shape, dtype=like.dtype)
            for piece in mask.view(-1).split(kernels.MOST_COUNTED):
                kernels.dropout_mask(piece, p, key=int(self._bits.random_raw()))
            return mask
        count = math.prod(shape)
        numbers = self._bits.random_raw(count // 4 + 1).view(np.int16)[:count]
        threshold = round(p * kernels.LEVELS) - kernels.LEVELS // 2
        # By way of int8, from which torch converts many numbers at a time.
        return torch.from_numpy((numbers >= threshold).view(np.int8)).view(shape).to(like.dtype)

    def forward(self, x: Tensor, p: float) -> Tensor:
        """`x` with each element dropped with probability p, the rest scaled up to keep the mean."""
        return self.add(torch.zeros((), dtype=x.dtype, device=x.device), x, p) if self.active(p) else x

    def add(self, residual: Tensor, branch: Tensor, p: float) -> Tensor:
        """``residual + dropout(branch)`` in one pass over memory."""
        if not self.active(p):
            return residual + branch
        if branch.device.type != "cpu":  # torch's own, which its compiler fuses with what is around it
            return residual + functional.dropout(branch, p)
        mask = self.mask(branch.shape, p, branch)
        return _MaskedAdd.apply(residual, branch, mask, 1.0 / (1.0 - p))  # pyright: ignore[reportReturnType]


class _MaskedAdd(torch.autograd.Function):
    """residual + branch * mask * scale; `scale` stays a full-precision number whatever the tensors' dtype."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, branch: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return torch.addcmul(residual, branch, mask, value=scale)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        branch_grad = torch.addcmul(upstream[0].new_zeros(()), upstream[0], mask, value=ctx.scale)
        return (upstream[0] if ctx.needs_input_grad[0] else None), branch_grad, None, None
