"""AdamW, by our own compiled pass or torch's fused kernel, without what `torch.optim.Optimizer` loads.

Main entry: `AdamW`. torch's own class imports its compiler when it is made, which takes longer than a small
fine-tune's first steps; the kernel below it needs none of that. Invariant: the updates of
``torch.optim.AdamW(fused=True)`` but for the last bits, and the same names in its state.

Source: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization".
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from conjure.lm.native import optimizer
from conjure.lm.native.optimizer import AdamWUpdate, RoundedCopy

BETAS = (0.9, 0.999)
EPSILON = 1e-8
NO_COPIES: Mapping[Tensor, RoundedCopy] = {}


class AdamW:
    """Updates parameters by their gradients.

    Attributes:
        param_groups: Each with ``params``, ``lr``, ``eps`` and ``weight_decay``.
        state: Of each parameter that was updated: ``step``, ``exp_avg`` and ``exp_avg_sq``.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], learning_rate: float) -> None:
        self.param_groups = [{"lr": learning_rate, "eps": EPSILON, **group} for group in groups]
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(
        self,
        gradients: Mapping[Tensor, Tensor],
        scale: float = 1.0,
        copies: Mapping[Tensor, RoundedCopy] = NO_COPIES,
    ) -> None:
        """Update every parameter that has a gradient.

        Args:
            gradients: By parameter, in any floating-point format; they may be changed.
            scale: What they are multiplied by.
            copies: By parameter, what it is rounded into once it is updated: up or down at random, or to the
                nearest where the compiled library cannot do it.
        """
        for group in self.param_groups:
            for_library, for_torch = [], []
            for parameter in group["params"]:
                if parameter in gradients:
                    takes_library = _is_for_library(parameter, copies.get(parameter))
                    (for_library if takes_library else for_torch).append(parameter)
            self._step_by_library(group, for_library, gradients, scale, copies)
            self._step_by_torch(group, for_torch, gradients, scale)
            _round_to_nearest({each: copies[each] for each in for_torch if each in copies})

    def _step_by_library(
        self,
        group: dict[str, Any],
        parameters: Sequence[Tensor],
        gradients: Mapping[Tensor, Tensor],
        scale: float,
        copies: Mapping[Tensor, RoundedCopy],
    ) -> None:
        updates = []
        for parameter in parameters:
            state = self._state_of(parameter)
            state["step"] += 1
            updates.append(
                AdamWUpdate(
                    parameter,
                    state["exp_avg"],
                    state["exp_avg_sq"],
                    gradients[parameter].contiguous(),
                    copies.get(parameter),
                    steps=int(state["step"]),
                    rate=group["lr"],
                    decay=group["weight_decay"],
                    betas=BETAS,
                    epsilon=group["eps"],
                )
            )
        optimizer.update(updates, scale)

    def _step_by_torch(
        self,
        group: dict[str, Any],
        parameters: Sequence[Tensor],
        gradients: Mapping[Tensor, Tensor],
        scale: float,
    ) -> None:
        if not parameters:
            return
        states = [self._state_of(parameter) for parameter in parameters]
        scaled = [gradients[parameter].float() for parameter in parameters]
        if scale != 1.0:
            torch._foreach_mul_(scaled, scale)  # pyright: ignore[reportPrivateImportUsage]
        adamw(
            list(parameters),
            scaled,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        if parameter not in self.state:
            # torch's kernel counts where it computes: on a GPU, the count has to be there, too.
            self.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return self.state[parameter]


@torch.no_grad()
def round_weights(copies: Mapping[Tensor, RoundedCopy]) -> None:
    """Round weights into their copies as `AdamW.step` does."""
    for_library = {each: copy for each, copy in copies.items() if _is_for_library(each, copy)}
    optimizer.round_weights(for_library)
    _round_to_nearest({each: copy for each, copy in copies.items() if each not in for_library})


def _is_for_library(parameter: Tensor, copy: RoundedCopy | None) -> bool:
    """Whether the library updates a parameter and rounds it, which does not depend on a gradient."""
    if copy is None:
        return parameter.dtype == torch.float32 and optimizer.usable([parameter])
    formats = (parameter.dtype, copy.weight.dtype) == (torch.float32, torch.bfloat16)
    return formats and optimizer.usable([parameter, copy.weight])


def _round_to_nearest(copies: Mapping[Tensor, RoundedCopy]) -> None:
    for parameter, copy in copies.items():
        copy.weight.copy_(parameter)
