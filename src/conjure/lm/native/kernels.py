"""Fused passes over a training step's tensors, by the compiled library.

Main entries: `usable`, and one function per pass. Each is asked for only where `usable` said yes; torch does
the same in other places, and the tests hold one against the other. Invariant: nothing but contiguous float32
and bfloat16 on the CPU reaches C, and no target that is not in its row.
"""

import ctypes

import torch
from torch import Tensor

from conjure.lm.hardware import usable_cores
from conjure.lm.native.library import INSTRUCTIONS, Pass, status

FORMATS = (torch.float32, torch.bfloat16)
LEVELS = (
    1 << 16
)  # of the random number that decides about an element; p is rounded to a multiple of 1 / LEVELS
MOST_COUNTED = 1 << 32  # elements of a mask; each pair has a number of 32 bits


def usable(x: Tensor) -> bool:
    """Whether the library is there, and computes with tensors like this one."""
    return x.device.type == "cpu" and x.dtype in FORMATS and status().library is not None


def gelu(x: Tensor) -> Tensor:
    """GPT-2's tanh-approximated GELU of every element."""
    x = x.contiguous()
    y = torch.empty_like(x)
    _run("conjure_gelu", y, x=x.data_ptr(), columns=x.numel())
    return y


def gelu_backward(x: Tensor, grad: Tensor) -> Tensor:
    """The derivative by `x`, where `grad` is the one by ``gelu(x)``."""
    x, grad = x.contiguous(), grad.to(x.dtype).contiguous()
    assert grad.shape == x.shape
    y = torch.empty_like(x)
    _run("conjure_gelu_backward", y, x=x.data_ptr(), grad=grad.data_ptr(), columns=x.numel())
    return y


def dropout_mask(y: Tensor, p: float, key: int) -> Tensor:
    """Fill a tensor with zeros, each with probability `p`, and ones; `key`, of 64 bits, decides which."""
    assert y.is_contiguous()
    assert y.numel() <= MOST_COUNTED
    _run("conjure_dropout_mask", y, columns=y.numel(), key=key, threshold=round(p * LEVELS))
    return y


def causal_softmax(scores: Tensor, start: int) -> Tensor:
    """Turn scores into weights in place: a softmax over the keys that each query may see.

    Args:
        scores: (heads, queries, keys).
        start: The first query's own place among the keys.
    """
    assert scores.is_contiguous()
    heads, strip, keys = scores.shape
    _run("conjure_causal_softmax", scores, rows=heads * strip, columns=keys, start=start, strip=strip)
    return scores


def cross_entropy(logits: Tensor, targets: Tensor, factors: Tensor | None = None) -> Tensor:
    """The cross-entropy of each row, float32, (N,); 0 without a target.

    Args:
        logits: (N, V), each row contiguous; overwritten by their gradient where there are `factors`.
        targets: int64, (N,); below 0 where there is none.
        factors: What each row's gradient is multiplied by, float32, (N,).
    """
    assert logits.stride(1) == 1
    assert targets.dtype == torch.int64
    rows, columns = logits.shape
    if len(targets) != rows or bool((targets >= columns).any()):
        raise IndexError(f"there are to be {rows} targets below {columns}")
    targets, losses = targets.contiguous(), torch.empty(rows)
    if factors is not None:
        factors = factors.float().contiguous()
        assert factors.shape == losses.shape
    _run(
        "conjure_cross_entropy",
        logits,
        rows=rows,
        columns=columns,
        stride=logits.stride(0),
        targets=targets.data_ptr(),
        factors=None if factors is None else factors.data_ptr(),
        losses=losses.data_ptr(),
    )
    return losses


def _run(
    name: str, y: Tensor, *, rows: int = 1, columns: int, stride: int | None = None, **fields: object
) -> None:
    """Run one pass over `y`; see training.c for what the fields are."""
    found = status()
    assert found.library is not None
    assert y.dtype in FORMATS
    if rows == 0 or columns == 0:
        return
    call = Pass(
        y=y.data_ptr(),
        rows=rows,
        columns=columns,
        stride=columns if stride is None else stride,
        bfloat=y.dtype == torch.bfloat16,
        threads=usable_cores(),
        instructions=INSTRUCTIONS.index(found.instructions),
        **fields,
    )
    if getattr(found.library, name)(ctypes.byref(call)) != 0:
        raise MemoryError(f"{columns:,} numbers for each of {usable_cores()} threads do not fit in memory")
