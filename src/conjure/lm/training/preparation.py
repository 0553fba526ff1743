"""The first step of a fine-tune: the model loaded, the text read and split, the plan worked out.

Main entry: `prepare`. Invariant: nothing is written and nothing is trained; whatever a request asks for that
cannot be done is refused here.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from conjure.core.files import real_path
from conjure.core.text import today
from conjure.errors import UsageError, option
from conjure.lm.bounds import value_fault
from conjure.lm.checkpoints.adapters import ADAPTER, apply_adapter
from conjure.lm.checkpoints.base_model import base_difference, base_facts, how_to_restore
from conjure.lm.checkpoints.describe import read_training
from conjure.lm.checkpoints.model_resolver import Lookup, ModelSource, resolve_model
from conjure.lm.checkpoints.pretrained import check_can_save
from conjure.lm.checkpoints.provenance import BaseFacts
from conjure.lm.generation.request import GenerationRequest
from conjure.lm.hardware import available_bytes, fast_dtype, keep_freed_memory, pick_device, usable_cores
from conjure.lm.language_model import LanguageModel, load_source
from conjure.lm.models.base import CausalLM
from conjure.lm.models.shape import ModelConfig
from conjure.lm.report.measure_model import questions
from conjure.lm.text.chat.encoding import conversation_encoder
from conjure.lm.text.records import RecordSet, read_records
from conjure.lm.text.split import Split, TokenStream, split_records
from conjure.lm.text.token_cache import DataFacts, TokenisedText, describe, find_groups, notes, tokenise
from conjure.lm.text.tokenizer import Tokenizer
from conjure.lm.training.distributed.process_group import Membership
from conjure.lm.training.lora import add_lora
from conjure.lm.training.packing import Blocks
from conjure.lm.training.plan import (
    Plan,
    automatic_block_size,
    automatic_interval,
    automatic_learning_rate,
    automatic_save_interval,
    expected_seconds,
    fits,
    fitting_block_size,
    fitting_micro_batch,
    further_gradients,
    memory_bytes,
    shared_micro_batch,
)
from conjure.lm.training.request import FinetuneRequest
from conjure.lm.training.state import load_training_facts, saved_micro_batch, state_folder

BytesProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Prepared:
    """A fine-tune that can start.

    Attributes:
        request: What was asked for.
        output: The checkpoint folder to write, as it was when it was checked.
        base: The model to start from; it stays as it is.
        base_noted: What is kept of it, so that it is known again.
        base_facts: What its folder tells of its origin.
        model: A second model with the same weights, which training changes.
        records: The text.
        validation: The text to measure on, where it is one of its own.
        text: Its tokens.
        measured: What the held-out part is of, and the same in tokens: `validation`, or `records`.
        base_files: Names of the files that the base model was itself tuned on, if it was.
        split: What to learn from, and what to measure on.
        plan: What will be done.
        device: Where to train.
        dtype: Number format of forward and backward passes.
    """

    request: FinetuneRequest
    output: Path
    base: LanguageModel
    base_noted: Mapping[str, Any]
    base_facts: BaseFacts
    model: CausalLM
    records: RecordSet
    validation: RecordSet | None
    text: TokenisedText
    measured: tuple[RecordSet, TokenisedText]
    base_files: tuple[str, ...]
    split: Split
    plan: Plan
    device: torch.device
    dtype: torch.dtype

    @property
    def tokenizer(self) -> Tokenizer:
        """The base model's."""
        return self.base.tokenizer

    def settings(self) -> dict[str, Any]:
        """The settings to tell of: those of the request, and where it left one open, what was decided.

        `blocks_per_step` is there beside the request's two numbers, because a short text has fewer.
        """
        plan, sample_every = self.plan, self.request.sample_every
        return {
            **self.request.settings(),
            "learning_rate": plan.learning_rate,
            "dropout": plan.dropout,
            "mask_records": plan.mask_records,
            "block_size": plan.block_size,
            "batch_size": min(self.request.batch_size, plan.batch_size),
            "blocks_per_step": plan.batch_size,
            "eval_every": self.eval_every,
            "save_every": self.save_every,
            "sample_every": self.eval_every if sample_every is None else sample_every,
        }

    @property
    def eval_every(self) -> int:
        """Optimizer steps between evaluations."""
        asked = self.request.eval_every
        return automatic_interval(self.plan.steps_per_epoch) if asked is None else asked

    @property
    def save_every(self) -> int:
        """Optimizer steps between saves of the training state; 0: none."""
        asked = self.request.save_every
        return automatic_save_interval(self.plan.steps_per_epoch) if asked is None else asked

    def generation_request(self, samples: int, tokens: int) -> GenerationRequest:
        """What a model of it is asked to write: the starts of records, or answers to held-out questions."""
        seed = self.request.seed
        asked = self.split.heldout if self.split.heldout is not None else self.split.train
        prompts = questions(asked, self.tokenizer, samples) if asked.kinds is not None else []
        if not prompts:
            return GenerationRequest(num_samples=samples, max_new_tokens=tokens, seed=seed)
        each = max(1, samples // len(prompts))
        return GenerationRequest(prompts=prompts, num_samples=each, max_new_tokens=tokens, seed=seed)

    @property
    def adapter_output(self) -> Path:
        """The PEFT folder to write, where one is asked for."""
        return _adapter_folder(self.output)

    def without_base_weights(self) -> "Prepared":
        """The same for a process that trains but neither saves nor measures, in less memory."""
        described = self.base.model.empty_copy()
        return replace(self, base=LanguageModel(described, self.tokenizer, origin=self.base.origin))


def prepare(
    request: FinetuneRequest,
    *,
    lookups: Iterable[Lookup] = (),
    progress: BytesProgress | None = None,
    micro_batch: int | None = None,
    writes: bool = True,
) -> Prepared:
    """Load the model, read the text, and work out the plan.

    Args:
        request: What to do.
        lookups: Tell the folders of model names only the caller knows, such as ``runs/3``.
        progress: Told the bytes of text done and in all, while text is turned into tokens.
        micro_batch: Blocks per forward pass, if another process has worked it out already.
        writes: Whether anything will be written to the output folder; for a plan alone, nothing is.

    Raises:
        ConjureError: The model, the text, the settings or the output folder cannot be used, or memory does
            not suffice.
    """
    keep_freed_memory()
    output = Path(request.output).absolute()
    if writes:
        check_can_save(output)
        if request.lora_output == "adapter":
            check_can_save(_adapter_folder(output), ADAPTER)
        _refuse_unfinished_training(request, output)
    records = _read(request, request.data)
    validation = _read(request, [request.validation]) if request.validation is not None else None
    if not records.chat_formats and (validation is None or not validation.chat_formats):
        request.refuse_chat_settings()
    named = resolve_model(request.model, lookups=lookups, with_card=True)
    if writes and real_path(named.folder) == real_path(output):
        raise UsageError(
            f"{option('output')} is the folder of the model to start from", hint="use another folder"
        )
    source = apply_adapter(named, request.adapter)
    if request.resume:
        _refuse_other_base(output, source)
    noted = base_facts(source)  # now: an upgrade of conjure may replace an embedded model while it trains
    base = load_source(source)
    request = _decided(request, base.model.config, are_chats=bool(records.chat_formats))
    encode = partial(
        tokenise,
        tokenizer=base.tokenizer,
        allow_special=request.reads_special_tokens,
        chat=conversation_encoder(
            records.chat_formats, base.tokenizer, model=str(request.model), day=request.chat_day
        ),
        progress=progress,
    )
    text = encode(records)
    facts = describe(records, text, find_groups([records], refused=[text.refused], progress=progress))
    measured = (validation, encode(validation)) if validation is not None else None
    split = split_records(
        records,
        text,
        measured,
        holdout=request.holdout,
        dedup=request.dedup,
        progress=progress,
    )
    split = replace(split, train=replace(split.train, given_weight=request.prompt_loss_weight))
    device = pick_device()
    dtype = fast_dtype(device, request.precision)
    model = trainable_model(base.model, request)
    return Prepared(
        request=request,
        output=output,
        base=base,
        base_noted=noted,
        base_facts=BaseFacts.of(str(request.model), named.folder),
        model=model,
        records=records,
        validation=validation,
        text=text,
        measured=measured if measured is not None else (records, text),
        base_files=_tuned_on(named.folder),
        split=split,
        plan=replace(
            _plan(request, base.origin, model, facts, split, device, dtype, micro_batch),
            validation_notes=notes(*measured) if measured is not None else (),
        ),
        device=device,
        dtype=dtype,
    )


def _adapter_folder(output: Path) -> Path:
    """Where the adapter is kept of a training whose checkpoint goes to `output`."""
    return output.with_name(f"{output.name}.adapter")


def _tuned_on(folder: Path) -> tuple[str, ...]:
    """Names of the files that a model was tuned on; none where it was not, as far as it says."""
    training = read_training(folder) or {}
    if "settings" not in training:
        return ()
    try:
        return tuple(Path(file["name"]).name for file in training["plan"]["data"]["files"])
    except (KeyError, TypeError):
        return ("other text",)


def _decided(request: FinetuneRequest, config: ModelConfig, *, are_chats: bool) -> FinetuneRequest:
    """The request with what model and day decide; a training that is resumed keeps what it had."""
    automatic = {
        "dropout": None,
        "mask_records": config.has_rotary_positions,
        "chat_date": today() if are_chats else None,
    }
    open_ones = [name for name in automatic if getattr(request, name) is None]
    if request.resume:
        automatic |= load_training_facts(state_folder(Path(request.output).absolute()))["agreement"]
    return replace(request, **{name: automatic[name] for name in open_ones})


def _refuse_unfinished_training(request: FinetuneRequest, output: Path) -> None:
    state = state_folder(output)
    if state.exists() and not request.resume:
        raise UsageError(
            f"there is an unfinished training in {state}",
            hint=f"add {option('resume', True)} to continue it, or remove that folder to start again",
        )


def _refuse_other_base(output: Path, source: ModelSource) -> None:
    facts = load_training_facts(state_folder(output))
    difference = base_difference(source, facts.get("base"), output)
    if difference is not None:
        raise UsageError(
            f"the interrupted training started from {difference}",
            hint=f"{how_to_restore(source, source.name, facts.get('conjure'))} to continue,"
            f" or omit {option('resume')} to start again",
        )


def _read(request: FinetuneRequest, data: Sequence[str | Path]) -> RecordSet:
    return read_records(data, column=request.column, split=request.split, layout=request.layout)


def trainable_model(base: CausalLM, request: FinetuneRequest) -> CausalLM:
    """A second model with the base's weights, the request's dropout, and what is frozen marked so."""
    if request.freeze > base.n_layer:
        raise value_fault(
            "freeze",
            f"is {request.freeze}; the model has {base.n_layer} blocks",
            fix=option("freeze", base.n_layer),
        )
    dropouts = ("embedding_dropout", "residual_dropout") if request.dropout is not None else ()
    changes = dict.fromkeys(dropouts, request.dropout)
    model = base.empty_copy(**changes, attention_dropout=request.attention_dropout)
    model.load_state_dict({name: weight.clone() for name, weight in base.state_dict().items()}, assign=True)
    if request.freeze > 0:
        for part in (*model.embeddings(), *model.blocks[: request.freeze]):
            part.requires_grad_(requires_grad=False)
    if request.lora is not None:
        add_lora(model, request.lora, seed=request.seed, first_block=request.freeze)
    return model


def _plan(
    request: FinetuneRequest,
    origin: str,
    model: CausalLM,
    facts: DataFacts,
    split: Split,
    device: torch.device,
    dtype: torch.dtype,
    micro_batch: int | None,
) -> Plan:
    parameters, held_out = model.config.parameter_count, split.heldout
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    processes = request.processes if request.processes is not None else 1
    nodes = request.nodes if request.nodes is not None else 1
    available = _available_bytes(device, processes // nodes)
    per_step = request.batch_size * request.grad_accumulation

    def one_fits(blocks: Blocks) -> bool:
        held = further_gradients(min(per_step, len(blocks)), 1, processes)
        needed = memory_bytes(model, trainable, 1, blocks.block_size, dtype, further_gradients=held)
        return fits(needed, available * nodes // processes)

    blocks = _blocks(request, facts, model.config.context_length, split.train, one_fits)
    batch_size = min(per_step, len(blocks))
    if micro_batch is None:
        micro_batch = fitting_micro_batch(
            model,
            trainable,
            _micro_batch(request, batch_size),
            blocks.block_size,
            dtype,
            available * nodes,
            blocks=batch_size,
            processes=processes,
        )
    is_one = processes == 1 or Membership.from_environment() is not None  # of those processes
    held = further_gradients(batch_size, micro_batch, processes)
    needed = memory_bytes(model, trainable, micro_batch, blocks.block_size, dtype, further_gradients=held)
    steps = math.ceil(math.ceil(len(blocks) / batch_size) * request.epochs)
    if request.max_steps is not None:
        steps = min(steps, request.max_steps)
    # The rate is measured in one process: of those that share the work, or with all threads of its machine.
    sharing = processes if is_one or device.type == "cuda" else nodes
    return Plan(
        model=origin,
        parameters=parameters,
        trainable=trainable,
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        data=facts,
        train_records=split.train.records,
        train_tokens=len(split.train),
        train_answer_tokens=split.train.answer_tokens,
        train_dropped=split.dropped,
        held_out_tokens=len(held_out) if held_out is not None else 0,
        held_out_records=held_out.records if held_out is not None else 0,
        held_out_groups=held_out.groups if held_out is not None else 0,
        held_out_excluded=split.excluded,
        held_out_method=split.method,
        held_out_reason=split.reason,
        held_out_remark=split.remark,
        block_size=blocks.block_size,
        blocks=len(blocks),
        batch_size=batch_size,
        micro_batch=micro_batch,
        processes=processes,
        nodes=nodes,
        threads=torch.get_num_threads() if is_one else max(1, usable_cores() // (processes // nodes)),
        epochs=request.epochs,
        steps=steps,
        learning_rate=_learning_rate(request, model.config),
        dropout=model.config.residual_dropout,
        mask_records=bool(request.mask_records),
        memory_bytes=processes // nodes * needed,
        available_bytes=available,
        expected_s=expected_seconds(
            model,
            trainable,
            tokens=min(blocks.target_count * request.epochs, steps * batch_size * blocks.block_size)
            / sharing,
            tokens_per_pass=micro_batch * blocks.block_size,
            steps=steps,
            passes_per_step=math.ceil(batch_size / micro_batch / sharing),
            dtype=dtype,
            device=device,
        ),
    )


def _learning_rate(request: FinetuneRequest, config: ModelConfig) -> float:
    """The peak; of a training that is resumed, the one that was planned by the version that began it."""
    if request.learning_rate is not None:
        return request.learning_rate
    begun = load_training_facts(state_folder(Path(request.output).absolute())) if request.resume else None
    if begun is not None and "learning_rate" in begun:
        return begun["learning_rate"]
    return automatic_learning_rate(
        config.parameter_count, lora=request.lora is not None, as_in_0_1=begun is not None
    )


def _available_bytes(device: torch.device, processes: int) -> int:
    """Memory for so many processes on one machine: each has a GPU of its own, where there are any."""
    return available_bytes(device) * (processes if device.type == "cuda" else 1)


def _micro_batch(request: FinetuneRequest, blocks: int) -> int:
    """Blocks per forward pass that are wished for, of the `blocks` of a step."""
    if request.resume:
        saved = saved_micro_batch(state_folder(Path(request.output).absolute()))
        if saved is not None and math.ceil(blocks / saved) >= (request.processes or 1):
            return saved
    if request.processes is None:
        return min(request.batch_size, blocks)
    return shared_micro_batch(request.batch_size, request.grad_accumulation, blocks, request.processes)


def _blocks(
    request: FinetuneRequest,
    facts: DataFacts,
    context_length: int,
    train: TokenStream,
    one_fits: Callable[[Blocks], bool],
) -> Blocks:
    """The text in blocks of the size asked for, or of an automatic one, small enough for memory.

    A training that is resumed keeps what it had, which an earlier version may have decided, or other memory.
    """
    size = request.block_size
    if size is None and request.resume:
        size = load_training_facts(state_folder(Path(request.output).absolute()))["agreement"]["block_size"]
    if size is None:
        wished = Blocks(train, automatic_block_size(facts, context_length)).block_size
        size = fitting_block_size(wished, lambda size: one_fits(Blocks(train, size)))
    if size > context_length:
        raise value_fault(
            "block_size",
            f"is {size}; the model's context is {context_length} tokens",
            fix=option("block_size", context_length),
        )
    return Blocks(train, size)
