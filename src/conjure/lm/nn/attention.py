"""Causal attention for training on a CPU, made of the matrix products its units are fast at.

Main entry: `causal_attention`. torch's flash attention never forms the score matrix, which saves memory
traffic on a GPU but leaves a CPU's bfloat16 matrix units idle; here the queries go in blocks, each block sees
only the keys up to its own end, and every product is one batched matrix product. Invariant: value and
gradients equal softmax(q k' scale + causal mask) v (float64; tests/unit/lm/nn/test_attention.py).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from conjure.lm.native import kernels

softmax_backward = torch.ops.aten._softmax_backward_data

# Queries at a time: long enough for a full matrix product, short enough to skip most of the future.
_STRIP = 256


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
    visible: Tensor | None = None,
    mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention in which position t sees positions 0 … t, differentiable in all three inputs.

    Args:
        query: (B, H, T, D).
        key: (B, K, T, D); each of its heads serves H / K heads of queries, neighbours.
        value: (B, K, T, D).
        scale: What scores are multiplied by; None means 1 / sqrt(D).
        window: Position t sees so many positions, its own included; None means all up to it.
        visible: Which of those it sees, its own always, bool, (B or 1, 1, T, T); None means all.
        mask: Zeros and ones for dropout on the attention weights, (B, H, T, T); None drops nothing.
        dropout: The probability `mask` was drawn with.

    Returns:
        (B, H, T, D), contiguous as (B, H, T, D).
    """
    D = query.shape[-1]
    settings = _Settings(
        scale if scale is not None else D**-0.5,
        window if window is not None else query.shape[2],
        1.0 / (1.0 - dropout),
    )
    return _CausalAttention.apply(query, key, value, visible, mask, settings)  # pyright: ignore[reportReturnType]


class _Settings(NamedTuple):
    """What is no tensor: the scale of scores, the window, and that of weights that are not dropped."""

    scale: float
    window: int
    kept_scale: float


class _CausalAttention(torch.autograd.Function):
    """Keeps each block's probabilities for the backward pass: half of a T x T matrix per head, in all.

    Batch and heads of keys are one dimension, N = B K. The G = H / K heads of queries that share a head of
    keys lie below one another in each block, (N, G rows, D), so that a product serves all of them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        visible: Tensor | None,
        mask: Tensor | None,
        settings: _Settings,
    ) -> Tensor:
        B, H, T, D = query.shape
        K = key.shape[1]
        query = (query * settings.scale).reshape(B * K, H // K, T, D)
        key, value = key.reshape(B * K, T, D), value.reshape(B * K, T, D)
        mask = mask.reshape(B * H, T, T) if mask is not None else None
        out = torch.empty_like(query)
        blocks = []
        for start in range(0, T, _STRIP):
            first, end = _keys_of(start, T, settings.window)
            scores = torch.bmm(query[:, :, start:end].flatten(1, 2), key[:, first:end].transpose(1, 2))
            if visible is not None:
                hidden = ~visible[:, :, start:end, first:end]
                scores.view(B, H, end - start, -1).masked_fill_(hidden, -torch.inf)
            weights = _causal_softmax(scores.view(B * H, end - start, -1), start - first, settings.window)
            blocks.append(weights)
            seen = _masked(weights, mask, start, first, settings.kept_scale).view(scores.shape)
            out[:, :, start:end] = torch.bmm(seen, value[:, first:end]).view(B * K, H // K, -1, D)
        ctx.save_for_backward(query, key, value, mask, *blocks)
        ctx.settings = settings
        return out.view(B, H, T, D)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        query, key, value, mask, *blocks = ctx.saved_tensors
        settings: _Settings = ctx.settings
        B, _, T, D = upstream[0].shape
        grad = upstream[0].reshape(query.shape)  # (N, G, T, D)
        query_grad, key_grad, value_grad = (
            torch.empty_like(query),
            torch.zeros_like(key),
            torch.zeros_like(value),
        )
        # Last block first: it reaches every key, so each earlier one adds to what is there.
        for index in reversed(range(len(blocks))):
            start, weights = index * _STRIP, blocks[index]  # (B H, rows, keys)
            first, end = _keys_of(start, T, settings.window)
            block_grad = grad[:, :, start:end].flatten(1, 2)  # (N, G rows, D)
            weights_grad = torch.bmm(block_grad, value[:, first:end].transpose(1, 2))
            shape = weights_grad.shape  # (N, G rows, keys)
            weights_grad = _masked(weights_grad.view(weights.shape), mask, start, first, settings.kept_scale)
            seen = _masked(weights, mask, start, first, settings.kept_scale).view(shape)
            value_grad[:, first:end].baddbmm_(seen.transpose(1, 2), block_grad)
            # The derivative of softmax; one fused pass where autograd's own formula would take four.
            scores_grad = softmax_backward(weights_grad, weights, -1, weights.dtype).view(shape)
            query_grad[:, :, start:end] = torch.bmm(scores_grad, key[:, first:end]).view(
                *query.shape[:2], -1, D
            )
            key_grad[:, first:end].baddbmm_(scores_grad.transpose(1, 2), query[:, :, start:end].flatten(1, 2))
        query_grad *= settings.scale
        grads = (each.view(B, -1, T, D) for each in (query_grad, key_grad, value_grad))
        return *grads, None, None, None  # pyright: ignore[reportReturnType]


def _keys_of(start: int, tokens: int, window: int) -> tuple[int, int]:
    """The first key that queries from `start` on may see, and the end of this block of queries."""
    return max(0, start - window + 1), min(start + _STRIP, tokens)


def _causal_softmax(scores: Tensor, start: int, window: int) -> Tensor:
    """Softmax over the keys up to each query's own place, within the window.

    Args:
        scores: (B H, rows, keys); may be overwritten.
        start: The place of the first query among these keys.
        window: How many keys a query sees.
    """
    if scores.shape[2] > window:
        scores += scores.new_full(scores.shape[1:], -torch.inf).tril(start - window)
    if kernels.usable(scores):
        return kernels.causal_softmax(scores, start)
    rows = scores.shape[1]
    scores[:, :, start:] += scores.new_full((rows, rows), -torch.inf).triu(1)  # only there is a future
    return torch.softmax(scores, -1)


def _masked(weights: Tensor, mask: Tensor | None, start: int, first: int, scale: float) -> Tensor:
    """A block's weights, (B H, rows, keys), with dropout's mask and scale applied."""
    if mask is None:
        return weights
    rows, keys = weights.shape[1:]
    part = mask[:, start : start + rows, first : first + keys]
    return torch.addcmul(weights.new_zeros(()), weights, part, value=scale)
