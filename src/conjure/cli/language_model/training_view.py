"""How a training run looks in a terminal, and in a file: plan, progress, samples, what changed.

Main entries: `plan_lines`, `TrainingView`, `result_lines`. Invariant: a terminal has one line that is
rewritten; anything else gets whole lines, a few a minute.
"""

import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from conjure.cli.language_model.data_preview import records_line
from conjure.cli.render import StatusLine, note, visible
from conjure.core.home_selection import with_home
from conjure.core.quoting import printable, shell_words
from conjure.core.text import plural
from conjure.core.units import format_duration, format_number, format_size
from conjure.lm.report.report_schema import HeldOutFacts
from conjure.lm.training.events import Evaluated, Sampled, StepDone, TuningEvent
from conjure.lm.training.finetune import FinetuneResult
from conjure.lm.training.plan import Plan
from conjure.metric_logging import RUN_VARIABLE

_PLAIN_EVERY_S = 15.0
_RECENT_STEPS = 20
_BAR_WIDTH = 24


def plan_lines(plan: Plan) -> list[str]:
    """The plan, a fact a line."""
    data = plan.data
    lines = [
        f"Model    {plan.model}: {_count(plan.parameters)} parameters"
        + ("" if plan.trainable == plan.parameters else f", {_count(plan.trainable)} trainable"),
        f"Text     {records_line(data)}{',' if data.groups == data.records else ';'} {data.tokens:,} tokens"
        f" (median {data.lengths.median:.0f}, max {data.lengths.longest:,})",
        *_learned(plan),
        *(f"         {printable(sentence)}" for sentence in (*data.bad_rows, *data.remarks)),
        f"Split    {plan.train_tokens:,} training tokens{_dropped(plan)}, {_held_out(plan)}"
        + (f"; {plan.held_out_reason}" if plan.held_out_reason else ""),
        *([f"         {plan.held_out_remark}"] if plan.held_out_remark is not None else ()),
        *(f"         validation file: {printable(sentence)}" for sentence in plan.validation_notes),
        f"Steps    {plan.steps:,}: {plan.epochs:g} × {plan.blocks:,} blocks of {plan.block_size:,}"
        f" tokens, {plan.batch_size} per step{_at_a_time(plan)}",
        f"Rate     peak {format_number(plan.learning_rate)}{_ways(plan)}",
        f"Machine  {_processes(plan)}{plan.device}, {plan.dtype}"
        f"; needs about {format_size(plan.memory_bytes)} ({format_size(plan.available_bytes)} free)"
        f"; about {format_duration(plan.expected_s)} on an idle machine",
    ]
    return lines


def _ways(plan: Plan) -> str:
    """What of the model decides how it is trained, where it is not plain."""
    dropout = f", dropout {plan.dropout:g}" if plan.dropout else ""
    return dropout + (", records masked" if plan.mask_records else "")


def _at_a_time(plan: Plan) -> str:
    """How the blocks of a step are read, where not all at once."""
    if plan.micro_batch >= plan.batch_size:
        return ""
    if plan.processes > 1:
        return f" ({plan.micro_batch} at a time in each process)"
    return f" ({plan.micro_batch} at a time)"


def _processes(plan: Plan) -> str:
    """How many processes train, if more than one."""
    if plan.processes == 1:
        return ""
    where = f" on {plan.nodes} nodes" if plan.nodes > 1 else ""
    return f"{plan.processes} processes{where} of {plural(plan.threads, 'thread')} each, "


def _learned(plan: Plan) -> Iterator[str]:
    """Of conversations, what is learned of them."""
    if plan.train_answer_tokens is not None:
        formats = ", ".join(sorted({str(file["chat"]) for file in plan.data.files}))
        count = plan.train_answer_tokens
        yield f"         conversations ({formats}): {count:,} tokens of answers are trained on"


def _dropped(plan: Plan) -> str:
    """How many records are not learned from, if any."""
    if not plan.train_dropped:
        return ""
    return f" (without {plural(plan.train_dropped, 'duplicate record')}: --dedup drop)"


def _held_out(plan: Plan) -> str:
    """What is measured on, and what was left out of it."""
    groups, records = plan.held_out_groups, plan.held_out_records
    line = f"{plan.held_out_tokens:,} held-out tokens"
    if plan.held_out_method == "records":
        line += f" in {plural(records, 'record')}"
        line += f" ({groups:,} groups)" if groups < records else ""
        if plan.held_out_excluded:
            line += f"; {plan.held_out_excluded:,} more excluded as duplicates of training records"
    return line


