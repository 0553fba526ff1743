"""Fine-tuning: a model and a text in, a better model for that text and what changed out.

Main entries: `finetune` for one call; or `conjure.lm.training.preparation.prepare`, `train`, and then
`conjure.lm.training.base_model_comparison.measure` and its `write_report`. Invariants: the output folder
always holds a whole checkpoint, the one with the lowest held-out loss so far (one that was there before stays
until there is something better than the base model); and nothing that was learned is lost to an interruption,
until the report is written.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from conjure.errors import CheckpointError, UsageError, option
from conjure.lm.checkpoints.adapters import ADAPTER, save_adapter
from conjure.lm.checkpoints.checkpoint_folder import CONFIG_FILE
from conjure.lm.checkpoints.describe import read_training
from conjure.lm.checkpoints.model_resolver import Lookup
from conjure.lm.checkpoints.pretrained import save_checkpoint
from conjure.lm.generation.generate import Sample, generate
from conjure.lm.generation.score import Tally, Windows
from conjure.lm.hardware import worth_compiling
from conjure.lm.models.base import CausalLM
from conjure.lm.report.compared_records import Training
from conjure.lm.report.report_schema import HeldOutFacts
from conjure.lm.text.split import train_part_of_0_1
from conjure.lm.training.base_model_comparison import Comparison, measure, write_report
from conjure.lm.training.distributed.process_group import DTYPE, ProcessGroup
from conjure.lm.training.events import Evaluated, Event, Finished, Sampled, Saved, SavePoint, TuningEvent
from conjure.lm.training.history import History, Trained
from conjure.lm.training.lora import ALPHA
from conjure.lm.training.master_weights import adamw
from conjure.lm.training.model_card import model_card
from conjure.lm.training.packing import Blocks
from conjure.lm.training.plan import Plan
from conjure.lm.training.preparation import Prepared, prepare, trainable_model
from conjure.lm.training.request import FinetuneRequest
from conjure.lm.training.state import (
    load_training_facts,
    load_training_state,
    remove_training_state,
    save_training_state,
    state_folder,
)
from conjure.lm.training.trainer import Progress, Trainer, TrainSettings

# Held-out tokens that an evaluation reads: many, but fewer where a model is large, so that neither the first
# step nor the rest of the training waits long for it.
_FEWEST_EVALUATED, _MOST_EVALUATED = 1 << 14, 1 << 16
_EVALUATED_WORK = 1 << 40  # tokens times parameters
_SAMPLES, _SAMPLE_TOKENS = 3, 60  # at each evaluation
_TRAIN_PART = "train_sha256"  # which of the records are trained on


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
    history: History
    plan: Plan

    @classmethod
    def of(cls, prepared: Prepared, trained: Trained, comparison: Comparison | None) -> "FinetuneResult":
        """The result of a training and, unless it was interrupted, of measuring both models."""
        before = comparison.tally(comparison.before) if comparison is not None else None
        after = comparison.tally(comparison.after) if comparison is not None else None
        return cls(
            checkpoint=prepared.output,
            loss_before=before.loss if before is not None else None,
            loss_after=after.loss if after is not None else None,
            before=before,
            after=after,
            held_out=comparison.facts(prepared) if comparison is not None else None,
            windows=Windows.of(prepared.base.model),
            steps=trained.steps,
            best_step=trained.best_step,
            reason=trained.reason,
            history=trained.history,
            plan=prepared.plan,
        )


def finetune(
    data: str | Path | Sequence[str | Path],
    *,
    output: str | Path,
    model: str | Path = "sprite",
    on_event: Callable[[TuningEvent], None] | None = None,
    lookups: Iterable[Lookup] = (),
    base_trainings: Sequence[Training] = (),
    **options: Any,
) -> FinetuneResult:
    """Tune a model on text of one's own.

    Args:
        data: Files or folders of text.
        output: Checkpoint folder to write; what is there is replaced when there is something better.
        model: Name or folder of the model to start from.
        lookups: Tell the folders of model names only the caller knows, such as ``runs/3``.
        base_trainings: Those that the model to start from came of, where they are known.
        on_event: Called with every step, evaluation, save and sample.
        **options: The other fields of `FinetuneRequest`.

    Returns:
        Among others ``loss_before`` and ``loss_after`` (held-out, nats per token) and ``checkpoint``.

    Raises:
        ConjureError: What was asked for cannot be; see `FinetuneRequest`, `prepare` and `train`.
    """
    sources = [data] if isinstance(data, str | Path) else data
    request = FinetuneRequest(data=sources, output=output, model=model, **options)
    if request.distributed is not None:
        raise UsageError(
            f"{option('distributed')} needs a run, which starts the processes", hint="use Client.finetune"
        )
    prepared = prepare(request, lookups=lookups)
    trained = run_training(prepared, on_event=on_event)
    comparison = measure(prepared, trained, base_trainings=base_trainings)
    finish(prepared, trained, comparison, prepared.output)
    return FinetuneResult.of(prepared, trained, comparison)


def finish(
    prepared: Prepared, trained: Trained, comparison: Comparison, folder: Path, *, run: int | None = None
) -> Path:
    """Write the report; only then the training state goes, with which measuring could be repeated.

    Args:
        prepared: The fine-tune.
        trained: What came of it.
        comparison: What was measured.
        folder: Where to write the report.
        run: The run this is.

    Returns:
        The report's page.
    """
    page = write_report(prepared, trained, comparison, folder, run=run)
    remove_training_state(state_folder(prepared.output))
    return page


def run_training(
    prepared: Prepared,
    *,
    on_event: Callable[[TuningEvent], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    group: ProcessGroup | None = None,
) -> Trained:
    """Go through `train` to its end, handing on every event but the last, which is returned."""
    for event in train(prepared, should_stop=should_stop, group=group):
        if isinstance(event, Trained):
            return event
        if on_event is not None:
            on_event(event)
    raise AssertionError("the last event of a training is `Trained`")


def train(
    prepared: Prepared,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    group: ProcessGroup | None = None,
) -> Iterator[TuningEvent | Trained]:
    """Train, yielding what happens and at the end what it came to; saves what is worth keeping.

    The training state is saved at the end too, so that measuring can be repeated; `remove_training_state`
    when the report is written.

    Args:
        prepared: The fine-tune; its `model` is what is trained, so that it can be trained once.
        should_stop: Asked after every event; once it is true, training ends after the step in hand, its
            state saved.
        group: The processes that share the work; only the first of them writes anything.

    Raises:
        TrainingError: The loss became NaN; the best checkpoint so far is in the output folder.
        CheckpointError: A checkpoint or the training state could not be written or read.
    """
    facts = _resumable_facts(prepared) if prepared.request.resume else None
    trainer = make_trainer(prepared, group)
    history, state, begun = History(), None, Progress()
    if facts is not None:
        history = History.from_dict(facts["history"])
        state = load_training_state(state_folder(prepared.output))
        begun = _with_best_of(prepared.output, state.progress, history)
    # Nodes that choose the number format themselves may differ: their processors do.
    chosen = {"micro_batch": prepared.plan.micro_batch, DTYPE: prepared.plan.dtype}
    noted = {"step": begun.step, "best_loss": begun.best_loss}
    trainer.group.agree({**_agreement(prepared), **chosen, **noted})
    if state is not None:
        trainer.restore(replace(state, progress=begun))
    reason = "interrupted"
    for event in trainer.run():
        history.note(event)
        yield event
        if trainer.group.leads:
            yield from _respond(prepared, trainer, history, event)
        if isinstance(event, Finished):
            reason = event.reason
        if should_stop():
            trainer.stop()
    trainer.group.finish()
    progress = trainer.progress
    best = progress.best_step if trainer.held_out is not None else progress.step
    yield Trained(reason, progress.step, best, history)


def make_trainer(prepared: Prepared, group: ProcessGroup | None = None) -> Trainer:
    """The training loop that a plan asks for, in one of the processes of a group."""
    request, plan, held_out = prepared.request, prepared.plan, prepared.split.heldout
    settings = TrainSettings(
        epochs=request.epochs,
        batch_size=plan.batch_size,
        micro_batch=plan.micro_batch,
        schedule=request.schedule,
        warmup_ratio=request.warmup_ratio,
        max_grad_norm=request.max_grad_norm,
        patience=request.patience,
        eval_every=prepared.eval_every,
        eval_blocks=max(1, _evaluated_tokens(plan.parameters) // plan.block_size),
        save_every=prepared.save_every,
        mask_records=bool(request.mask_records),
        seed=request.seed,
        max_steps=request.max_steps,
    )
    return Trainer(
        prepared.model.to(prepared.device),
        Blocks(prepared.split.train, plan.block_size),
        Blocks(held_out.without_repeats(), plan.block_size) if held_out is not None else None,
        settings,
        adamw(plan.learning_rate, request.weight_decay),
        prepared.dtype,
        compiled=worth_compiling(prepared.device, plan.operations),
        group=group,
    )


def _evaluated_tokens(parameters: int) -> int:
    return min(_MOST_EVALUATED, max(_FEWEST_EVALUATED, _EVALUATED_WORK // parameters))


def _respond(
    prepared: Prepared, trainer: Trainer, history: History, event: Event
) -> Iterator[Saved | Sampled]:
    if isinstance(event, Evaluated):
        if event.improved and not (event.step == 0 and _has_checkpoint(prepared)):
            _save_trained(prepared, trainer, history)
            yield Saved(event.step)
        if _is_to_sample(history, prepared.request.sample_every):
            yield Sampled(event.step, _samples(prepared, trainer.model))
    elif isinstance(event, SavePoint):
        _save_state(prepared, trainer, history)
    elif isinstance(event, Finished):
        if event.reason == "interrupted":
            if trainer.held_out is None and not _has_checkpoint(prepared):
                _save_trained(prepared, trainer, history)
                yield Saved(event.step)
            _save_state(prepared, trainer, history)
            return
        if trainer.held_out is None:
            _save_trained(prepared, trainer, history)
            yield Saved(event.step)
        elif trainer.progress.best_step == 0 and _saved_evaluation(prepared.output, history) is None:
            _save_base(prepared, trainer, history)
            yield Saved(0)
        with suppress(CheckpointError):  # on a full disk, what was learned can still be measured
            _save_state(prepared, trainer, history)


def _is_to_sample(history: History, every: int | None) -> bool:
    """Whether the last evaluation is the first one at or after a multiple of so many steps; see `request`."""
    steps = [step for step, _ in history.held_out]
    before = steps[-2] if len(steps) > 1 else 0
    if every == 0 or steps[-1] == 0:
        return False
    return every is None or steps[-1] // every > before // every


def _samples(prepared: Prepared, model: CausalLM) -> list[Sample]:
    """Samples from the start of a document, or answers; the same seeds every time."""
    return generate(model, prepared.tokenizer, prepared.generation_request(_SAMPLES, _SAMPLE_TOKENS))


def _has_checkpoint(prepared: Prepared) -> bool:
    """Whether there is a result already where this training's is to be."""
    is_adapter = prepared.request.lora_output == "adapter"
    if is_adapter and (prepared.adapter_output / ADAPTER.config).is_file():
        return True
    return (prepared.output / CONFIG_FILE).is_file()


