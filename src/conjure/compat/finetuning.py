"""The course of one ``run_lm_finetuning.py``: load, train, report, save, evaluate.

Main entry: `Finetuning.run`. Invariant: an interruption loses no more than the step it came in.
"""

from argparse import Namespace
from dataclasses import fields
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conjure.compat.checkpoints import evaluated_folders, prune, save, step_folder, step_of
from conjure.compat.progress import Progress
from conjure.compat.script import say
from conjure.compat.training import OldTraining, Training, Update, evaluate, read_blocks
from conjure.core.files import write_atomically
from conjure.core.stop_signals import stopping_in_order
from conjure.core.text import error_text
from conjure.core.units import format_number
from conjure.errors import CheckpointError
from conjure.lm.checkpoints.checkpoint_folder import read_config
from conjure.lm.checkpoints.model_resolver import resolve_model
from conjure.lm.checkpoints.pretrained import load_model
from conjure.lm.checkpoints.tensor_layout import stored_names
from conjure.lm.hardware import keep_freed_memory, pick_device
from conjure.lm.models.base import CausalLM
from conjure.lm.models.registry import build
from conjure.lm.models.shape import ModelConfig
from conjure.lm.text.tokenizer import Tokenizer
from conjure.metric_logging import log_metric

RESULTS_FILE = "eval_results.txt"


