"""AdamW, by torch's fused kernel, without what `torch.optim.Optimizer` loads.

Main entry: `AdamW`. torch's own class imports its compiler when it is made, which takes longer than a small
fine-tune's first steps; the kernel below it needs none of that. Invariant: the same updates as
``torch.optim.AdamW(fused=True)``, bit for bit, and the same names in its state.

Source: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization".
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class AdamW:
    """Updates parameters by their `grad`.

    Attributes:
        param_groups: Each with ``params``, ``lr``, ``eps`` and ``weight_decay``.
        state: Of each parameter that was updated: ``step``, ``exp_avg`` and ``exp_avg_sq``.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], learning_rate: float) -> None:
        self.param_groups = [{"lr": learning_rate, "eps": EPSILON, **group} for group in groups]
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self._state_of(parameter) for parameter in parameters]
            adamw(
                parameters,
                [parameter.grad for parameter in parameters],
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

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        if parameter not in self.state:
            # The kernel counts where it computes: on a GPU, the count has to be there, too.
            self.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return self.state[parameter]
