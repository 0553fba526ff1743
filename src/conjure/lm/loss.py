"""The language-model loss without its logits: head and cross-entropy in one pass over chunks of rows.

Main entry: `linear_cross_entropy`. A (2,048, 50,257) float32 logits tensor is 412 MB, and a plain
cross-entropy touches three of them; here a chunk of rows is multiplied, scored and turned into its own
gradient while it is in the cache, so the peak is one chunk. Invariant: value and gradients equal
``cross_entropy(hidden @ weight.T, targets, reduction="sum") / divisor``
(float64; tests/unit/lm/test_loss.py).
"""

from typing import Any

import torch
from torch import Tensor

from conjure.lm.products import product

IGNORE = -100  # a target of this value is no target (the field's convention)
_CHUNK_ELEMENTS = 1 << 25  # logits at a time: 134 MB of float32; larger gains nothing, smaller starves matmul


def chunk_rows(vocab_size: int) -> int:
    """Rows whose logits are made at a time."""
    return max(1, _CHUNK_ELEMENTS // vocab_size)


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Log-probability the model gave to each token that actually came next.

    Args:
        hidden: Final hidden states, (N, C).
        weight: The head's weight, (V, C), same dtype.
        targets: Token ids, int64, (N,); `IGNORE` marks positions without one.

    Returns:
        Natural-log probabilities (nats, each <= 0), float32, (N,); 0.0 where there is no target.
    """
    result = torch.zeros(targets.shape, dtype=torch.float32, device=hidden.device)
    with torch.no_grad():
        size = chunk_rows(len(weight))
        for start in range(0, len(targets), size):
            rows = slice(start, start + size)
            logits = product(hidden[rows], weight).float()  # (rows, V)
            chosen = logits.gather(1, targets[rows, None].clamp(min=0)).squeeze(1)
            result[rows] = (chosen - logits.logsumexp(1)).masked_fill(targets[rows] == IGNORE, 0.0)
    return result


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, *, divisor: float) -> Tensor:
    """Summed cross-entropy of ``hidden @ weight.T`` against `targets`, divided by `divisor`.

    Args:
        hidden: Final hidden states, (N, C).
        weight: The head's weight, (V, C), same dtype.
        targets: Token ids, int64, (N,); `IGNORE` marks positions without one.
        divisor: Usually the number of targets in the whole optimizer step, so that micro-batches add up
            to exactly one large batch.

    Returns:
        A scalar in nats, float32 or wider, differentiable in `hidden` and `weight`.
    """
    return _LinearCrossEntropy.apply(hidden, weight, targets, divisor)  # pyright: ignore[reportReturnType]


def _add_outer(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left.T @ right``; in bfloat16 without a temporary of that size."""
    if total.dtype == torch.float32:
        total += product(left.t(), right.t())
    else:
        total.addmm_(left.t(), right)


class _LinearCrossEntropy(torch.autograd.Function):
    """Makes the gradients on the way forward, while each chunk's logits are at hand."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, divisor: float) -> Tensor:
        kept = targets != IGNORE
        hidden_grad = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        weight_grad = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        size = chunk_rows(len(weight))
        for start in range(0, len(targets), size):
            rows = slice(start, start + size)
            logits = product(hidden[rows], weight)  # (rows, V)
            chosen = targets[rows].clamp(min=0)[:, None]  # (rows, 1)
            scores = logits.to(total.dtype)
            normaliser = scores.logsumexp(1, keepdim=True)  # (rows, 1)
            losses = normaliser - scores.gather(1, chosen)
            total += losses[kept[rows]].sum()
            if hidden_grad is None and weight_grad is None:
                continue
            # d loss / d logits = (softmax - one-hot) / divisor, written over the logits themselves.
            scale = kept[rows, None].to(total.dtype) / divisor
            slope = scores.sub_(normaliser).exp_().mul_(scale)
            slope.scatter_add_(1, chosen, -scale)
            slope = slope.to(logits.dtype)
            if hidden_grad is not None:
                hidden_grad[rows] = product(slope, weight.t())
            if weight_grad is not None:
                _add_outer(weight_grad, slope, hidden[rows])
        ctx.save_for_backward(hidden_grad, weight_grad)
        return total / divisor

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden_grad, weight_grad = ctx.saved_tensors
        factor = upstream[0].item()
        if factor != 1.0:  # the training loop's own call never pays for this
            hidden_grad = hidden_grad * factor if hidden_grad is not None else None
            weight_grad = weight_grad * factor if weight_grad is not None else None
        return hidden_grad, weight_grad, None, None
