"""Normalisation by the root of the mean square.

Main entry: `RMSNorm`. Invariant: the mean is taken in float32, whatever the number format of what comes in.

Source: Zhang & Sennrich 2019 (arXiv:1910.07467).
"""

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
        exact = x.float()
        scaled = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.epsilon)
        if self.offset:
            return (scaled * (self.weight.float() + self.offset)).to(x.dtype)
        return scaled.to(x.dtype) * self.weight