def _saved_evaluation(output: Path, history: History) -> tuple[int, float] | None:
    """Step and loss of the checkpoint in a folder; None if it is not of the training with this history."""
    facts = read_training(output) or {}
    try:
        curve = [(step, loss) for step, loss in facts["history"]["held_out"]]
        saved = facts["step"], facts["eval_loss"]
    except (KeyError, TypeError, ValueError):
        return None
    shared = min(len(curve), len(history.held_out))
    return saved if shared > 0 and curve[:shared] == history.held_out[:shared] else None


def _with_best_of(output: Path, progress: Progress, history: History) -> Progress:
    """Progress to go on from, its best evaluation that of the checkpoint in the output folder.

    If that is not of this training, or is gone, the best loss is infinite: the next weights are saved.
    """
    if progress.best_step == 0:
        return progress  # the base model, or nothing is held out
    saved = _saved_evaluation(output, history)
    if saved is None:
        return replace(progress, best_step=progress.step, best_loss=math.inf)
    step, loss = saved
    if step > progress.step:
        return progress  # it was saved after the state, and training will come to the same weights
    return replace(progress, best_step=step, best_loss=loss)


def _save_trained(prepared: Prepared, trainer: Trainer, history: History) -> None:
    """Save the weights as they are now."""
    loss = trainer.progress.best_loss if trainer.held_out is not None else None
    weights = trainer.optimizer.full_precision()
    _save(prepared, trainer.full_precision_model(), weights, trainer.progress.step, loss, history)


