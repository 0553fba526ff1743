"""What a fine-tune will do, worked out before it starts: sizes, steps, rate, memory, time.

Main entry: `Plan`. Invariant: everything ``auto`` stands for is decided here, and shown before it is used.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

import torch

from conjure.core.text import plural
from conjure.core.units import format_size
from conjure.errors import TrainingError, option
from conjure.lm.models.base import CausalLM
from conjure.lm.nn.loss import chunk_rows
from conjure.lm.text.token_cache import DataFacts

# Found with sprite and SmolLM2-135M on one-line jokes (docs/finetuning.md): a tenth of the rate at thirteen
# times the parameters. Smaller models were not measured: for them it rises as slowly as in conjure 0.1, so
# that of no model is above the bound that a rate has.
_RATE, _RATE_EXPONENT = 1e-3, -0.9
# That of corrections falls more slowly: it is five times the other one for sprite, and ten times for
# SmolLM2-135M (docs/decisions/0007-lora-of-our-own.md).
_LORA_RATE, _LORA_RATE_EXPONENT = 5e-3, -0.63
_SIZE_OF_RATE, _SIZE_OF_RATE_OF_0_1 = 1.01e7, 1e7  # parameters
_RATE_EXPONENT_OF_0_1 = -0.3

# Of an automatic block size. A text in few blocks makes few optimizer steps, so a novel, which is one record,
# is not read in blocks as long as the context; and what attention takes per token grows with the block.
_SMALLEST_BLOCK, _LARGEST_BLOCK = 128, 1024
_RECORDS_PER_BLOCK = 4  # of the longer records: enough that few are cut by a block's edge
_PASSES_FLOPS = 6  # per parameter and token where all are trained: 2 forward, 4 backward
_MATRIX_SHARE = 0.75  # of what is left is matrix products at full rate, on the machines measured
_MOST_ROWS = 1024  # with more, products become no faster
# On a CPU: what a layer takes of a forward and backward pass, whatever the number of tokens, and what an
# optimizer step moves of each trained weight, and how fast.
_LAYER_S = 2e-3
_UPDATE_BYTES, _UPDATE_BYTES_PER_S = 36, 40e9
_MEMORY_MARGIN = 0.9
_SHARED_PARTS = 4  # micro-batches of a step that up to so many processes share to the same losses
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
        train_records: Records to learn from, wholly or partly.
        train_tokens: Tokens to learn from, in one epoch.
        train_answer_tokens: Those of them that are answers; None of plain text.
        train_dropped: Records that are not learned from, because the like of them is.
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
        processes: Processes that share a step's forward passes.
        nodes: Machines that they are on.
        threads: Of each process.
        epochs: Passes over the text.
        steps: Optimizer steps at most.
        learning_rate: The peak.
        memory_bytes: Estimated need of all processes on one machine.
        available_bytes: What there is.
        expected_s: Estimated time of all steps, without evaluations, seconds.
        dropout: On each branch, that of the model if none was asked for.
        mask_records: Whether attention is kept within each record.
        validation_notes: Of a file to measure on: rows left out, what is worth knowing, a sentence each.
        held_out_remark: What is worth knowing about what is measured on, a sentence; None for nothing.
    """

    model: str
    parameters: int
    trainable: int
    device: str
    dtype: str
    data: DataFacts
    train_records: int
    train_tokens: int
    train_answer_tokens: int | None
    train_dropped: int
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
    processes: int
    nodes: int
    threads: int
    epochs: float
    steps: int
    learning_rate: float
    memory_bytes: int
    available_bytes: int
    expected_s: float
    dropout: float = 0.0
    mask_records: bool = False
    validation_notes: tuple[str, ...] = ()
    held_out_remark: str | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of a pass over the text; the last one may be short of blocks."""
        return math.ceil(self.blocks / self.batch_size)

    @property
    def operations(self) -> float:
        """Floating-point operations of all steps at most, those of attention left out."""
        return _PASSES_FLOPS * self.parameters * float(self.steps * self.batch_size * self.block_size)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


def automatic_learning_rate(parameter_count: int, *, lora: bool = False, as_in_0_1: bool = False) -> float:
    """The peak learning rate for fine-tuning a model of this size, or corrections to it, on a small text.

    Args:
        parameter_count: Of the model.
        lora: For corrections.
        as_in_0_1: The rate of conjure 0.1, whose unfinished trainings do not say what theirs is.
    """
    size = parameter_count / (_SIZE_OF_RATE_OF_0_1 if as_in_0_1 else _SIZE_OF_RATE)
    rate, exponent = (_LORA_RATE, _LORA_RATE_EXPONENT) if lora else (_RATE, _RATE_EXPONENT)
    if as_in_0_1 or size < 1:
        exponent = _RATE_EXPONENT_OF_0_1
    return float(f"{rate * size**exponent:.1e}")


def automatic_block_size(facts: DataFacts, context_length: int) -> int:
    """A power of two that holds a few of the longer records, within the model's context; never very large."""
    wanted = max(_SMALLEST_BLOCK, _RECORDS_PER_BLOCK * facts.lengths.p90)
    return min(context_length, _LARGEST_BLOCK, 1 << math.ceil(math.log2(wanted)))


