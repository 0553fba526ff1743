"""conjure's training with one of its gains taken out: what each is worth is measured, not remembered.

Main entry: `take_out`. Each replacement is what plain torch would do in that place.
"""

import os

from torch import Tensor
from torch.nn import functional

import conjure.lm.models.decoder
import conjure.lm.training.trainer
from conjure.lm.native.library import VARIABLE


def take_out(name: str | None) -> None:
    """Replace one part of the training step; None, and what is no part of the code, leaves all as it is."""
    if name == "attention of matrix products":
        conjure.lm.models.decoder.causal_attention = _flash_attention
    elif name == "chunked cross-entropy":
        conjure.lm.training.trainer.linear_cross_entropy = _plain_cross_entropy
    elif name == "compiled passes":
        os.environ[VARIABLE] = "off"
    elif name not in (None, "memory kept between steps"):
        raise SystemExit(f"nothing to take out is called {name!r}")


def _flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: int | None,
    mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    assert mask is None
    assert window is None
    return functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, dropout_p=dropout, scale=scale
    )


def _plain_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, divisor: float, weights: Tensor | None = None
) -> Tensor:
    assert weights is None
    logits = functional.linear(hidden, weight).float()
    return functional.cross_entropy(logits, targets, reduction="sum") / divisor
