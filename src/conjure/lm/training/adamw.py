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
            gradients: By parameter, in any floating-point format.
            scale: What they are multiplied by.
            copies: By parameter, what it is rounded into once it is updated: up or down at random, or to the
                nearest where the compiled library cannot do it.
        """
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter in gradients]
            given = [gradients[parameter] for parameter in parameters]
            if optimizer.usable(given) and _are_for_library(parameters, copies):
                self._step_by_library(group, parameters, given, scale, copies)
            else:
                self._step_by_torch(group, parameters, given, scale, copies)

    def _step_by_library(
        self,
        group: dict[str, Any],
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        scale: float,
        copies: Mapping[Tensor, RoundedCopy],
    ) -> None:
        updates = []
        for parameter, gradient in zip(parameters, gradients, strict=True):
            state = self._state_of(parameter)
            state["step"] += 1
            updates.append(
                AdamWUpdate(
                    parameter,
                    state["exp_avg"],
                    state["exp_avg_sq"],
                    gradient,
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
        gradients: Sequence[Tensor],
        scale: float,
        copies: Mapping[Tensor, RoundedCopy],
    ) -> None:
        states = [self._state_of(parameter) for parameter in parameters]
        scaled = [gradient.float() if scale == 1.0 else gradient.float() * scale for gradient in gradients]
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
        _round_to_nearest({each: copies[each] for each in parameters if each in copies})

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
    if _are_for_library(list(copies), copies):
        optimizer.round_weights(copies)
    else:
        _round_to_nearest(copies)


def _are_for_library(parameters: Sequence[Tensor], copies: Mapping[Tensor, RoundedCopy]) -> bool:
    rounded = [copies[parameter].weight for parameter in parameters if parameter in copies]
    return (
        optimizer.usable([*parameters, *rounded])
        and all(parameter.dtype == torch.float32 for parameter in parameters)
        and all(weight.dtype == torch.bfloat16 for weight in rounded)
    )


def _round_to_nearest(copies: Mapping[Tensor, RoundedCopy]) -> None:
    for parameter, copy in copies.items():
        copy.weight.copy_(parameter)
