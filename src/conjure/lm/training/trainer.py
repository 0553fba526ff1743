"""The training loop: optimizer steps over blocks of tokens, told as a stream of events.

Main entry: `Trainer.run`. It prints nothing and writes nothing: whoever iterates over its events shows them
and saves what they call for, while the loop stands still. Invariants: the gradient of a step is that of the
mean loss over all its targets, however it is cut into micro-batches; equal micro-batches give equal losses
and weights bit for bit, whatever the number of processes that share them; and a run restored from
`Trainer.state` repeats the losses of the unbroken one bit for bit on the same machine.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from conjure.errors import TrainingError, option
from conjure.lm.models.base import CausalLM
from conjure.lm.nn.centred_head import scoring_head
from conjure.lm.nn.loss import linear_cross_entropy, token_logprobs
from conjure.lm.training.distributed.pairwise_sum import PairwiseSum, Span
from conjure.lm.training.distributed.process_group import Gradients, ProcessGroup, add_gradients
from conjure.lm.training.events import Evaluated, Event, Finished, SavePoint, StepDone
from conjure.lm.training.lora import merge_lora
from conjure.lm.training.master_weights import MasterOptimizer, OptimizerBuilder
from conjure.lm.training.packing import Batch
from conjure.lm.training.schedule import Schedule, ScheduleKind

_COMPARE_EVERY = 100  # steps, after which several processes compare their weights


class BlockSource(Protocol):
    """Blocks of tokens by number; `conjure.lm.training.packing.Blocks` is one."""

    def __len__(self) -> int:
        """How many blocks there are."""
        ...

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The blocks of these numbers, as rows."""
        ...

    def order(self, epoch: int, seed: int) -> list[int]:
        """The order of the blocks in one epoch, which (seed, epoch) alone decides."""
        ...


