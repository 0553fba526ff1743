"""What a fine-tune will do, worked out before it starts: sizes, steps, rate, memory, time.

Main entry: `Plan`. Invariant: everything ``auto`` stands for is decided here, and shown before it is used.
"""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from conjure.errors import TrainingError, option
from conjure.lm.models.base import CausalLM
from conjure.lm.nn.loss import chunk_rows
from conjure.lm.text.token_cache import DataFacts

# Found with examples/jokes and sprite over a grid (docs/finetuning.md), and scaled like GPT-3's table (Brown
# et al. 2020, table 2.1): four times the parameters, about two thirds of the rate.
_RATE_AT_10M, _RATE_EXPONENT = 1e-3, -0.3
_LORA_RATE_AT_10M = 5e-3  # found likewise (docs/decisions/0007-lora-of-our-own.md)

_SMALLEST_BLOCK = 128
_RECORDS_PER_BLOCK = 4  # of the longer records: enough that few are cut by a block's edge
_PASSES_FLOPS = 6  # per parameter and token: 2 forward, 4 backward
_MATRIX_SHARE = 0.7  # of a training step's time is matrix products at full rate, on the machines measured
_MEMORY_MARGIN = 0.9
_LIBRARIES_BYTES = 80_000_000  # that torch's libraries take to work in, whatever the model


@dataclass(frozen=True, slots=True)
class Plan:
    """What a fine-tune will do.

    Attributes:
        model: The base model's name.
        parameters: Weights of the model.
        trainable: Weights that change.
        device: Where it trains.
        dtype: Number format of forward and backward passes.
        data: Facts about the text.
        train_tokens: Tokens to learn from, in one epoch.
        held_out_tokens: Tokens to measure on.
        held_out_records: Records to measure on.
        held_out_groups: Groups of records that say the same among them.
        held_out_excluded: Records left out of them, because the like is trained on.
        held_out_method: ``records``, ``tail``, ``file`` or ``none``.
        held_out_reason: Why not by records, in words; None where it is.
        block_size: Tokens in a block, T.
        blocks: Blocks in one epoch.
        batch_size: Blocks per optimizer step.
        micro_batch: Blocks per forward pass.
        epochs: Passes over the text.
        steps: Optimizer steps at most.
        learning_rate: The peak.
        memory_bytes: Estimated need.
        available_bytes: What there is.
        expected_s: Estimated time, seconds; evaluations included.
    """

    model: str
    parameters: int
    trainable: int
    device: str
    dtype: str
    data: DataFacts
    train_tokens: int
    held_out_tokens: int
    held_out_records: int
    held_out_groups: int
    held_out_excluded: int
    held_out_method: str
    held_out_reason: str | None
    block_size: int
    blocks: int
    batch_size: int
    micro_batch: int
    epochs: float
    steps: int
    learning_rate: float
    memory_bytes: int
    available_bytes: int
    expected_s: float

    @property
    def operations(self) -> float:
        """Floating-point operations of all steps, those of attention left out."""
        return _PASSES_FLOPS * self.parameters * float(self.steps * self.batch_size * self.block_size)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


def automatic_learning_rate(parameter_count: int, *, lora: bool = False) -> float:
    """The peak learning rate for fine-tuning a model of this size, or corrections to it, on a small text."""
    at_10m = _LORA_RATE_AT_10M if lora else _RATE_AT_10M
    rate = at_10m * (parameter_count / 1e7) ** _RATE_EXPONENT
    return float(f"{rate:.1e}")


def automatic_block_size(facts: DataFacts, context_length: int) -> int:
    """A power of two that holds a few of the longer records, within the model's context."""
    wanted = max(_SMALLEST_BLOCK, _RECORDS_PER_BLOCK * facts.lengths.p90)
    return min(context_length, 1 << math.ceil(math.log2(wanted)))


def automatic_interval(steps_per_epoch: int) -> int:
    """Steps between evaluations: twice an epoch, and at least every 500 steps."""
    return max(1, min(500, math.ceil(steps_per_epoch / 2)))


def memory_bytes(
    model: CausalLM, trainable: int, micro_batch: int, block_size: int, dtype: torch.dtype
) -> int:
    """Memory that training takes at its peak, estimated.

    Args:
        model: Its weights need not be there.
        trainable: Weights that change: only they have masters, gradients and optimizer state.
        micro_batch: Blocks per forward pass.
        block_size: Tokens in a block, T.
        dtype: Number format of forward and backward passes.

    Source:
        The counts are those of the tensors each step keeps, compared with what a process takes in
        tests/unit/lm/training/test_plan.py.
    """
    size, config = dtype.itemsize, model.config
    copies = 0 if dtype == torch.float32 else 4
    weights = config.parameter_count * (size + copies)
    states = trainable * (8 + 4 + (size if copies else 0))  # AdamW's two moments, gradients in both formats
    tokens = micro_batch * block_size
    rows = min(tokens, chunk_rows(config.vocab_size))
    logits = (rows + config.n_embd) * config.vocab_size * size
    hidden = tokens * (model.activations_per_token(block_size) + 6 * config.n_embd) * size
    return _LIBRARIES_BYTES + weights + states + hidden + logits


def fitting_micro_batch(
    model: CausalLM, trainable: int, batch_size: int, block_size: int, dtype: torch.dtype, available: int
) -> int:
    """The largest `batch_size` halved again and again that fits in `available` bytes.

    Raises:
        TrainingError: Not even one block at a time fits.
    """
    micro_batch = batch_size
    while True:
        needed = memory_bytes(model, trainable, micro_batch, block_size, dtype)
        if needed <= _MEMORY_MARGIN * available:
            return micro_batch
        if micro_batch == 1:
            raise TrainingError(
                f"training needs about {needed / 1e9:.1f} GB and {available / 1e9:.1f} GB are free",
                hint=_what_fits(model, trainable, block_size, dtype, available),
            )
        micro_batch = math.ceil(micro_batch / 2)


def _what_fits(model: CausalLM, trainable: int, block_size: int, dtype: torch.dtype, available: int) -> str:
    """What to change where not even one block fits: the block, where a shorter one does."""
    others = f"{option('lora', 8)}, {option('freeze')} or a smaller model"
    size = block_size // 2
    while size > 1 and memory_bytes(model, trainable, 1, size, dtype) > _MEMORY_MARGIN * available:
        size //= 2
    if size > 1:
        return f"{option('block_size', size)} fits; {others} need less too"
    return f"no block size fits: use {others}"


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations per second in a matrix product of middling size, measured in a moment."""
    rows, inner, columns = 1024, 768, 3072
    left = torch.ones(rows, inner, dtype=dtype, device=device)
    right = torch.ones(inner, columns, dtype=dtype, device=device)
    (left @ right)[0, 0].item()  # the first one is slower
    started = time.perf_counter()
    (left @ right)[0, 0].item()
    return 2 * rows * inner * columns / max(time.perf_counter() - started, 1e-9)


def expected_seconds(parameters: int, tokens: float, dtype: torch.dtype, device: torch.device) -> float:
    """Time that training on so many tokens takes, estimated from this machine's matrix rate."""
    return _PASSES_FLOPS * parameters * tokens / (matrix_rate(dtype, device) * _MATRIX_SHARE)
