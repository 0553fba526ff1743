"""The training loop: optimizer steps over blocks of tokens, told as a stream of events.

Main entry: `Trainer.run`. It prints nothing and writes nothing: whoever iterates over its events shows them
and saves what they call for, while the loop stands still. Invariants: the gradient of a step is that of the
mean loss over all its targets, however it is cut into micro-batches; and a run restored from `Trainer.state`
repeats the losses of the unbroken one bit for bit on the same machine.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from conjure.errors import TrainingError
from conjure.lm.loss import IGNORE, linear_cross_entropy, token_logprobs
from conjure.lm.model import GPT2
from conjure.lm.optimizer import MasterOptimizer, OptimizerBuilder
from conjure.lm.schedule import Schedule, ScheduleKind


@dataclass(frozen=True, slots=True)
class Batch:
    """Some blocks, ready for the model.

    Attributes:
        ids: Input token ids, int64, (B, T).
        targets: The token that follows each input, int64, (B, T); `IGNORE` where there is none.
        segments: Record number of each input, int64, (B, T), where attention must stay within a record;
            None lets a token see all before it in its block.
    """

    ids: Tensor
    targets: Tensor
    segments: Tensor | None = None


class BlockSource(Protocol):
    """Blocks of tokens by number."""

    def __len__(self) -> int:
        """How many blocks there are."""
        ...

    def batch(self, rows: Sequence[int]) -> Batch:
        """The blocks of these numbers, in this order."""
        ...


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How to train.

    Attributes:
        epochs: Passes over the training blocks.
        batch_size: Blocks per optimizer step.
        micro_batch: Blocks per forward pass; fewer than `batch_size` accumulate gradients, to the same end.
        schedule: Shape of the learning rate's way down.
        warmup_ratio: Share of all steps over which the learning rate rises.
        max_grad_norm: Gradients with a larger global 2-norm are scaled down to it; 0 leaves them alone.
        patience: Evaluations without a better held-out loss after which to stop; 0 never stops early.
        eval_every: Optimizer steps between evaluations.
        save_every: Optimizer steps between save points; 0 asks for none.
        seed: Of the block order and of dropout.
        max_steps: Most optimizer steps; None means as many as `epochs` takes.
    """

    epochs: int = 3
    batch_size: int = 8
    micro_batch: int = 8
    schedule: ScheduleKind = "cosine"
    warmup_ratio: float = 0.03
    max_grad_norm: float = 1.0
    patience: int = 3
    eval_every: int = 100
    save_every: int = 0
    seed: int = 42
    max_steps: int | None = None


@dataclass(frozen=True, slots=True)
class StepDone:
    """One optimizer step was made.

    Attributes:
        step: Steps made so far, this one included.
        loss: Mean nats per target token over the step, before its update.
        learning_rate_factor: Share of the peak learning rate it was made with.
        grad_norm: Global 2-norm of the gradient, before clipping.
        targets: Target tokens it learned from.
        seconds: Wall-clock time it took.
    """

    step: int
    loss: float
    learning_rate_factor: float
    grad_norm: float
    targets: int
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


Event = StepDone | Evaluated | SavePoint | Finished


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands; with the optimizer's tensors, all that resuming needs."""

    step: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    evaluations_without_gain: int = 0


@dataclass(frozen=True, slots=True)
class TrainingState:
    """A run's progress and tensors, as `Trainer.state` gives and `Trainer.restore` takes."""

    progress: Progress
    tensors: dict[str, Tensor] = field(repr=False)