def fitting_block_size(block_size: int, size_fits: Callable[[int], bool]) -> int:
    """The largest `block_size` halved again and again that fits; if none does, the last one tried.

    It does not become less than the smallest automatic one: what is short of memory then are the weights.

    Args:
        block_size: Tokens in a block, T, that are wished for.
        size_fits: Whether memory holds one block of so many.
    """
    while block_size > _SMALLEST_BLOCK and not size_fits(block_size):
        block_size = max(_SMALLEST_BLOCK, block_size // 2)
    return block_size


def automatic_interval(steps_per_epoch: int) -> int:
    """Steps between evaluations: twice an epoch, and at least every 500 steps."""
    return max(1, min(500, math.ceil(steps_per_epoch / 2)))


def automatic_save_interval(steps_per_epoch: int) -> int:
    """Steps between saves of the training state: once an epoch, and at least every 500 steps."""
    return min(500, steps_per_epoch)


def shared_micro_batch(batch_size: int, accumulation: int, blocks: int, processes: int) -> int:
    """Blocks per forward pass where several processes are to share a step.

    So few that a step has four forward passes or more, whatever the number of processes, because equal
    forward passes are what makes equal losses; fewer only where that number needs it.

    Args:
        batch_size: Blocks per forward pass that were asked for; what is returned divides it.
        accumulation: Times `batch_size`, the blocks of a step that were asked for.
        blocks: Blocks of a step, fewer where the text does not have as many.
        processes: How many are to share them.

    Raises:
        TrainingError: The text is too short.
    """
    sizes = [size for size in range(batch_size, 0, -1) if batch_size % size == 0]
    usual = next((size for size in sizes if math.ceil(blocks / size) >= _SHARED_PARTS), 1)
    for size in (usual, *sizes):
        parts = batch_size * accumulation // size
        if parts % processes == 0 and math.ceil(blocks / size) >= processes:
            return size
    raise TrainingError(
        f"{option('distributed')} is {processes}; the text has only {plural(blocks, 'block')} of tokens, and"
        " each process needs one in every step",
        fix=option("distributed", 1),
    )


def memory_bytes(
    model: CausalLM,
    trainable: int,
    micro_batch: int,
    block_size: int,
    dtype: torch.dtype,
    *,
    further_gradients: int = 0,
) -> int:
    """Memory that training takes at its peak in one process, estimated.

    Args:
        model: Its weights need not be there.
        trainable: Weights that change: only they have masters, gradients and optimizer state.
        micro_batch: Blocks per forward pass.
        block_size: Tokens in a block, T.
        dtype: Number format of forward and backward passes.
        further_gradients: How many more float32 gradients of all weights are held; see `further_gradients`.

    Source:
        The counts are those of the tensors each step keeps, compared with what a process takes in
        tests/unit/lm/training/test_plan.py.
    """
    size, config = dtype.itemsize, model.config
    copies = 0 if dtype == torch.float32 else 4
    weights = config.parameter_count * (size + copies)
    # AdamW's two moments, gradients in both formats (where several are summed, or torch updates), their sums.
    states = trainable * (8 + 4 + (size if copies else 0) + 4 * further_gradients)
    tokens = micro_batch * block_size
    rows = min(tokens, chunk_rows(config.vocab_size))
    logits = (rows + config.n_embd) * config.vocab_size * size
    hidden = tokens * (model.activations_per_token(block_size) + 6 * config.n_embd) * size
    return _LIBRARIES_BYTES + weights + states + hidden + logits


def fits(needed: int, available: int) -> bool:
    """Whether so many bytes can be taken of those that are free, with some left as the need is estimated."""
    return needed <= _MEMORY_MARGIN * available


def further_gradients(blocks: int, micro_batch: int, processes: int) -> int:
    """Gradients that a process holds beside a micro-batch's own: sums of pairs, and what others send it."""
    own = math.ceil(math.ceil(blocks / micro_batch) / processes)
    return math.ceil(math.log2(own)) + (2 if processes > 1 else 0)


def fitting_micro_batch(
    model: CausalLM,
    trainable: int,
    micro_batch: int,
    block_size: int,
    dtype: torch.dtype,
    available: int,
    *,
    blocks: int | None = None,
    processes: int = 1,
) -> int:
    """The largest `micro_batch` halved again and again that fits in `available` bytes.

    Args:
        model: Its weights need not be there.
        trainable: Weights that change.
        micro_batch: Blocks per forward pass that are wished for.
        block_size: Tokens in a block, T.
        dtype: Number format of forward and backward passes.
        available: Bytes for all processes.
        blocks: Blocks of a step; as many as `micro_batch` if None.
        processes: How many share them.

    Raises:
        TrainingError: Not even one block at a time fits.
    """
    whole, available = blocks if blocks is not None else micro_batch, available // processes
    while True:
        held = further_gradients(whole, micro_batch, processes)
        needed = memory_bytes(model, trainable, micro_batch, block_size, dtype, further_gradients=held)
        if fits(needed, available):
            return micro_batch
        if micro_batch == 1:
            each = " in each process" if processes > 1 else ""
            raise TrainingError(
                f"training needs about {format_size(needed)}{each} and {format_size(available)} are free",
                hint=_what_fits(model, trainable, block_size, dtype, available, held),
            )
        micro_batch = math.ceil(micro_batch / 2)


def _what_fits(
    model: CausalLM, trainable: int, block_size: int, dtype: torch.dtype, available: int, held: int
) -> str:
    """What to change where not even one block fits: the block, where a shorter one does."""

    def size_fits(size: int) -> bool:
        return fits(memory_bytes(model, trainable, 1, size, dtype, further_gradients=held), available)

    others = f"{option('lora', 8)}, {option('freeze')} or a smaller model"
    while block_size > 1 and not size_fits(block_size):
        block_size //= 2
    if block_size > 1:
        return f"{option('block_size', block_size)} fits; {others} need less too"
    return f"no block size fits: use {others}"


def matrix_rate(rows: int, dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations per second in a matrix product of so many rows, measured in a moment."""
    inner, columns = 768, 3072
    left = torch.ones(rows, inner, dtype=dtype, device=device)
    right = torch.ones(inner, columns, dtype=dtype, device=device)
    seconds = []
    for _ in range(4):  # the first one is slower
        started = time.perf_counter()
        (left @ right)[0, 0].item()
        seconds.append(time.perf_counter() - started)
    return 2 * rows * inner * columns / max(min(seconds), 1e-9)


def operations_per_token(model: CausalLM, trainable: int) -> int:
    """Floating-point operations of the matrix products of a forward and backward pass, for each token.

    They are two for each weight on the way forward, two on the way back, which ends at the first block with a
    weight that is trained, and two for the gradient of each such weight.

    Args:
        model: Its weights need not be there.
        trainable: Weights that change.
    """
    weights = model.config.parameter_count
    frozen = takewhile(lambda block: not any(each.requires_grad for each in block.parameters()), model.blocks)
    passed_by = sum(weight.numel() for block in frozen for weight in block.parameters())
    return 2 * weights + 2 * (weights - passed_by) + 2 * trainable


def expected_seconds(
    model: CausalLM,
    trainable: int,
    *,
    tokens: float,
    tokens_per_pass: int,
    steps: int,
    passes_per_step: int,
    dtype: torch.dtype,
    device: torch.device,
) -> float:
    """Time that training takes, estimated from this machine's matrix rate; evaluations are not in it.

    Args:
        model: Its weights need not be there.
        trainable: Weights that change.
        tokens: Of all steps together.
        tokens_per_pass: Of a forward and backward pass: fewer make slower products.
        steps: Optimizer steps.
        passes_per_step: Forward and backward passes of one.
        dtype: Number format of them.
        device: Where.
    """
    config = model.config
    rate = matrix_rate(min(tokens_per_pass, _MOST_ROWS), dtype, device) * _MATRIX_SHARE
    products = operations_per_token(model, trainable) * tokens / rate
    if device.type != "cpu":
        return products
    update = trainable * _UPDATE_BYTES / _UPDATE_BYTES_PER_S
    return products + steps * (passes_per_step * config.n_layer * _LAYER_S + update)
