"""How the learning rate moves over a training run: up during warm-up, then down.

Main entry: `Schedule.factor`. Invariant: a factor depends on the step number alone, so a resumed run needs no
schedule state.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from conjure.errors import UsageError

ScheduleKind = Literal["cosine", "linear", "constant"]
SCHEDULE_KINDS: tuple[str, ...] = get_args(ScheduleKind)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Multiplier of the peak learning rate at each optimizer step.

    Attributes:
        kind: Shape of the way down, to 0 at `total_steps`; ``constant`` stays up.
        total_steps: Optimizer steps of the whole run.
        warmup_steps: Steps over which the factor rises linearly; the first step already learns.
    """

    kind: ScheduleKind
    total_steps: int
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        """Refuse an unknown shape."""
        if self.kind not in SCHEDULE_KINDS:
            raise UsageError(f"schedule is {self.kind!r}; allowed: {', '.join(SCHEDULE_KINDS)}")

    def factor(self, step: int) -> float:
        """The multiplier for step number `step`, counted from 0; within (0, 1] before `total_steps`."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.kind == "constant":
            return 1.0
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return 0.5 * (1.0 + math.cos(math.pi * progress)) if self.kind == "cosine" else 1.0 - progress
