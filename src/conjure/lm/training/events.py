"""What a training run reports while it goes on.

Main entries: `Event`, of the training loop; `TuningEvent`, of a whole fine-tune. Invariant: plain values;
whoever reads them needs no torch.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conjure.lm.generation.generate import Sample


@dataclass(frozen=True, slots=True)
class StepDone:
    """One optimizer step was made.

    Attributes:
        step: Steps made so far, this one included.
        loss: Mean nats per target token over the step, before its update; weighted, where targets are. None
            where there is no target: of conversations, a step may have read questions only.
        learning_rate_factor: Share of the peak learning rate it was made with.
        grad_norm: Global 2-norm of the gradient, before clipping.
        targets: Target tokens it learned from.
        tokens: Tokens it read.
        seconds: Wall-clock time it took.
    """

    step: int
    loss: float | None
    learning_rate_factor: float
    grad_norm: float
    targets: int
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The held-out loss was measured.

    Attributes:
        step: Steps made so far.
        loss: Mean nats per held-out token.
        improved: Whether it is the lowest so far: the weights are worth keeping now.
    """

    step: int
    loss: float
    improved: bool


@dataclass(frozen=True, slots=True)
class SavePoint:
    """A good moment to save `Trainer.state`."""

    step: int


@dataclass(frozen=True, slots=True)
class Finished:
    """Training ended.

    Attributes:
        step: Steps made in all.
        reason: ``completed``, ``early_stop`` (patience ran out) or ``interrupted`` (`Trainer.stop` was
            called; its state is worth saving).
    """

    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class Sampled:
    """The model wrote some samples, after `step` steps."""

    step: int
    samples: "list[Sample]"


@dataclass(frozen=True, slots=True)
class Saved:
    """The best checkpoint so far is in the output folder."""

    step: int


Event = StepDone | Evaluated | SavePoint | Finished
TuningEvent = Event | Sampled | Saved