class MeasuredBlocks(BlockSource, Protocol):
    """Blocks to measure the loss on; `conjure.lm.training.packing.Blocks` is such, too."""

    def counting(self, most: int) -> list[int]:
        """The numbers of the first so many blocks that have a target."""
        ...


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How to train.

    Attributes:
        epochs: Passes over the training blocks; a fraction ends within a pass.
        batch_size: Blocks per optimizer step.
        micro_batch: Blocks per forward pass; fewer than `batch_size` accumulate gradients, to the same end.
        schedule: Shape of the learning rate's way down.
        warmup_ratio: Share of all steps over which the learning rate rises.
        max_grad_norm: Gradients with a larger global 2-norm are scaled down to it; 0 leaves them alone.
        patience: Evaluations without a better held-out loss after which to stop; 0 never stops early.
        eval_every: Optimizer steps between evaluations; there is one before the first step too.
        eval_blocks: Most held-out blocks an evaluation reads.
        save_every: Optimizer steps between save points; 0 asks for none.
        mask_records: Keep attention within each record; else a token sees all before it in its block.
        seed: Of the block order and of dropout.
        max_steps: Most optimizer steps; None means as many as `epochs` takes.
    """

    epochs: float = 3
    batch_size: int = 8
    micro_batch: int = 8
    schedule: ScheduleKind = "cosine"
    warmup_ratio: float = 0.03
    max_grad_norm: float = 1.0
    patience: int = 3
    eval_every: int = 100
    eval_blocks: int = 256
    save_every: int = 0
    mask_records: bool = False
    seed: int = 42
    max_steps: int | None = None


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
    """One training run over one model.

    Args of the constructor:
        model: In float32, on the device to train on; it is rounded to `dtype`.
        blocks: What to learn from.
        held_out: What to measure on; None leaves evaluations out.
        settings: How to train.
        optimizer: Makes the optimizers.
        dtype: Number format of forward and backward passes; masters and optimizer stay float32.
        compiled: Whether to have torch compile the layers, which takes a while at the first step.
        group: The processes that share the work, of which this is one; they were given equal models, blocks
            and settings.
    """

    def __init__(
        self,
        model: CausalLM,
        blocks: BlockSource,
        held_out: MeasuredBlocks | None,
        settings: TrainSettings,
        optimizer: OptimizerBuilder,
        dtype: torch.dtype = torch.float32,
        *,
        compiled: bool = False,
        group: ProcessGroup | None = None,
    ) -> None:
        if len(blocks) == 0:
            raise TrainingError("there is nothing to train on: the training text has no block of tokens")
        self.model, self.blocks, self.held_out, self.settings = model, blocks, held_out, settings
        self.optimizer = MasterOptimizer(model, optimizer, dtype)
        self.group = group if group is not None else ProcessGroup()
        if compiled:
            for block in model.blocks:
                block.compile()
        self.progress, self._exact = Progress(), dtype == torch.float32
        self._stop_requested = False
        self._order: tuple[int, list[int]] = (-1, [])
        total = self.total_steps
        self.schedule = Schedule(settings.schedule, total, math.ceil(settings.warmup_ratio * total))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the blocks; the last may be a smaller one."""
        return math.ceil(len(self.blocks) / self.settings.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps the whole run makes unless it stops early."""
        steps = math.ceil(self.steps_per_epoch * self.settings.epochs)
        return steps if self.settings.max_steps is None else min(steps, self.settings.max_steps)

    def stop(self) -> None:
        """Ask the loop to end after the step it is in, in all processes; safe in a signal handler."""
        self._stop_requested = True

    def state(self) -> TrainingState:
        """All that another `Trainer` of the same settings needs to go on from here."""
        return TrainingState(self.progress, self.optimizer.state())

    def restore(self, state: TrainingState) -> None:
        """Go on from `state`; a training that had ended there ends again, without another step.

        A best loss of infinity makes the weights of `state` the best so far.
        """
        self.progress = replace(state.progress)
        self.optimizer.restore(state.tensors, self._rounding_key(state.progress.step))

    def _rounding_key(self, step: int) -> tuple[int, ...]:
        # No key of dropout's, (seed, step, micro-batch), is like it: zeros at a key's end do not count.
        return self.settings.seed, step, 0, 1

    def run(self) -> Iterator[Event]:
        """Train to the end, yielding what happens; the loop waits while an event is looked at.

        Raises:
            TrainingError: The loss became NaN or infinite, or the processes of a group have other weights.
        """
        settings = self.settings
        self._check_weights()
        ended_early = self._gains_nothing and self.progress.step < self.total_steps
        if self.progress.best_loss == math.inf and self.held_out is not None:
            yield self._evaluate()
        if ended_early:  # before it was restored
            yield Finished(self.progress.step, "early_stop")
            return
        while self.progress.step < self.total_steps:
            with self.group.working(("step", len(self._rows(self.progress.step)))):
                step_done = self._step()
            yield step_done
            done = self.progress.step
            last = done == self.total_steps
            if done % _COMPARE_EVERY == 0:
                self._check_weights()
            if self.held_out is not None and (last or done % settings.eval_every == 0):
                yield self._evaluate()
                if self._gains_nothing and not last:
                    yield Finished(done, "early_stop")
                    return
            if not last and self.group.any(flag=self._stop_requested):
                yield Finished(done, "interrupted")
                return
            if settings.save_every and done % settings.save_every == 0 and not last:
                yield SavePoint(done)
        yield Finished(self.progress.step, "completed")

    @property
    def _gains_nothing(self) -> bool:
        """Whether patience has run out."""
        return self.progress.evaluations_without_gain >= self.settings.patience > 0

    def _check_weights(self) -> None:
        with self.group.working("weights"):
            self.group.check_weights(self.optimizer.master_weights, self.progress.step)

    def _step(self) -> StepDone:
        started = time.perf_counter()
        step = self.progress.step
        loss, targets, tokens = self._gradients(step)
        grad_norm = self.optimizer.clip(self.settings.max_grad_norm)
        if not all(math.isfinite(each) for each in (loss, grad_norm) if each is not None):
            raise TrainingError(
                f"the loss became {loss} (gradient norm {grad_norm}) at step {step + 1}; training stopped",
                hint=f"use a lower {option('learning_rate')}"
                + ("" if self._exact else f", or {option('precision', 'float32')}"),
            )
        factor = self.schedule.factor(step)
        self.optimizer.step(factor, self._rounding_key(step + 1))
        self.progress = replace(self.progress, step=step + 1)
        seconds = time.perf_counter() - started
        return StepDone(step + 1, loss, factor, grad_norm, targets, tokens, seconds)

    def _gradients(self, step: int) -> tuple[float | None, int, int]:
        """Collect the gradients of a step; its mean loss, how many targets it has, and tokens that it reads.

        Where a GPU's memory does not suffice after all, the micro-batch is halved for good.
        """
        while True:
            try:
                return self._accumulate(step)
            except torch.OutOfMemoryError as error:
                size = self.settings.micro_batch
                if size > 1 and self.group.size > 1:  # whose micro-batches have to stay equal
                    raise TrainingError(
                        f"{size} blocks of tokens do not fit in memory: {str(error).splitlines()[0]}",
                        hint=f"a lower {option('batch_size')} with more {option('grad_accumulation')}",
                    ) from error
                if size == 1:
                    raise TrainingError(
                        f"one block of tokens does not fit in memory: {str(error).splitlines()[0]}",
                        hint=f"a shorter {option('block_size')}, {option('freeze')}, {option('lora')}, or a"
                        " smaller model",
                    ) from error
            self.settings = replace(self.settings, micro_batch=(size + 1) // 2)
            self.optimizer.forget_gradients()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _accumulate(self, step: int) -> tuple[float | None, int, int]:
        batches = list(self._micro_batches(step))
        targets = sum(batch.target_count for batch in batches)
        tokens = sum(batch.token_count for batch in batches)
        weight = sum(batch.total_weight for batch in batches)
        self.model.train()
        losses = []
        sums = PairwiseSum[Gradients](len(batches), add_gradients)
        for number in self.group.share(len(batches)):
            self.model.dropout.reseed(self.settings.seed, step, number)
            # Of long prompts, a step may have no target.
            part = self._loss(batches[number], divisor=weight or 1.0)
            part.backward()
            sums.put(Span(number, number + 1), self.optimizer.take_gradients())
            losses.append(part.item())
        self.optimizer.set_gradients(self.group.total(sums, self.optimizer.trained))
        loss = sum(self.group.gather(losses, len(batches)))
        return (loss if weight else None), targets, tokens

    def _micro_batches(self, step: int) -> Iterator[Batch]:
        rows = self._rows(step)
        for first in range(0, len(rows), self.settings.micro_batch):
            yield self.blocks.batch(rows[first : first + self.settings.micro_batch])

    def _rows(self, step: int) -> list[int]:
        """Numbers of the blocks of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.settings.batch_size
        return self._epoch_order(epoch)[start : start + self.settings.batch_size]

    def _epoch_order(self, epoch: int) -> list[int]:
        if self._order[0] != epoch:
            self._order = (epoch, self.blocks.order(epoch, self.settings.seed))
        return self._order[1]

    def _hidden(self, batch: Batch) -> Tensor:
        """Hidden states of a batch, (B T, C)."""
        device = self.model.device
        segments = batch.segments.to(device) if self.settings.mask_records else None
        return self.model(batch.ids.to(device), segments=segments).flatten(0, 1)

    def _loss(self, batch: Batch, divisor: float) -> Tensor:
        hidden = self._hidden(batch)
        targets = batch.targets.flatten().to(hidden.device)
        weights = batch.weights.flatten().to(hidden.device) if batch.weights is not None else None
        return linear_cross_entropy(hidden, self.model.head_weight, targets, divisor=divisor, weights=weights)

    def _evaluate(self) -> Evaluated:
        with self.group.working("evaluation"):
            loss = self.eval_loss()
        before = self.progress
        improved = loss < before.best_loss
        self.progress = replace(
            before,
            best_loss=loss if improved else before.best_loss,
            best_step=before.step if improved else before.best_step,
            evaluations_without_gain=0 if improved else before.evaluations_without_gain + 1,
        )
        return Evaluated(before.step, loss, improved)

    def eval_loss(self) -> float:
        """Mean nats per target token over the held-out blocks, as the model is now; NaN without any."""
        if self.held_out is None:
            return math.nan
        blocks, size = self.held_out.counting(self.settings.eval_blocks), self.settings.micro_batch
        batches = [blocks[first : first + size] for first in range(0, len(blocks), size)]
        sums, counts = [], []
        self.model.eval()
        with torch.inference_mode():
            head = scoring_head(self.model.head_weight)
            for number in self.group.share(len(batches)):
                batch = self.held_out.batch(batches[number])
                hidden = self._hidden(batch)
                targets = batch.targets.flatten().to(hidden.device)
                sums.append(token_logprobs(hidden, head, targets).double().sum().item())
                counts.append(batch.target_count)
        total = sum(self.group.gather(sums, len(batches)))
        count = sum(self.group.gather(counts, len(batches)))
        return -total / count if count else math.nan

    def full_precision_model(self) -> CausalLM:
        """The model as trained so far, in float32 and `eval` mode; it shares the master weights.

        What `conjure.lm.training.lora` added is merged into the matrices it belongs to.
        """
        model = self.model.empty_copy()
        model.load_state_dict(merge_lora(self.optimizer.full_precision()), assign=True)
        return model.eval()
