"""An optimizer step by the compiled library: AdamW and the norm of gradients, each one pass over memory.

Main entries: `usable`, `AdamWUpdate`, `update`, `gradient_norm`, `RoundedCopy`, `round_weights`. Invariant:
nothing but contiguous tensors on the CPU, of one size each and of the right formats, reaches C.
"""

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from conjure.lm.hardware import usable_cores
from conjure.lm.native.kernels import FORMATS
from conjure.lm.native.library import INSTRUCTIONS, Step, Update, status

_PIECE = 1 << 15  # numbers whose squares have a sum of their own: PIECE of optimizer.c


class RoundedCopy(NamedTuple):
    """What weights are rounded into, up or down at random.

    Attributes:
        weight: bfloat16, of the weights' shape.
        key: Of the random numbers, 64 bits.
    """

    weight: Tensor
    key: int


@dataclass(frozen=True, slots=True)
class AdamWUpdate:
    """What one parameter's update reads and writes; all of one size.

    Attributes:
        master: The weights, float32; updated.
        mean: Running mean of the gradient, float32; updated.
        square_mean: Running mean of its square, float32; updated.
        gradient: In float32 or bfloat16.
        copy: What the weights are then rounded into; None where the model computes with `master`.
        steps: Updates of this parameter, this one included.
        rate: Learning rate.
        decay: Weight decay, which the learning rate multiplies.
        betas: Weights of the old values in the two means.
        epsilon: Added to the root of the second mean.
    """

    master: Tensor
    mean: Tensor
    square_mean: Tensor
    gradient: Tensor
    copy: RoundedCopy | None
    steps: int
    rate: float
    decay: float
    betas: tuple[float, float]
    epsilon: float


def usable(tensors: Sequence[Tensor]) -> bool:
    """Whether the library is there, and computes with tensors like these."""
    return status().library is not None and all(
        each.device.type == "cpu" and each.dtype in FORMATS and each.is_contiguous() for each in tensors
    )


def gradient_norm(gradients: Sequence[Tensor]) -> float:
    """The 2-norm of all gradients together."""
    pieces = [math.ceil(each.numel() / _PIECE) for each in gradients]
    sums = torch.zeros(sum(pieces), dtype=torch.float64)
    places = sums.split(pieces)
    _run(
        "conjure_square_sums",
        [
            Update(squares=place.data_ptr(), **_gradient(gradient))
            for gradient, place in zip(gradients, places, strict=True)
        ],
    )
    return math.sqrt(float(sums.sum()))


def update(updates: Sequence[AdamWUpdate], scale: float) -> None:
    """Update parameters by AdamW, their gradients multiplied by `scale`, and round them into their copies."""
    _run("conjure_adamw", [_update(each, scale) for each in updates])


def round_weights(copies: Mapping[Tensor, RoundedCopy]) -> None:
    """Round float32 weights into their copies, as `update` does."""
    _run(
        "conjure_round",
        [
            Update(master=master.data_ptr(), count=master.numel(), **_rounded(master, copy))
            for master, copy in copies.items()
        ],
    )


def _update(of: AdamWUpdate, scale: float) -> Update:
    for each in (of.master, of.mean, of.square_mean):
        assert each.dtype == torch.float32
        assert each.shape == of.gradient.shape
        assert each.is_contiguous()
    first, second = of.betas
    return Update(
        master=of.master.data_ptr(),
        mean=of.mean.data_ptr(),
        square_mean=of.square_mean.data_ptr(),
        scale=scale,
        keep=1.0 - of.rate * of.decay,
        rate=of.rate / (1.0 - first**of.steps),
        root=1.0 / math.sqrt(1.0 - second**of.steps),
        epsilon=of.epsilon,
        mean_weight=1.0 - first,
        square_weight=1.0 - second,
        **_gradient(of.gradient),
        **({} if of.copy is None else _rounded(of.master, of.copy)),
    )


def _gradient(gradient: Tensor) -> dict[str, int]:
    assert gradient.dtype in FORMATS
    assert gradient.device.type == "cpu"
    assert gradient.is_contiguous()
    return {
        "gradient": gradient.data_ptr(),
        "count": gradient.numel(),
        "bfloat": int(gradient.dtype == torch.bfloat16),
    }


def _rounded(master: Tensor, copy: RoundedCopy) -> dict[str, int]:
    assert master.dtype == torch.float32
    assert copy.weight.dtype == torch.bfloat16
    assert copy.weight.shape == master.shape
    assert copy.weight.is_contiguous()
    assert master.is_contiguous()
    return {"rounded": copy.weight.data_ptr(), "key": copy.key}


def _run(name: str, updates: Sequence[Update]) -> None:
    if not updates:
        return
    found = status()
    assert found.library is not None
    step = Step(
        updates=(Update * len(updates))(*updates),
        count=len(updates),
        threads=usable_cores(),
        instructions=INSTRUCTIONS.index(found.instructions),
    )
    getattr(found.library, name)(ctypes.byref(step))
