"""The language-model loss without its logits: head and cross-entropy in one pass over chunks of rows.

Main entry: `linear_cross_entropy`. A (2,048, 50,257) float32 logits tensor is 412 MB, and a plain
cross-entropy touches three of them; here a chunk of rows is multiplied at once, because large products are
the fast ones, and then turned into its own gradient in place, a few rows at a time, because those stay in the
cache. Invariant: value and gradients equal
``cross_entropy(hidden @ weight.T, targets, reduction="sum") / divisor``, each target's share times its weight
(float64; tests/unit/lm/nn/test_loss.py).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from conjure.lm.native import kernels
from conjure.lm.nn.linear import linear

IGNORE = -100  # a target of this value is no target (the field's convention)
# Logits at a time: 268 MB of bfloat16, 2,670 rows of GPT-2's. Fewer starve the matrix products.
_CHUNK_ELEMENTS = 1 << 27
# As many where no gradient is wanted: the head is not read again to make one, so fewer do as well.
_SCORED_ELEMENTS = 1 << 24
# Of them looked at together on a CPU: 4 MB of float32, which stay in its cache.
_CACHED_ELEMENTS = 1 << 20
# A row of 16-bit logits begins at a multiple of so many: products of odd rows take a quarter longer.
_LINE = 64


def chunk_rows(vocab_size: int, *, for_gradients: bool = True) -> int:
    """Rows whose logits are made at a time."""
    return max(1, (_CHUNK_ELEMENTS if for_gradients else _SCORED_ELEMENTS) // vocab_size)


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Log-probability the model gave to each token that actually came next.

    Args:
        hidden: Final hidden states, (N, C).
        weight: The head's weight, (V, C), same dtype.
        targets: Token ids, int64, (N,); `IGNORE` marks positions without one.

    Returns:
        Natural-log probabilities (nats, each <= 0), float32, (N,); 0.0 where there is no target.
    """
    result = torch.empty(targets.shape, dtype=torch.float32, device=hidden.device)
    with torch.no_grad():
        for rows, logits in _chunks_of_logits(hidden, weight, chunk_rows(len(weight), for_gradients=False)):
            result[rows] = _logprobs(logits, targets[rows])
    return result


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, divisor: float, weights: Tensor | None = None
) -> Tensor:
    """Summed cross-entropy of ``hidden @ weight.T`` against `targets`, divided by `divisor`.

    Args:
        hidden: Final hidden states, (N, C).
        weight: The head's weight, (V, C), same dtype.
        targets: Token ids, int64, (N,); `IGNORE` marks positions without one.
        divisor: Usually the number of targets in the whole optimizer step, so that micro-batches add up
            to exactly one large batch.
        weights: What each target counts, float32, (N,); None where all count 1. Then `divisor` is usually
            their sum over the step.

    Returns:
        A scalar in nats, float32 or wider, differentiable in `hidden` and `weight`.
    """
    return _LinearCrossEntropy.apply(hidden, weight, targets, divisor, weights)  # pyright: ignore[reportReturnType]


def _chunks_of_logits(hidden: Tensor, weight: Tensor, size: int) -> Iterator[tuple[slice, Tensor]]:
    """The logits of `size` rows after the other, each with the place of its rows.

    Those of 16 bits may be views of rows that are a little longer, and zero from there on.
    """
    for start in range(0, len(hidden), size):
        rows = slice(start, min(start + size, len(hidden)))
        if hidden.element_size() > 2:
            yield rows, linear(hidden[rows], weight)
            continue
        padded = hidden.new_empty(rows.stop - start, -(-len(weight) // _LINE) * _LINE)
        padded[:, len(weight) :] = 0
        yield rows, torch.mm(hidden[rows], weight.t(), out=padded[:, : len(weight)])


def _cached_rows(logits: Tensor) -> Iterator[slice]:
    """Rows to look at together: few on a CPU, so that what is made of them stays in its cache."""
    size = max(1, _CACHED_ELEMENTS // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    for start in range(0, len(logits), size):
        yield slice(start, min(start + size, len(logits)))


def _logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """What `token_logprobs` says of logits, (N, V)."""
    if kernels.usable(logits):
        return -kernels.cross_entropy(logits, targets)
    result = torch.empty(targets.shape, dtype=torch.float32, device=logits.device)
    for rows in _cached_rows(logits):
        scores = logits[rows].float()  # (rows, V)
        chosen = scores.gather(1, targets[rows, None].clamp(min=0)).squeeze(1)
        result[rows] = (chosen - scores.logsumexp(1)).masked_fill(targets[rows] == IGNORE, 0.0)
    return result


def _turn_into_grad(logits: Tensor, targets: Tensor, divisor: float, weights: Tensor | None = None) -> Tensor:
    """Overwrite logits, (N, V), by the derivative of the loss for them; return the summed loss.

    The derivative is (softmax - one-hot) · weight / divisor, and zero where there is no target.
    """
    if kernels.usable(logits):
        factors = torch.full((len(logits),), 1.0 / divisor) if weights is None else weights / divisor
        losses = kernels.cross_entropy(logits, targets, factors).double()
        return (losses if weights is None else losses * weights).sum().float()
    exact = torch.promote_types(logits.dtype, torch.float32)
    total = torch.zeros((), dtype=exact, device=logits.device)
    for rows in _cached_rows(logits):
        chosen = targets[rows].clamp(min=0)[:, None]  # (rows, 1)
        kept = (targets[rows] != IGNORE)[:, None].to(exact)  # (rows, 1)
        if weights is not None:
            kept = kept * weights[rows, None].to(exact)
        scores = logits[rows].to(exact)  # (rows, V); the logits themselves where they are that exact
        largest = scores.amax(1, keepdim=True)
        target_scores = scores.gather(1, chosen)
        powers = scores.sub_(largest).exp_()
        sums = powers.sum(1, keepdim=True)
        total += ((sums.log() + largest - target_scores) * kept).sum()
        grad = powers.mul_(kept / (divisor * sums)).scatter_add_(1, chosen, -kept / divisor)
        if grad.dtype != logits.dtype:
            logits[rows] = grad
    return total


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """``left.T @ right`` of two matrices with equally many rows, (N, M) and (N, K)."""
    if left.element_size() > 2:
        return linear(left.t(), right.t())
    length = left.stride(0)  # the zeros at the end of the rows come along: a whole number of lines
    return torch.mm(left.as_strided((len(left), length), (length, 1)).t(), right)[: left.shape[1]]


class _LinearCrossEntropy(torch.autograd.Function):
    """Makes the gradients on the way forward, while each chunk's logits are at hand."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, divisor: float, weights: Tensor | None
    ) -> Tensor:
        hidden_grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        weight_grad = None
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        for rows, logits in _chunks_of_logits(hidden, weight, chunk_rows(len(weight))):
            of_rows = weights[rows] if weights is not None else None
            total += _turn_into_grad(logits, targets[rows], divisor, of_rows)
            if hidden_grad is not None:
                hidden_grad[rows] = linear(logits, weight.t())
            if ctx.needs_input_grad[1]:
                part = _outer(logits, hidden[rows])
                weight_grad = part if weight_grad is None else weight_grad.add_(part)
        ctx.save_for_backward(hidden_grad, weight_grad)
        return total / divisor

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden_grad, weight_grad = ctx.saved_tensors
        factor = upstream[0].item()
        if factor != 1.0:  # the training loop's own call never pays for this
            hidden_grad = hidden_grad * factor if hidden_grad is not None else None
            weight_grad = weight_grad * factor if weight_grad is not None else None
        return hidden_grad, weight_grad, None, None, None