class Finetuning:
    """One call of the script; `flags` are its arguments, checked."""

    def __init__(self, flags: Namespace) -> None:
        keep_freed_memory()
        self.flags = flags
        self.output = Path(flags.output_dir)
        self._device = torch.device("cpu") if flags.no_cuda else pick_device()
        self._evaluation_blocks: dict[int, Tensor] = {}  # by context length

    def run(self) -> int:
        """Train and evaluate, as the flags say; the exit status."""
        if self.flags.do_train:
            status = self._train()
            if status != 0:
                return status
        if self.flags.do_eval:
            self._evaluate_folders()
        return 0

    @cached_property
    def _base(self) -> Path:
        """The folder of the model to start from."""
        return resolve_model(self.flags.model_name_or_path).folder

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        if self.flags.tokenizer_name:
            folder = resolve_model(self.flags.tokenizer_name).folder
        else:
            folder = self._base if self.flags.model_name_or_path else self.output
        return Tokenizer.from_folder(folder)

    def _train(self) -> int:
        model = self._load_base()
        blocks = self._blocks(self.flags.train_data_file, model.config.context_length)
        if self.flags.do_eval or self.flags.evaluate_during_training:
            self._evaluated_blocks(model.config.context_length)  # a wrong file is told before the work
        names = [field.name for field in fields(OldTraining)]
        training = Training(model, blocks, OldTraining(**{name: getattr(self.flags, name) for name in names}))
        batch = self.flags.per_gpu_train_batch_size * self.flags.gradient_accumulation_steps
        tokens = min(batch, len(blocks)) * blocks.shape[1]
        say(f"Training: {training.updates:,} steps of {tokens:,} tokens, on the {self._device.type}")
        reported = 0.0
        with (
            stopping_in_order(training.stop) as signals,
            Progress("step", training.updates, tokens) as progress,
        ):
            for update in training.run():
                progress.advance()
                if _due(update.step, self.flags.logging_steps):
                    progress.clear()
                    self._report(model, update, reported)
                    reported = update.loss_sum
                if _due(update.step, self.flags.save_steps):
                    self._save(step_folder(self.output, update.step), training)
                    prune(self.output, self.flags.save_total_limit)
        if signals and training.step < training.updates:
            return self._interrupted(training, signals[0])
        self._save(self.output, training)
        say(
            f"{training.step:,} steps, average loss {training.loss_sum / training.step:.4f};"
            f" the model is in {self.output}"
        )
        return 0

    def _load_base(self) -> CausalLM:
        model = load_model(self._base)
        if self.flags.config_name:
            model = _with_config(model, read_config(resolve_model(self.flags.config_name).folder))
        self._check_vocabulary(model)
        return model.to(self._device)

    def _check_vocabulary(self, model: CausalLM) -> None:
        if self._tokenizer.vocab_size > model.config.vocab_size:
            raise CheckpointError(
                f"the tokenizer has {self._tokenizer.vocab_size:,} tokens and the model only"
                f" {model.config.vocab_size:,}: they do not match"
            )

    def _blocks(self, file: str, context_length: int) -> Tensor:
        """A text file's blocks, (N, T); tells what was dropped."""
        wanted = self.flags.block_size
        block_size = min(wanted, context_length) if wanted > 0 else context_length
        blocks, dropped = read_blocks(Path(file), self._tokenizer, block_size)
        say(
            f"{file}: {len(blocks):,} blocks of {block_size:,} tokens"
            + (
                f"; warning: its last {dropped:,} tokens do not fill a block and are dropped"
                if dropped
                else ""
            )
        )
        return blocks

    def _evaluated_blocks(self, context_length: int) -> Tensor:
        """The blocks to measure on, read once for each context length, (N, T)."""
        if context_length not in self._evaluation_blocks:
            self._evaluation_blocks[context_length] = self._blocks(self.flags.eval_data_file, context_length)
        return self._evaluation_blocks[context_length]

    def _report(self, model: CausalLM, update: Update, reported: float) -> None:
        if self.flags.evaluate_during_training:
            self._evaluate(model, self.output, update.step)
        loss = (update.loss_sum - reported) / self.flags.logging_steps
        log_metric("loss", loss, update.step)
        log_metric("lr", update.learning_rate, update.step)
        say(f"step {update.step:,}: loss {loss:.4f}, learning rate {format_number(update.learning_rate)}")

    def _save(self, folder: Path, training: Training) -> None:
        facts: dict[str, Any] = {
            "conjure": version("conjure"),
            "script": "run_lm_finetuning",
            "arguments": vars(self.flags),
            "step": training.step,
            "average_loss": training.loss_sum / training.step if training.step else None,
        }
        save(folder, training.model, self._tokenizer, facts)

    def _interrupted(self, training: Training, signal_number: int) -> int:
        folder = step_folder(self.output, training.step)
        self._save(folder, training)
        say(f"Stopped after step {training.step:,} of {training.updates:,}; the model was saved to {folder}")
        return 128 + signal_number

    def _evaluate_folders(self) -> None:
        folders = evaluated_folders(self.output, all_checkpoints=self.flags.eval_all_checkpoints)
        for folder in folders:
            model = load_model(folder).to(self._device)
            self._check_vocabulary(model)
            self._evaluate(model, folder, step_of(folder))

    def _evaluate(self, model: CausalLM, folder: Path, step: int | None) -> None:
        """Measure `model`, and write the result to `folder`."""
        context, batch_size = model.config.context_length, self.flags.per_gpu_eval_batch_size
        blocks = self._evaluated_blocks(context)
        batches = -(-len(blocks) // batch_size)
        with Progress("batch", batches, batch_size * blocks.shape[1]) as progress:
            loss = evaluate(model, blocks, batch_size, progress.advance)
        perplexity = torch.tensor(loss).exp()
        _write_results(folder, f"perplexity = {perplexity!s}\n")
        log_metric("eval_perplexity", perplexity, step)
        say(f"{folder}: perplexity {perplexity.item():.4f}")


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _with_config(model: CausalLM, config: ModelConfig) -> CausalLM:
    """The same weights in a model of another configuration, which must have the same shape."""
    other = build(config)
    weights = model.state_dict()
    for name, needed in other.state_dict().items():
        if name not in weights or weights[name].shape != needed.shape:
            held = tuple(weights[name].shape) if name in weights else "missing"
            (stored,) = stored_names(config, name)
            raise CheckpointError(
                f"the model does not fit the configuration of --config_name: {stored} is {held} and"
                f" {tuple(needed.shape)} is needed"
            )
    other.load_state_dict(weights, assign=True)
    return other


def _write_results(folder: Path, text: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / RESULTS_FILE, text)
    except OSError as error:
        reason = error_text(error)
        raise CheckpointError(f"{RESULTS_FILE} could not be written to {folder}: {reason}") from error