class TrainingView:
    """Shows events as they come."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._status = StatusLine()
        self._recent: deque[StepDone] = deque(maxlen=_RECENT_STEPS)
        self._held_out: float | None = None
        self._started = self._plain_at = time.monotonic()
        self._first_step: int | None = None

    def __enter__(self) -> "TrainingView":
        return self

    def __exit__(self, *_: object) -> None:
        self._status.clear()

    def show(self, event: TuningEvent) -> None:
        """Show one event."""
        if isinstance(event, StepDone):
            self._step(event)
        elif isinstance(event, Evaluated):
            self._evaluated(event)
        elif isinstance(event, Sampled):
            self._sampled(event)

    def _step(self, event: StepDone) -> None:
        if self._first_step is None:
            self._first_step = event.step - 1
        self._recent.append(event)
        line = self._line(event)
        self._status.show(f"{_bar(event.step / self._plan.steps)} {line}")
        if not self._status.enabled and time.monotonic() - self._plain_at >= _PLAIN_EVERY_S:
            self._plain_at = time.monotonic()
            note(line)

    def _line(self, event: StepDone) -> str:
        losses = [step.loss for step in self._recent if step.loss is not None]
        loss = f" · loss {sum(losses) / len(losses):.3f}" if losses else ""
        rate = sum(step.tokens for step in self._recent) / sum(step.seconds for step in self._recent)
        done = event.step - (self._first_step or 0)
        left = (time.monotonic() - self._started) / done * (self._plan.steps - event.step)
        held_out = f" · eval loss {self._held_out:.3f}" if self._held_out is not None else ""
        return (
            f"step {event.step:,} of {self._plan.steps:,}{loss}{held_out}"
            f" · {rate:,.0f} tokens/s · {format_duration(left)} left"
        )

    def _evaluated(self, event: Evaluated) -> None:
        self._held_out = event.loss
        self._status.clear()
        note(
            f"step {event.step:,}: eval loss {event.loss:.4f}" + (" (best so far)" if event.improved else "")
        )

    def _sampled(self, event: Sampled) -> None:
        for sample in event.samples:
            text = " ".join(sample.text.split())
            click.echo(click.style("  ▸ ", fg="cyan") + visible(text, err=True), err=True)


class MeasuringView:
    """Shows the progress of the evaluation of the models."""

    def __init__(self) -> None:
        self._status = StatusLine()
        self._plain_at = time.monotonic()

    def __enter__(self) -> "MeasuringView":
        return self

    def __exit__(self, *_: object) -> None:
        self._status.clear()

    def show(self, which: str, share: float) -> None:
        """Show how much of the evaluation of a model is done."""
        line = f"Evaluating {which}: {share:.0%}"
        self._status.show(f"{_bar(share)} {line}")
        if not self._status.enabled and time.monotonic() - self._plain_at >= _PLAIN_EVERY_S:
            self._plain_at = time.monotonic()
            note(line)


def result_lines(result: FinetuneResult, report: Path | None) -> list[str]:
    """What changed, and what to type next."""
    if result.reason == "interrupted":
        number = os.environ.get(RUN_VARIABLE)
        resume = with_home(f"conjure finetune --resume runs/{number}")
        again = resume if number else "the same command with --resume"
        return [f"Stopped after step {result.steps:,} of {result.plan.steps:,}", f"To resume: {again}"]
    endings = {"completed": "Done", "early_stop": "Stopped early"}
    why = " (eval loss stopped improving)" if result.reason == "early_stop" else ""
    lines = [f"{endings[result.reason]} after {result.steps:,} steps{why}; {_kept(result)}"]
    if result.before is not None and result.after is not None and result.held_out is not None:
        before, after = result.before, result.after
        lines += [
            "",
            f"{'On held-out text':<24}{'before':>10}{'after':>10}",
            f"{'loss (nats per token)':<24}{before.loss:>10.3f}{after.loss:>10.3f}",
            f"{'perplexity':<24}{before.perplexity:>10.1f}{after.perplexity:>10.1f}",
            f"{'bits per byte':<24}{before.bits_per_byte:>10.3f}{after.bits_per_byte:>10.3f}",
            f"({_scored(result.held_out)}, {_after(result)}, context"
            f" {result.windows.context}, stride {result.windows.stride})",
        ]
    return [*lines, "", *_whereabouts(result, report)]


def _after(result: FinetuneResult) -> str:
    is_chat = result.plan.data.answer_tokens is not None
    return "their answers after what comes before them" if is_chat else "each after an end-of-text token"


def _kept(result: FinetuneResult) -> str:
    if result.best_step == 0:
        return "nothing was learned: the result is the base model, unchanged"
    return f"kept the weights of step {result.best_step:,}"


def _scored(held_out: HeldOutFacts) -> str:
    """The held-out records that were scored, of how many."""
    scored, records = held_out.scored_records, held_out.records
    line = f"{scored:,} of {records:,}" if scored < records else f"all {records:,}"
    line += f" held-out record{'s' * (records != 1)}"
    if held_out.seen_by_base:
        line += f", without {held_out.seen_by_base:,} that the base model was trained on"
    if held_out.scored_groups < scored:
        line += f" in {held_out.scored_groups:,} groups, each counted once"
    return line


def _whereabouts(result: FinetuneResult, report: Path | None) -> list[str]:
    number = os.environ.get(RUN_VARIABLE)
    if number is not None:
        model, page = f"runs/{number}", with_home(f"conjure report {number}")
    else:
        model, page = _short(result.checkpoint), _short(report) if report is not None else ""
    verb = "chat" if result.plan.data.are_chats else "generate"
    return [f"Report: {page}", f"Next:   {with_home(f'conjure {verb} --model {shell_words(model)}')}"]


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def result_json(result: FinetuneResult, report: Path | None) -> dict[str, Any]:
    """The result for programs."""
    return {
        "checkpoint": str(result.checkpoint),
        "report": str(report) if report is not None else None,
        "reason": result.reason,
        "steps": result.steps,
        "best_step": result.best_step,
        "loss_before": result.loss_before,
        "loss_after": result.loss_after,
        "held_out": asdict(result.held_out) if result.held_out is not None else None,
        "tokens_per_s": result.history.tokens / result.history.seconds if result.history.seconds else None,
        "plan": result.plan.to_dict(),
    }


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:,.1f}M" if parameters >= 1e5 else f"{parameters:,}"


def _bar(share: float) -> str:
    filled = round(share * _BAR_WIDTH)
    return "█" * filled + "░" * (_BAR_WIDTH - filled)
