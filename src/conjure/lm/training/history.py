"""The losses of a training as its curves show them, and what it came to.

Main entries: `History`, `Trained`. Invariant: a history read back from JSON equals the one written.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from conjure.lm.report.report_schema import CurvePoint
from conjure.lm.training.events import Evaluated, StepDone, TuningEvent


@dataclass
class History:
    """The losses of a run, as its curves show them.

    Attributes:
        train: (step, mean nats per token) of every step that has a target.
        held_out: (step, mean nats per token) of every evaluation.
        tokens: Tokens read in steps.
        seconds: Time spent in steps.
    """

    train: list[tuple[int, float]] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "History":
        """What `to_dict` gave."""
        curves = {name: [(step, loss) for step, loss in saved[name]] for name in ("train", "held_out")}
        # Before 0.2, targets were counted: of plain text, as many.
        return cls(**curves, tokens=saved.get("tokens", saved.get("targets", 0)), seconds=saved["seconds"])

    def points(self) -> list[CurvePoint]:
        """The curves point by point, for a report."""
        train, held_out = dict(self.train), dict(self.held_out)
        steps = sorted({*train, *held_out})
        return [CurvePoint(step, train.get(step), held_out.get(step)) for step in steps]

    def note(self, event: TuningEvent) -> None:
        """Keep what `event` tells."""
        if isinstance(event, StepDone):
            if event.loss is not None:
                self.train.append((event.step, event.loss))
            self.tokens += event.tokens
            self.seconds += event.seconds
        elif isinstance(event, Evaluated):
            self.held_out.append((event.step, event.loss))


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training came to: the last of its events.

    Attributes:
        reason: ``completed``, ``early_stop`` or ``interrupted``.
        steps: Optimizer steps made.
        best_step: The step whose weights are kept.
        history: Losses as they came, those before an interruption included.
    """

    reason: str
    steps: int
    best_step: int
    history: History

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped before its end, its state saved."""
        return self.reason == "interrupted"