def _save_base(prepared: Prepared, trainer: Trainer, history: History) -> None:
    """Save the base model, which is what the training came to."""
    weights = trainable_model(prepared.base.model, prepared.request).state_dict()
    _save(prepared, prepared.base.model, weights, 0, trainer.progress.best_loss, history)


def _save(
    prepared: Prepared,
    model: CausalLM,
    weights: Mapping[str, Tensor],
    step: int,
    loss: float | None,
    history: History,
) -> None:
    own = prepared.base.model.config
    model.config = replace(  # what it was trained with here is no fact about the model
        model.config,
        embedding_dropout=own.embedding_dropout,
        residual_dropout=own.residual_dropout,
        attention_dropout=own.attention_dropout,
    )
    training = {
        "conjure": version("conjure"),
        "base": prepared.base_noted,
        "settings": prepared.settings(),
        _TRAIN_PART: prepared.split.train.digest,
        "plan": prepared.plan.to_dict(),
        "step": step,
        "eval_loss": loss,
        "history": history.to_dict(),
    }
    card = model_card(prepared.plan, step, prepared.base_facts)
    save_checkpoint(
        prepared.output,
        model,
        prepared.tokenizer,
        training=training,
        card=card,
        licence_texts=prepared.base_facts.licence_texts,
    )
    if prepared.request.lora_output == "adapter":
        save_adapter(
            prepared.adapter_output,
            model.config,
            weights,
            alpha=ALPHA,
            base=str(prepared.request.model),
            base_sha256=prepared.base_noted["sha256"],
        )


