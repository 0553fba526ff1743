"""Optimizing float32 master weights of a model that computes in a faster format.

Main entries: `MasterOptimizer`, `adamw`. A bfloat16 weight cannot hold a small update (8 bits of mantissa),
so each has a float32 master that is updated and then rounded into it. Invariants: a float32 model is its own
master, and nothing is copied; the seed and the step alone decide how a master is rounded (where the compiled
library cannot do it, to the nearest number).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from conjure.lm.native.optimizer import RoundedCopy, gradient_norm, usable
from conjure.lm.training.adamw import AdamW, round_weights


class Optimizer(Protocol):
    """What updates parameters by their gradients: `AdamW`, or a kind of it."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Parameters that are updated alike, and how."""
        ...

    @property
    def state(self) -> Any:
        """Of each parameter, its values by name."""
        ...

    def step(
        self, gradients: Mapping[Tensor, Tensor], scale: float, copies: Mapping[Tensor, RoundedCopy]
    ) -> None:
        """Update every parameter that has a gradient, times `scale`, and round it into its copy."""
        ...


OptimizerBuilder = Callable[[Mapping[str, nn.Parameter]], Sequence[Optimizer]]
"""Given every trainable master by name, the optimizers that together update each of them once."""


def adamw(learning_rate: float, weight_decay: float) -> OptimizerBuilder:
    """AdamW with decay on matrices only: biases and norms have nothing to gain from being small.

    Args:
        learning_rate: The peak; the schedule's factor multiplies it.
        weight_decay: Per step, times the learning rate (decoupled: Loshchilov & Hutter 2019).
    """

    def build(master_weights: Mapping[str, nn.Parameter]) -> list[Optimizer]:
        matrices = [master for master in master_weights.values() if master.dim() >= 2]
        vectors = [master for master in master_weights.values() if master.dim() < 2]
        groups = [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        present = [group for group in groups if group["params"]]
        return [AdamW(present, learning_rate)]

    return build


class MasterOptimizer:
    """The optimizers of one training run, and the master weights they update.

    Making one rounds `model` itself to `dtype`; `full_precision` has what was rounded away.
    """

    def __init__(self, model: nn.Module, build: OptimizerBuilder, dtype: torch.dtype = torch.float32) -> None:
        exact = {name: weight.detach() for name, weight in model.named_parameters()}
        model.to(dtype)
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._rounded = dtype != torch.float32
        self.master_weights = {
            name: nn.Parameter(exact[name].float()) if self._rounded else weight
            for name, weight in self._weights.items()
        }
        self._gradients: Mapping[Tensor, Tensor] = {}
        self._scale = 1.0
        self._frozen = {name: weight for name, weight in exact.items() if name not in self.master_weights}
        self._optimizers = build(self.master_weights)
        for group in self._groups():
            group["peak_lr"] = group["lr"]

    def full_precision(self) -> dict[str, Tensor]:
        """Every weight of the model by name, trained or frozen, unrounded."""
        return {**self._frozen, **{name: master.detach() for name, master in self.master_weights.items()}}

    def _groups(self) -> Iterable[dict]:
        return (group for optimizer in self._optimizers for group in optimizer.param_groups)

    @property
    def trained(self) -> list[nn.Parameter]:
        """The masters, in the order in which their gradients are taken and given."""
        return list(self.master_weights.values())

    def take_gradients(self) -> list[Tensor]:
        """The model's gradients, in its format; the model no longer has them. Call after each micro-batch."""
        taken = []
        for weight in self._weights.values():
            taken.append(torch.zeros_like(weight) if weight.grad is None else weight.grad)
            weight.grad = None
        return taken

    def set_gradients(self, gradients: Iterable[Tensor]) -> None:
        """Give the masters their gradients for a step, in any format."""
        self._gradients = dict(zip(self.master_weights.values(), gradients, strict=True))

    def forget_gradients(self) -> None:
        """Drop what was collected of a step that could not be finished."""
        for weight in self._weights.values():
            weight.grad = None
        self._gradients, self._scale = {}, 1.0

    def clip(self, max_norm: float) -> float:
        """Have the next step scale gradients down to a global 2-norm of `max_norm` if it is larger.

        Returns:
            The norm before scaling.
        """
        norm = _norm(list(self._gradients.values()))
        self._scale = min(1.0, max_norm / (norm + 1e-6)) if max_norm > 0 else 1.0
        return norm

    def step(self, factor: float, key: Sequence[int]) -> None:
        """Update every master at `factor` times its peak learning rate, and round it into the model.

        Args:
            factor: That of the schedule.
            key: Decides how weights are rounded: whole numbers >= 0, as (seed, step).
        """
        for group in self._groups():
            group["lr"] = group["peak_lr"] * factor
        copies = self._copies(key)
        for optimizer in self._optimizers:
            optimizer.step(self._gradients, self._scale, copies)
        self._gradients, self._scale = {}, 1.0

    def _copies(self, key: Sequence[int]) -> dict[Tensor, RoundedCopy]:
        """What each master is rounded into."""
        if not self._rounded:
            return {}
        keys = np.random.SFC64(np.random.SeedSequence(key)).random_raw(len(self._weights)).tolist()
        pairs = zip(self.master_weights.values(), self._weights.values(), keys, strict=True)
        return {master: RoundedCopy(weight, own_key) for master, weight, own_key in pairs}

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on, flat by name: masters, and each optimizer's own tensors."""
        tensors = {f"master.{name}": master.detach() for name, master in self.master_weights.items()}
        names: dict[Tensor, str] = {master: name for name, master in self.master_weights.items()}
        for index, optimizer in enumerate(self._optimizers):
            for master, values in optimizer.state.items():
                for key, value in values.items():
                    tensors[f"optimizer.{index}.{key}.{names[master]}"] = torch.as_tensor(value)
        return tensors

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], key: Sequence[int]) -> None:
        """Take up a `state` again, in an object built the same way; `key` is that of the last step."""
        for name, master in self.master_weights.items():
            master.copy_(tensors[f"master.{name}"])
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind != "optimizer":
                continue
            index, name_of_value, master_name = rest.split(".", 2)
            master = self.master_weights[master_name]
            values = self._optimizers[int(index)].state.setdefault(master, {})
            values[name_of_value] = tensor.to(master.device, copy=True)
        round_weights(self._copies(key))


def _norm(gradients: Sequence[Tensor]) -> float:
    """The 2-norm of all gradients together."""
    if usable(gradients):
        return gradient_norm(gradients)
    norms = torch._foreach_norm(list(gradients), 2.0, torch.float32)  # pyright: ignore[reportPrivateImportUsage]
    return float(torch.stack(norms).norm())
