"""The head of a model in 16 bits, such that its rounding does not blur what follows from the logits.

Main entries: `centred_head`, `scoring_head`. GPT-2's logits lie around -100, where neighbouring bfloat16
numbers are 0.5 apart; less their mean, they lie around 0. Invariant: a row's logits all change by the same
number, which no probability depends on.
"""

import torch
from torch import Tensor

_ROWS = 1 << 14  # centred at a time: their float32 takes little memory beside the head


def centred_head(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A head's weight, (V, C), less its mean row, in its own format; and that row, float32, (C,)."""
    with torch.no_grad():
        parts = weight.split(_ROWS)
        mean = torch.stack([part.float().sum(0) for part in parts]).sum(0) / len(weight)
        centred = torch.empty_like(weight)
        for part, result in zip(parts, centred.split(_ROWS), strict=True):
            result.copy_(part.float() - mean)
    return centred, mean


def scoring_head(weight: Tensor) -> Tensor:
    """The weight to score tokens with, for `conjure.lm.nn.loss.token_logprobs`: centred if of 16 bits."""
    return centred_head(weight)[0] if weight.element_size() == 2 else weight
