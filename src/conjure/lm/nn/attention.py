"""Causal attention for training on a CPU, made of the matrix products its units are fast at.

Main entry: `causal_attention`. torch's flash attention never forms the score matrix, which saves memory
traffic on a GPU but leaves a CPU's bfloat16 matrix units idle; here the queries go in strips, each strip sees
only the keys up to its own end, and every product is one batched matrix product. Invariant: value and
gradients equal softmax(q k' / sqrt(D) + causal mask) v (float64; tests/unit/lm/test_attention.py).
"""

from typing import Any

import torch
from torch import Tensor

from conjure.lm.native import kernels

softmax_backward = torch.ops.aten._softmax_backward_data

_STRIP = (
    256  # queries at a time: long enough for a full matrix product, short enough to skip most of the future
)


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Attention in which position t sees positions 0 … t, differentiable in all three inputs.

    Args:
        query: (B, H, T, D).
        key: (B, H, T, D).
        value: (B, H, T, D).
        mask: Zeros and ones for dropout on the attention weights, (B, H, T, T); None drops nothing.
        dropout: The probability `mask` was drawn with.

    Returns:
        (B, H, T, D), contiguous as (B, H, T, D).
    """
    return _CausalAttention.apply(query, key, value, mask, 1.0 / (1.0 - dropout))  # pyright: ignore[reportReturnType]


class _CausalAttention(torch.autograd.Function):
    """Keeps each strip's probabilities for the backward pass: half of a T x T matrix per head, in all."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        B, H, T, D = query.shape
        query, key, value = (tensor.reshape(B * H, T, D) for tensor in (query * D**-0.5, key, value))
        mask = mask.reshape(B * H, T, T) if mask is not None else None
        out = torch.empty_like(query)
        query_blocks = []
        for start in range(0, T, _STRIP):
            end = min(start + _STRIP, T)
            scores = torch.bmm(query[:, start:end], key[:, :end].transpose(1, 2))  # (BH, strip, end)
            weights = _causal_softmax(scores, start)
            query_blocks.append(weights)
            seen = _masked(weights, mask, start, scale)
            out[:, start:end] = torch.bmm(seen, value[:, :end])
        ctx.save_for_backward(query, key, value, mask, *query_blocks)
        ctx.scale = scale
        return out.view(B, H, T, D)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, mask, *query_blocks = ctx.saved_tensors
        B, H, T, D = upstream[0].shape
        grad = upstream[0].reshape(B * H, T, D)
        query_grad, key_grad, value_grad = (
            torch.empty_like(query),
            torch.zeros_like(key),
            torch.zeros_like(value),
        )
        # Last strip first: it reaches every key, so each shorter one adds to what is there.
        for index in reversed(range(len(query_blocks))):
            start, weights = index * _STRIP, query_blocks[index]
            end = start + weights.shape[1]
            block_grad = grad[:, start:end]
            weights_grad = torch.bmm(block_grad, value[:, :end].transpose(1, 2))
            weights_grad = _masked(weights_grad, mask, start, ctx.scale)
            seen = _masked(weights, mask, start, ctx.scale)
            value_grad[:, :end].baddbmm_(seen.transpose(1, 2), block_grad)
            # The derivative of softmax; one fused pass where autograd's own formula would take four.
            scores_grad = softmax_backward(weights_grad, weights, -1, weights.dtype)
            query_grad[:, start:end] = torch.bmm(scores_grad, key[:, :end])
            key_grad[:, :end].baddbmm_(scores_grad.transpose(1, 2), query[:, start:end])
        query_grad *= D**-0.5
        grads = (grad.view(B, H, T, D) for grad in (query_grad, key_grad, value_grad))
        return *grads, None, None  # pyright: ignore[reportReturnType]


def _causal_softmax(scores: Tensor, start: int) -> Tensor:
    """Softmax over the keys up to each query's own place.

    Args:
        scores: (BH, strip, end); may be overwritten.
        start: The place of the first query.
    """
    if kernels.usable(scores):
        return kernels.causal_softmax(scores, start)
    rows = scores.shape[1]
    scores[:, :, start:] += scores.new_full((rows, rows), -torch.inf).triu(1)  # only there is a future
    return torch.softmax(scores, -1)


def _masked(strip: Tensor, mask: Tensor | None, start: int, scale: float) -> Tensor:
    """A (BH, strip, end) piece with dropout's mask and scale applied."""
    if mask is None:
        return strip
    rows, end = strip.shape[1:]
    return torch.addcmul(strip.new_zeros(()), strip, mask[:, start : start + rows, :end], value=scale)