def _save_state(prepared: Prepared, trainer: Trainer, history: History) -> None:
    facts = {
        "conjure": version("conjure"),
        "base": prepared.base_noted,
        "agreement": _agreement(prepared),
        "micro_batch": trainer.settings.micro_batch,
        "learning_rate": prepared.plan.learning_rate,
        "history": history.to_dict(),
    }
    save_training_state(state_folder(prepared.output), trainer.state(), facts)


def _agreement(prepared: Prepared) -> dict[str, Any]:
    """What two runs must share for one to go on from the other."""
    return {
        **prepared.request.settings(),
        "data": prepared.records.digest,
        "validation_data": prepared.validation.digest if prepared.validation is not None else None,
        "tokenizer": prepared.tokenizer.digest,
        "block_size": prepared.plan.block_size,
        "batch_size": prepared.plan.batch_size,
        _TRAIN_PART: prepared.split.train.digest,
    }


def _resumable_facts(prepared: Prepared) -> dict[str, Any]:
    facts = load_training_facts(state_folder(prepared.output))
    # An option that the version which saved the state did not have was left at its default.
    then = {each.name: each.default for each in fields(FinetuneRequest)} | facts["agreement"]
    now = json.loads(json.dumps(_agreement(prepared)))
    train_part = now.pop(_TRAIN_PART)
    changed = [
        f"{name} was {then.get(name)!r} and is {now[name]!r}" for name in now if now[name] != then.get(name)
    ]
    if changed:
        raise UsageError(
            f"the data or options are not those of the interrupted training: {'; '.join(changed)}",
            hint=f"use the same command as before with {option('resume')}, or omit it to start again",
        )
    if train_part != then.get(_TRAIN_PART, train_part_of_0_1(prepared.text, prepared.request.holdout).digest):
        raise UsageError(
            "the interrupted training was on other records of the data: that version of conjure held out"
            " others than this one does",
            hint=f"install conjure {facts.get('conjure', '0.1.0')} to continue it,"
            f" or omit {option('resume')} to start again",
        )
    return facts
