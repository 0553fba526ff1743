"""Training and measuring as ``run_lm_finetuning.py`` did, over conjure's model.

Main entries: `read_blocks`, `Training`, `evaluate`. Invariant: with equal weights, text and seed every loss
is that of the 2019 loop on today's torch, dropout included: random numbers are drawn from torch's global
generator in the same order (tests/parity/test_compat_finetuning.py).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from conjure.compat.text import encode
from conjure.core.text import error_text
from conjure.errors import DataError, NotFoundError, TrainingError, UsageError
from conjure.lm.models.base import CausalLM
from conjure.lm.native.optimizer import RoundedCopy
from conjure.lm.nn.dropout import Dropout
from conjure.lm.nn.loss import IGNORE, linear_cross_entropy, token_logprobs
from conjure.lm.text.tokenizer import Tokenizer
from conjure.lm.training.adamw import BETAS, NO_COPIES, AdamW
from conjure.lm.training.master_weights import MasterOptimizer, Optimizer, OptimizerBuilder


@dataclass(frozen=True, kw_only=True)
class OldTraining:
    """The options of ``run_lm_finetuning.py`` that decide what is learned; named as its flags are.

    Attributes:
        per_gpu_train_batch_size: Blocks per forward pass.
        gradient_accumulation_steps: Forward passes per update.
        num_train_epochs: Passes over the text: its whole part; the schedule is laid out for all of it.
        max_steps: Above 0, updates instead of epochs.
        learning_rate: The peak.
        warmup_steps: Updates over which the rate rises from 0.
        weight_decay: Of everything but biases; GPT-2's norms, too.
        adam_epsilon: AdamW's.
        max_grad_norm: Longer gradients are scaled down to this.
        seed: Of the order of blocks and of dropout.
    """

    per_gpu_train_batch_size: int = 4
    gradient_accumulation_steps: int = 1
    num_train_epochs: float = 1.0
    max_steps: int = -1
    learning_rate: float = 5e-5
    warmup_steps: int = 0
    weight_decay: float = 0.0
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    seed: int = 42


@dataclass(frozen=True, slots=True)
class Update:
    """The weights were updated.

    Attributes:
        step: Updates so far.
        learning_rate: Of the next update.
        loss_sum: Of all forward passes so far, each divided by the accumulation steps.
    """

    step: int
    learning_rate: float
    loss_sum: float


def read_blocks(path: Path, tokenizer: Tokenizer, block_size: int) -> tuple[Tensor, int]:
    """A text file as one run of tokens, cut into blocks; the tail that fills none is dropped.

    Args:
        path: A UTF-8 text file.
        tokenizer: The model's.
        block_size: Tokens in a block, T.

    Returns:
        Token ids, int64, (N, T), N at least 1; and how many tokens were dropped.

    Raises:
        NotFoundError: There is no such file.
        DataError: It cannot be read, is not UTF-8, or does not fill one block.
    """
    ids = encode(tokenizer, _read_text(path))
    count, dropped = divmod(len(ids), block_size)
    if count == 0:
        raise DataError(
            f"{path} has {len(ids):,} tokens, which do not fill one block of {block_size:,}",
            fix=f"--block_size {max(2, len(ids))}" if len(ids) >= 2 else None,
        )
    return torch.tensor(ids[: count * block_size]).view(count, block_size), dropped


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise NotFoundError(f"{path} is not a file" if path.exists() else f"file {path} does not exist")
    try:
        return path.read_text(encoding="utf-8")  # line ends become \n, as in 2019
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: byte {error.start:,} cannot be read") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error_text(error)}") from error


class Training:
    """One training run.

    Attributes:
        total_steps: What the learning rate's schedule is laid out for; not always a whole number.
        epochs: Passes over the blocks it makes at most.
        updates: Updates it will make.
        step: Updates made so far.
        loss_sum: Of all forward passes so far, each divided by the accumulation steps.
    """

    def __init__(self, model: CausalLM, blocks: Tensor, settings: OldTraining) -> None:
        """Prepare to train `model`, in place, on `blocks`, int64, (N, T).

        Raises:
            UsageError: The settings make no update.
        """
        self.model, self.settings, self._blocks = model, settings, blocks
        self.step, self.loss_sum = 0, 0.0
        self._stop_requested = False
        updates_per_epoch = self._updates_per_epoch()
        if settings.max_steps > 0:
            self.total_steps: float = settings.max_steps
            self.epochs = settings.max_steps // updates_per_epoch + 1
            self.updates = settings.max_steps + 1  # as the script's own test had it; the last changes nothing
        else:
            self.total_steps = updates_per_epoch * settings.num_train_epochs
            self.epochs = int(settings.num_train_epochs)
            self.updates = self.epochs * updates_per_epoch
        if self.updates == 0:
            raise UsageError(
                f"--num_train_epochs is {settings.num_train_epochs}: only whole epochs are trained, and this"
                " is less than one",
                hint="--num_train_epochs 1, or --max_steps for less than an epoch",
            )
        _draw_dropout_from_torch(model)
        self._optimizer = MasterOptimizer(model, old_adamw(settings))

    def _updates_per_epoch(self) -> int:
        batches = math.ceil(len(self._blocks) / self.settings.per_gpu_train_batch_size)
        updates = batches // self.settings.gradient_accumulation_steps
        if updates == 0:
            raise UsageError(
                f"--gradient_accumulation_steps is {self.settings.gradient_accumulation_steps} and an epoch"
                f" has only {batches} batches, so no update would ever be made",
                fix=f"--gradient_accumulation_steps {batches}",
            )
        return updates

    def stop(self) -> None:
        """Ask the loop to end after the forward pass it is in; safe to call from a signal handler."""
        self._stop_requested = True

    def run(self) -> Iterator[Update]:
        """Train to the end; the loop waits while an update is looked at.

        Raises:
            TrainingError: The loss became NaN or infinite.
        """
        accumulation, most = self.settings.gradient_accumulation_steps, self.settings.max_steps
        torch.manual_seed(self.settings.seed)
        for _ in range(self.epochs):
            for number, batch in enumerate(self._shuffled_batches(), 1):
                self._accumulate(batch)
                if number % accumulation == 0:
                    yield self._update()
                if self._stop_requested or self.step > most > 0:
                    return
            # Gradients of batches left over are neither applied nor cleared: the next epoch's first update
            # has them, as in 2019.

    def _shuffled_batches(self) -> DataLoader[Tensor]:
        size = self.settings.per_gpu_train_batch_size
        return DataLoader(self._blocks, size, sampler=RandomSampler(self._blocks))  # pyright: ignore[reportArgumentType]

    def _accumulate(self, batch: Tensor) -> None:
        self.model.train()
        ids = batch.to(self.model.device)  # (B, T)
        B, T = ids.shape
        divisor = B * (T - 1) * self.settings.gradient_accumulation_steps
        hidden = self.model(ids).flatten(0, 1)  # (B T, C)
        loss = linear_cross_entropy(hidden, self.model.head_weight, next_tokens(ids), divisor=divisor)
        loss.backward()
        self.loss_sum += loss.item()
        if not math.isfinite(self.loss_sum):
            raise TrainingError(
                f"the loss became {loss.item()} after {self.step:,} steps; training stopped",
                hint="a lower --learning_rate",
            )

    def _update(self) -> Update:
        self._optimizer.set_gradients(self._optimizer.take_gradients())
        self._optimizer.clip(self.settings.max_grad_norm)
        factor = linear_factor(self.step, self.settings.warmup_steps, self.total_steps)
        self._optimizer.step(factor, (self.settings.seed, self.step))
        self.step += 1
        factor = linear_factor(self.step, self.settings.warmup_steps, self.total_steps)
        return Update(self.step, self.settings.learning_rate * factor, self.loss_sum)


def evaluate(
    model: CausalLM, blocks: Tensor, batch_size: int, on_batch: Callable[[], None] = lambda: None
) -> float:
    """Mean over batches of the mean loss in a batch, nats per token; a short last batch counts like others.

    Args:
        model: In any mode.
        blocks: Token ids, int64, (N, T).
        batch_size: Blocks per forward pass.
        on_batch: Called after each.
    """
    model.eval()
    losses = []
    with torch.inference_mode():
        for batch in DataLoader(blocks, batch_size):  # pyright: ignore[reportArgumentType]
            ids = batch.to(model.device)  # (B, T)
            logprobs = token_logprobs(model(ids).flatten(0, 1), model.head_weight, next_tokens(ids))
            losses.append(-logprobs.sum().item() / (ids.shape[0] * (ids.shape[1] - 1)))
            on_batch()
    return sum(losses) / len(losses)


def next_tokens(ids: Tensor) -> Tensor:
    """The token after each place of `ids` (B, T), int64, (B T,); `IGNORE` after a block's last."""
    targets = ids.roll(-1, 1)
    targets[:, -1] = IGNORE
    return targets.flatten()