class Trainer:
    """One training run over one model."""

    def __init__(
        self,
        model: GPT2,
        blocks: BlockSource,
        held_out: BlockSource,
        settings: TrainSettings,
        optimizer: OptimizerBuilder,
    ) -> None:
        if len(blocks) == 0:
            raise TrainingError("there is nothing to train on: the training text gives no block of tokens")
        self.model, self.blocks, self.held_out, self.settings = model, blocks, held_out, settings
        self.optimizer = MasterOptimizer(model, optimizer)
        self.progress = Progress()
        self._stop_requested = False
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))
        total = self.total_steps
        self.schedule = Schedule(settings.schedule, total, math.ceil(settings.warmup_ratio * total))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the blocks; the last may be a smaller one."""
        return math.ceil(len(self.blocks) / self.settings.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps the whole run makes unless it stops early."""
        steps = self.steps_per_epoch * self.settings.epochs
        return steps if self.settings.max_steps is None else min(steps, self.settings.max_steps)

    def stop(self) -> None:
        """Ask the loop to end after the step it is in; safe to call from a signal handler."""
        self._stop_requested = True

    def state(self) -> TrainingState:
        """All that another `Trainer` of the same settings needs to go on from here."""
        return TrainingState(self.progress, self.optimizer.state())

    def restore(self, state: TrainingState) -> None:
        """Go on from `state`."""
        self.progress = replace(state.progress)
        self.optimizer.restore(state.tensors)

    def run(self) -> Iterator[Event]:
        """Train to the end, yielding what happens; the loop waits while an event is looked at.

        Raises:
            TrainingError: The loss became NaN or infinite.
        """
        settings = self.settings
        while self.progress.step < self.total_steps:
            yield self._step()
            done = self.progress.step
            last = done == self.total_steps
            if last or done % settings.eval_every == 0:
                yield self._evaluate()
                if settings.patience and self.progress.evaluations_without_gain >= settings.patience:
                    yield Finished(done, "early_stop")
                    return
            if self._stop_requested and not last:
                yield Finished(done, "interrupted")
                return
            if settings.save_every and done % settings.save_every == 0 and not last:
                yield SavePoint(done)
        yield Finished(self.progress.step, "completed")

    def _step(self) -> StepDone:
        started = time.perf_counter()
        step = self.progress.step
        batches = list(self._micro_batches(step))
        targets = sum(int((batch.targets != IGNORE).sum()) for batch in batches)
        self.model.train()
        loss = 0.0
        for number, batch in enumerate(batches):
            self.model.dropout.reseed(self.settings.seed, step, number)
            part = self._loss(batch, divisor=float(targets))
            part.backward()
            self.optimizer.collect_gradients()
            loss += part.item()
        grad_norm = self.optimizer.clip(self.settings.max_grad_norm)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise TrainingError(
                f"the loss became {loss} (gradient norm {grad_norm}) at step {step + 1}; training stopped",
                fix="a lower --learning-rate, or --precision float32",
            )
        factor = self.schedule.factor(step)
        self.optimizer.step(factor)
        self.progress = replace(self.progress, step=step + 1)
        return StepDone(step + 1, loss, factor, grad_norm, targets, time.perf_counter() - started)

    def _micro_batches(self, step: int) -> Iterator[Batch]:
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.settings.batch_size
        rows = self._epoch_order(epoch)[start : start + self.settings.batch_size].tolist()
        for first in range(0, len(rows), self.settings.micro_batch):
            yield self._on_device(self.blocks.batch(rows[first : first + self.settings.micro_batch]))

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            generator = np.random.default_rng((self.settings.seed, epoch))
            self._order = (epoch, generator.permutation(len(self.blocks)))
        return self._order[1]

    def _on_device(self, batch: Batch) -> Batch:
        device = self.model.wte.weight.device
        segments = batch.segments.to(device) if batch.segments is not None else None
        return Batch(batch.ids.to(device), batch.targets.to(device), segments)

    def _loss(self, batch: Batch, divisor: float) -> Tensor:
        hidden = self.model(batch.ids, segments=batch.segments).flatten(0, 1)  # (B T, C)
        return linear_cross_entropy(hidden, self.model.wte.weight, batch.targets.flatten(), divisor=divisor)

    def _evaluate(self) -> Evaluated:
        loss = self.held_out_loss()
        before = self.progress
        improved = loss < before.best_loss
        self.progress = replace(
            before,
            best_loss=loss if improved else before.best_loss,
            best_step=before.step if improved else before.best_step,
            evaluations_without_gain=0 if improved else before.evaluations_without_gain + 1,
        )
        return Evaluated(before.step, loss, improved)

    def held_out_loss(self) -> float:
        """Mean nats per target token over the held-out blocks, as the model is now."""
        total, count = 0.0, 0
        self.model.eval()
        with torch.no_grad():
            for first in range(0, len(self.held_out), self.settings.micro_batch):
                rows = range(first, min(first + self.settings.micro_batch, len(self.held_out)))
                batch = self._on_device(self.held_out.batch(rows))
                hidden = self.model(batch.ids, segments=batch.segments).flatten(0, 1)
                total -= (
                    token_logprobs(hidden, self.model.wte.weight, batch.targets.flatten())
                    .double()
                    .sum()
                    .item()
                )
                count += int((batch.targets != IGNORE).sum())
        return total / count


def progress_to_dict(progress: Progress) -> dict[str, float]:
    """As JSON can hold it; an infinite best loss (no evaluation yet) is left out."""
    return {name: value for name, value in asdict(progress).items() if math.isfinite(value)}
