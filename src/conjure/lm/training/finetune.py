"""Fine-tuning: a model and a text in, a better model for that text and what changed out.

Main entries: `finetune` for one call, `Finetuning` for a plan first and events as it goes. Invariants: the
output folder always holds a whole checkpoint, the one with the lowest held-out loss so far; and nothing that
was learned is lost to an interruption.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from conjure.errors import UsageError
from conjure.lm.bounds import value_fault
from conjure.lm.checkpoints.model_resolver import Lookup
from conjure.lm.checkpoints.pretrained import save_checkpoint
from conjure.lm.generation.generate import Sample, generate
from conjure.lm.generation.request import GenerationRequest
from conjure.lm.generation.score import Tally, Windows
from conjure.lm.hardware import (
    available_bytes,
    fast_dtype,
    keep_freed_memory,
    pick_device,
    worth_compiling,
)
from conjure.lm.language_model import LanguageModel, load
from conjure.lm.models.base import CausalLM
from conjure.lm.report.analysis import Evidence, analyse
from conjure.lm.report.build import write_report
from conjure.lm.report.facts import CurvePoint, HeldOutFacts
from conjure.lm.report.observe import (
    FEWEST_SCORED_TOKENS,
    HeldOutTexts,
    Observation,
    Progress,
    held_out_texts,
    observe,
    record_texts,
    some_records,
)
from conjure.lm.report.statistics import group_tallies
from conjure.lm.text.held_out import Split, split_records
from conjure.lm.text.records import RecordSet, read_records
from conjure.lm.text.token_cache import describe, find_groups, tokenise
from conjure.lm.training.events import Evaluated, Event, Finished, SavePoint, StepDone
from conjure.lm.training.lora import add_lora
from conjure.lm.training.master_weights import adamw
from conjure.lm.training.model_card import model_card
from conjure.lm.training.packing import Blocks
from conjure.lm.training.plan import (
    Plan,
    automatic_block_size,
    automatic_interval,
    automatic_learning_rate,
    expected_seconds,
    fitting_micro_batch,
    memory_bytes,
)
from conjure.lm.training.request import FinetuneRequest
from conjure.lm.training.state import (
    load_training_facts,
    load_training_state,
    save_training_state,
    state_folder,
)
from conjure.lm.training.trainer import Trainer, TrainSettings

# Held-out tokens that an evaluation reads: many, but fewer where a model is large, so that neither the first
# step nor the rest of the training waits long for it.
_FEWEST_EVALUATED, _MOST_EVALUATED = 1 << 14, 1 << 16
_EVALUATED_WORK = 1 << 40  # tokens times parameters
_SAMPLES, _SAMPLE_TOKENS = 3, 60  # at each evaluation
_REPORT_SAMPLES, _REPORT_TOKENS = 50, 100  # of each model, for the report


@dataclass(frozen=True, slots=True)
class Sampled:
    """The model wrote some samples, after `step` steps."""

    step: int
    samples: list[Sample]


@dataclass(frozen=True, slots=True)
class Saved:
    """The best checkpoint so far is in the output folder."""

    step: int


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """What a fine-tune came to.

    Attributes:
        checkpoint: The folder with the tuned model.
        loss_before: Mean nats per held-out token under the base model, each group of records that say the
            same counting once; None if nothing is held out, or if it was interrupted.
        loss_after: The same under the tuned model.
        before: Sums and counts behind `loss_before`, each group's being the mean of its records'.
        after: Sums and counts behind `loss_after`.
        held_out: What was held out, and how much of it these are from; None if it was interrupted.
        windows: The protocol of both: each held-out record is read after an end-of-text token, its own tokens
            are scored, through windows of this context and stride.
        steps: Optimizer steps made.
        best_step: The step whose weights are kept.
        reason: ``completed``, ``early_stop`` or ``interrupted``.
        history: Losses as they came.
        plan: What it set out to do.
    """

    checkpoint: Path
    loss_before: float | None
    loss_after: float | None
    before: Tally | None
    after: Tally | None
    held_out: HeldOutFacts | None
    windows: Windows
    steps: int
    best_step: int
    reason: str
    history: "History"
    plan: Plan


@dataclass
class History:
    """The losses of a run, as its curves show them.

    Attributes:
        train: (step, mean nats per token) of every step.
        held_out: (step, mean nats per token) of every evaluation.
        targets: Tokens learned from.
        seconds: Time spent in steps.
    """

    train: list[tuple[int, float]] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)
    targets: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "History":
        """What `to_dict` gave."""
        curves = {name: [(step, loss) for step, loss in saved[name]] for name in ("train", "held_out")}
        return cls(**curves, targets=saved["targets"], seconds=saved["seconds"])

    def points(self) -> list[CurvePoint]:
        """The curves point by point, for a report."""
        train, held_out = dict(self.train), dict(self.held_out)
        steps = sorted({*train, *held_out})
        return [CurvePoint(step, train.get(step), held_out.get(step)) for step in steps]

    def note(self, event: Event) -> None:
        """Keep what `event` tells."""
        if isinstance(event, StepDone):
            self.train.append((event.step, event.loss))
            self.targets += event.targets
            self.seconds += event.seconds
        elif isinstance(event, Evaluated):
            self.held_out.append((event.step, event.loss))


def finetune(
    data: str | Path | Sequence[str | Path],
    *,
    output: str | Path,
    model: str | Path = "sprite",
    on_event: Callable[[Event | Sampled | Saved], None] | None = None,
    lookups: Iterable[Lookup] = (),
    **options: Any,
) -> FinetuneResult:
    """Tune a model on text of one's own.

    Args:
        data: Files or folders of text.
        output: Checkpoint folder to write; what is there is replaced when there is something better.
        model: Name or folder of the model to start from.
        lookups: Tell the folders of model names only the caller knows, such as ``runs/3``.
        on_event: Called with every step, evaluation, save and sample.
        **options: The other fields of `FinetuneRequest`.

    Returns:
        Among others ``loss_before`` and ``loss_after`` (held-out, nats per token) and ``checkpoint``.

    Raises:
        ConjureError: What was asked for cannot be; see `FinetuneRequest` and `Finetuning`.
    """
    sources = [data] if isinstance(data, str | Path) else data
    request = FinetuneRequest(data=sources, output=output, model=model, **options)
    tuning = Finetuning(request, lookups=lookups)
    for event in tuning.run():
        if on_event is not None:
            on_event(event)
    result = tuning.result()
    tuning.write_report(result.checkpoint)
    return result


class Finetuning:
    """One fine-tune: made, looked at (`plan`), run, and asked for its `result`."""

    def __init__(
        self,
        request: FinetuneRequest,
        *,
        lookups: Iterable[Lookup] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Load the model, read the text, and work out the plan.

        Args:
            request: What to do.
            lookups: Tell the folders of model names only the caller knows, such as ``runs/3``.
            progress: Told the bytes of text done and in all, while text is turned into tokens.

        Raises:
            ConjureError: The model, the text or the settings cannot be used, or memory does not suffice.
        """
        keep_freed_memory()
        self.request = request
        self.output = Path(request.output).absolute()
        self.records: RecordSet = read_records(
            request.data, column=request.column, split=request.split, layout=request.layout
        )
        self.base: LanguageModel = load(request.model, lookups=lookups)
        self.tokenizer = self.base.tokenizer
        self._text = tokenise(
            self.records,
            self.tokenizer,
            allow_special=request.special_tokens == "token",
            progress=progress,
        )
        self._split = self._make_split(progress)
        self._device = pick_device()
        self._dtype = fast_dtype(self._device, request.precision)
        self._model = _trainable_model(self.base.model, request)
        self.plan = self._make_plan()
        self.history = History()
        self._before: Observation | None = None
        self._after: Observation | None = None
        self._trainer: Trainer | None = None
        self._stop_requested = False
        self._reason = "interrupted"

    def _make_split(self, progress: Callable[[int, int], None] | None) -> Split:
        request = self.request
        self._groups = find_groups([self.records], progress=progress)
        validation = None
        if request.validation is not None:
            validation = read_records(
                [request.validation], column=request.column, split=request.split, layout=request.layout
            )
        return split_records(
            self.records,
            self._text,
            self.tokenizer,
            validation,
            holdout=request.holdout,
            dedup=request.dedup,
            allow_special=request.special_tokens == "token",
            progress=progress,
        )

    @cached_property
    def _held_out(self) -> HeldOutTexts:
        """What is scored at the end: no more than training processed, unless that is very little."""
        most = max(FEWEST_SCORED_TOKENS, self.history.targets)
        return held_out_texts(self._split.heldout, self.tokenizer, tokens=most)

    def _held_out_facts(self) -> HeldOutFacts:
        split, scored = self._split, self._held_out
        return HeldOutFacts(
            method=split.method,
            reason=split.reason,
            records=split.heldout.records if split.heldout is not None else 0,
            groups=split.heldout.groups if split.heldout is not None else 0,
            scored_records=len(scored.texts),
            scored_groups=len(set(scored.groups)),
            excluded_shared=split.excluded,
        )

    @cached_property
    def _report_request(self) -> GenerationRequest:
        return GenerationRequest(
            num_samples=_REPORT_SAMPLES, max_new_tokens=_REPORT_TOKENS, seed=self.request.seed
        )

    @cached_property
    def _recited_texts(self) -> list[str]:
        return some_records(self._split.train, self.tokenizer)

    def _observe(self, name: str, model: CausalLM, on_progress: Progress | None) -> Observation:
        return observe(
            name,
            model.to(self._device),
            self.tokenizer,
            self._held_out.texts,
            self._report_request,
            in_stretches=self._held_out.in_stretches,
            trained_on=self._recited_texts,
            on_progress=on_progress,
        )

    def sample(self, model: CausalLM, count: int = _SAMPLES) -> list[Sample]:
        """Samples from the start of a document; the same seeds every time."""
        request = GenerationRequest(num_samples=count, max_new_tokens=_SAMPLE_TOKENS, seed=self.request.seed)
        return generate(model, self.tokenizer, request)

    def stop(self) -> None:
        """End after the step in hand, its state saved; safe to call from a signal handler."""
        self._stop_requested = True
        if self._trainer is not None:
            self._trainer.stop()

    def run(self) -> Iterator[Event | Sampled | Saved]:
        """Train, yielding what happens.

        Raises:
            TrainingError: The loss became NaN; the best checkpoint so far is in the output folder.
            CheckpointError: A checkpoint or the training state could not be written or read.
        """
        facts = self._resumable_facts() if self.request.resume else None
        trainer = self._trainer = self._make_trainer()
        if facts is not None:
            self.history = History.from_dict(facts["history"])
            trainer.restore(load_training_state(state_folder(self.output)))
        if self._stop_requested:
            trainer.stop()
        for event in trainer.run():
            self.history.note(event)
            yield event
            yield from self._respond(trainer, event)

    def measure(self, on_progress: Callable[[str, float], object] | None = None) -> None:
        """Measure both models, unless it was interrupted: a base measured first would delay the training.

        Args:
            on_progress: Told which model is being measured, and the share of that which is done.
        """
        if self._after is not None or self._reason == "interrupted":
            return

        def told(which: str) -> Progress | None:
            return partial(on_progress, which) if on_progress is not None else None

        self._before = self._observe(self.base.origin, self.base.model, told("the base model"))
        tuned = load(self.output).model
        self._after = self._observe(str(self.request.output), tuned, told("the tuned model"))

    def result(self) -> FinetuneResult:
        """What came of it; unless it was interrupted, that takes measuring both models."""
        assert self._trainer is not None, "nothing was run yet"
        self.measure()
        before, after = self._tally(self._before), self._tally(self._after)
        progress = self._trainer.progress
        return FinetuneResult(
            checkpoint=self.output,
            loss_before=before.loss if before is not None else None,
            loss_after=after.loss if after is not None else None,
            before=before,
            after=after,
            held_out=self._held_out_facts() if self._after is not None else None,
            windows=Windows.of(self.base.model),
            steps=progress.step,
            best_step=progress.best_step if self._trainer.held_out is not None else progress.step,
            reason=self._reason,
            history=self.history,
            plan=self.plan,
        )

    def write_report(self, folder: Path, *, run: int | None = None) -> Path:
        """Write ``report.json`` and ``report.html`` into a folder; returns the page.

        The training text is read once more, to see what the samples have in common with it.

        Args:
            folder: Where to.
            run: Number of the run that this is part of, if any.
        """
        result = self.result()
        assert self._before is not None
        assert self._after is not None, "an interrupted fine-tune has no report"
        evidence = Evidence(
            title=f"{self.base.origin} tuned on {', '.join(str(f['name']) for f in self.plan.data.files)}",
            base=self._before,
            tuned=self._after,
            request=self._report_request,
            tokenizer=self.tokenizer,
            training=record_texts(self._split.train, self.tokenizer),
            held_out=self._held_out.texts,
            record_lengths=self._text.lengths,
            points=self.history.points(),
            kept_step=result.best_step,
            end_reason=result.reason,
            settings={**self.request.settings(), "learning_rate": self.plan.learning_rate},
            data=self.plan.data.to_dict(),
            run=run,
            held_out_units=self._held_out.units(len(self._after.scores)),
            held_out_facts=self._held_out_facts(),
        )
        return write_report(folder, analyse(evidence))

    def _tally(self, observation: Observation | None) -> Tally | None:
        """Sums and counts over the held-out groups; None where there are none."""
        if observation is None or not observation.scores:
            return None
        return sum(group_tallies(observation.scores, self._held_out.units(len(observation.scores))), Tally())

    def _make_plan(self) -> Plan:
        request, config = self.request, self._model.config
        facts = describe(self.records, self._text, self._groups)
        block_size = (
            request.block_size
            if request.block_size is not None
            else automatic_block_size(facts, config.context_length)
        )
        if block_size > config.context_length:
            raise value_fault(
                "block_size",
                f"is {block_size}; the model's context is {config.context_length} tokens",
                fix=f"--block-size {config.context_length}",
            )
        blocks = Blocks(self._split.train, block_size)
        trainable = sum(weight.numel() for weight in self._model.parameters() if weight.requires_grad)
        available = available_bytes(self._device)
        rows = min(request.batch_size, len(blocks))
        micro_batch = fitting_micro_batch(
            self._model, trainable, rows, blocks.block_size, self._dtype, available
        )
        batch_size = min(request.batch_size * request.grad_accumulation, len(blocks))
        steps = math.ceil(math.ceil(len(blocks) / batch_size) * request.epochs)
        tokens = blocks.target_count * request.epochs
        return Plan(
            model=self.base.origin,
            parameters=config.parameter_count,
            trainable=trainable,
            device=self._device.type,
            dtype=str(self._dtype).removeprefix("torch."),
            data=facts,
            train_tokens=len(self._split.train),
            held_out_tokens=len(self._split.heldout) if self._split.heldout is not None else 0,
            held_out_records=self._split.heldout.records if self._split.heldout is not None else 0,
            held_out_groups=self._split.heldout.groups if self._split.heldout is not None else 0,
            held_out_excluded=self._split.excluded,
            held_out_method=self._split.method,
            held_out_reason=self._split.reason,
            block_size=blocks.block_size,
            blocks=len(blocks),
            batch_size=batch_size,
            micro_batch=micro_batch,
            epochs=request.epochs,
            steps=min(steps, request.max_steps) if request.max_steps is not None else steps,
            learning_rate=request.learning_rate
            if request.learning_rate is not None
            else automatic_learning_rate(config.parameter_count, lora=request.lora is not None),
            memory_bytes=memory_bytes(self._model, trainable, micro_batch, blocks.block_size, self._dtype),
            available_bytes=available,
            expected_s=expected_seconds(config.parameter_count, tokens, self._dtype, self._device),
        )

    def _make_trainer(self) -> Trainer:
        request, plan = self.request, self.plan
        per_epoch = math.ceil(plan.blocks / plan.batch_size)
        settings = TrainSettings(
            epochs=request.epochs,
            batch_size=plan.batch_size,
            micro_batch=plan.micro_batch,
            schedule=request.schedule,
            warmup_ratio=request.warmup_ratio,
            max_grad_norm=request.max_grad_norm,
            patience=request.patience,
            eval_every=request.eval_every
            if request.eval_every is not None
            else automatic_interval(per_epoch),
            eval_blocks=max(1, _evaluated_tokens(plan.parameters) // plan.block_size),
            save_every=request.save_every if request.save_every is not None else _automatic_saves(per_epoch),
            mask_records=request.mask_records,
            seed=request.seed,
            max_steps=request.max_steps,
        )
        held_out = self._split.heldout
        return Trainer(
            self._model.to(self._device),
            Blocks(self._split.train, plan.block_size),
            Blocks(held_out.first_of_each_group(), plan.block_size) if held_out is not None else None,
            settings,
            adamw(plan.learning_rate, request.weight_decay),
            self._dtype,
            compiled=worth_compiling(self._device, plan.operations),
        )

    def _respond(self, trainer: Trainer, event: Event) -> Iterator[Saved | Sampled]:
        if isinstance(event, Evaluated):
            if event.improved:
                self._save(trainer)
                yield Saved(event.step)
            every = self.request.sample_every
            if event.step > 0 and every != 0 and (every is None or event.step % every == 0):
                yield Sampled(event.step, self.sample(trainer.model))
        elif isinstance(event, SavePoint):
            self._save_state(trainer)
        elif isinstance(event, Finished):
            self._reason = event.reason
            if trainer.held_out is None:
                self._save(trainer)
                yield Saved(event.step)
            if event.reason == "interrupted":
                self._save_state(trainer)
            else:
                shutil.rmtree(state_folder(self.output), ignore_errors=True)

    def _save(self, trainer: Trainer) -> None:
        training = {
            "conjure": version("conjure"),
            "settings": self.request.settings(),
            "plan": self.plan.to_dict(),
            "step": trainer.progress.step,
            "eval_loss": trainer.progress.best_loss if trainer.held_out is not None else None,
            "history": self.history.to_dict(),
        }
        card = model_card(self.plan, trainer.progress.step)
        save_checkpoint(
            self.output, trainer.full_precision_model(), self.tokenizer, training=training, card=card
        )

    def _save_state(self, trainer: Trainer) -> None:
        facts = {
            "agreement": self._agreement(),
            "history": self.history.to_dict(),
        }
        save_training_state(state_folder(self.output), trainer.state(), facts)

    def _agreement(self) -> dict[str, Any]:
        """What two runs must share for one to go on from the other."""
        return {
            **self.request.settings(),
            "data": self.records.digest,
            "tokenizer": self.tokenizer.digest,
            "block_size": self.plan.block_size,
            "batch_size": self.plan.batch_size,
        }

    def _resumable_facts(self) -> dict[str, Any]:
        facts = load_training_facts(state_folder(self.output))
        # An option that the version which saved the state did not have was left at its default.
        then = {each.name: each.default for each in fields(FinetuneRequest)} | facts["agreement"]
        now = json.loads(json.dumps(self._agreement()))
        changed = [
            f"{name} was {then.get(name)!r} and is {now[name]!r}"
            for name in now
            if now[name] != then.get(name)
        ]
        if changed:
            raise UsageError(
                f"the data or options are not those of the interrupted training: {'; '.join(changed)}",
                hint="use the same command as before with --resume, or omit --resume to start again",
            )
        return facts


def _trainable_model(base: CausalLM, request: FinetuneRequest) -> CausalLM:
    """A second model with the base's weights, the request's dropout, and what is frozen marked so."""
    if request.freeze > base.n_layer:
        raise value_fault(
            "freeze",
            f"is {request.freeze}; the model has {base.n_layer} blocks",
            fix=f"--freeze {base.n_layer}",
        )
    model = base.empty_copy(
        embedding_dropout=request.dropout,
        residual_dropout=request.dropout,
        attention_dropout=request.attention_dropout,
    )
    model.load_state_dict({name: weight.clone() for name, weight in base.state_dict().items()}, assign=True)
    if request.freeze > 0:
        for part in (*model.embeddings(), *model.blocks[: request.freeze]):
            part.requires_grad_(requires_grad=False)
    if request.lora is not None:
        add_lora(model, request.lora, seed=request.seed, first_block=request.freeze)
    return model


def _evaluated_tokens(parameters: int) -> int:
    return min(_MOST_EVALUATED, max(_FEWEST_EVALUATED, _EVALUATED_WORK // parameters))


def _automatic_saves(steps_per_epoch: int) -> int:
    """Steps between saves of the training state: once an epoch, and at least every 500 steps."""
    return min(500, steps_per_epoch)