def linear_factor(step: int, warmup_steps: int, total_steps: float) -> float:
    """Share of the peak learning rate at update number `step`, counted from 0: up from 0, down to 0."""
    if step < warmup_steps:
        return step / max(1, warmup_steps)
    return max(0.0, (total_steps - step) / max(1.0, total_steps - warmup_steps))


def old_adamw(settings: OldTraining) -> OptimizerBuilder:
    """The optimizer of transformers 2.1; everything whose name has no ``bias`` in it decays."""

    def build(master_weights: Mapping[str, nn.Parameter]) -> list[Optimizer]:
        decayed = [master for name, master in master_weights.items() if "bias" not in name]
        others = [master for name, master in master_weights.items() if "bias" in name]
        groups = [{"params": decayed, "decay": settings.weight_decay}, {"params": others, "decay": 0.0}]
        return [_OldAdamW(groups, settings.learning_rate, settings.adam_epsilon)]

    return build


class _OldAdamW(AdamW):
    """AdamW, with epsilon added and decay done where transformers' own did it.

    theirs: ``w -= rate * sqrt(c2) / c1 * m / (sqrt(v) + epsilon)``, then ``w -= rate * decay * w``;
    torch:  decay first, and ``w -= rate / c1 * m / (sqrt(v) / sqrt(c2) + epsilon)``.
    """

    def __init__(self, groups: list[dict], learning_rate: float, epsilon: float) -> None:
        super().__init__(({**group, "weight_decay": 0.0} for group in groups), learning_rate)
        self._epsilon, self._updates = epsilon, 0

    @torch.no_grad()
    def step(
        self,
        gradients: Mapping[Tensor, Tensor],
        scale: float = 1.0,
        copies: Mapping[Tensor, RoundedCopy] = NO_COPIES,
    ) -> None:
        """Update every parameter once."""
        assert not copies  # the scripts compute in float32
        self._updates += 1
        for group in self.param_groups:
            group["eps"] = self._epsilon / math.sqrt(1.0 - BETAS[1] ** self._updates)
        super().step(gradients, scale, copies)
        for group in self.param_groups:
            if group["decay"] > 0.0:
                for parameter in group["params"]:
                    parameter.mul_(1.0 - group["lr"] * group["decay"])


class _TorchDropout(Dropout):
    """Masks as torch's own dropout draws them on the CPU."""

    def mask(self, shape: torch.Size | tuple[int, ...], p: float, like: Tensor) -> Tensor:
        """Zeros (with probability p) and ones, from torch's global generator."""
        return torch.empty(shape, dtype=like.dtype, device=like.device).bernoulli_(1.0 - p)


def _draw_dropout_from_torch(model: CausalLM) -> None:
    dropout = _TorchDropout()
    for module in list(model.modules()):
        if isinstance(getattr(module, "dropout", None), Dropout):
            module.dropout = dropout
