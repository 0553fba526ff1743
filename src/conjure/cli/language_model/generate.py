"""What `conjure generate` does: writes the samples, shows them as they come, keeps what there is at the end.

Main entry: `generate`. Invariant: stdout holds what was written and nothing else; an interrupt or an error
does not take along what was written before it.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import click

from conjure.cli.language_model.token_view import show_tokens
from conjure.cli.render import StatusLine, note, on_terminal, remark, save_json, visible, write_json
from conjure.core.stop_signals import stopping_in_order
from conjure.core.units import format_duration
from conjure.errors import UsageError
from conjure.lm.generation.engine_loading import LoadedEngine, load_engine
from conjure.lm.generation.generate import Generation, Sample, Token, encode_prompts, exceeds_context
from conjure.lm.generation.request import EncodedPrompt, GenerationRequest, Prompt, prompt_text
from conjure.lm.text.chat.encoding import ChatEncoder
from conjure.lm.text.chat.formats import Message
from conjure.metric_logging import inside_a_run
from conjure.recipes.resource_lookup import data_path, model_lookup

SEPARATOR = "=" * 20  # a line of its own between samples, where stdout is no terminal
INTERRUPTED = 130  # exit status after ^C, as shells have it


def generate(
    request: GenerationRequest,
    *,
    model: str,
    adapter: str | None,
    precision: str,
    chat_on: date | None,
    logprobs: bool,
    as_json: bool,
    streaming: bool | None,
    output: Path | None,
) -> int:
    """Write the samples and print them; the exit status.

    Args:
        request: What is to be written.
        model: A name, a folder, a resource or a hub model.
        adapter: A PEFT folder or resource whose LoRA weights to merge into it.
        precision: Number format of the weights.
        chat_on: Ask the prompts as questions, by the model's chat template, on this date; None: continue.
        logprobs: Show how likely each token was.
        as_json: Print a JSON array.
        streaming: Print as it is written; None does so on a terminal.
        output: A file for the array.
    """
    plain = not as_json and not logprobs
    single = len(request.prompts) * request.num_samples == 1
    if streaming and not (plain and single):
        raise UsageError(
            "--stream can only show a single sample", hint="use -n 1, without --json or --logprobs"
        )

    rows = len(request.prompts) * request.num_samples
    loaded = load_engine(
        model,
        precision=precision,
        rows=rows,
        adapter=data_path(adapter) if adapter is not None else None,
        lookups=[model_lookup],
        on_making=_note_making,
    )
    if chat_on is not None:
        request = _as_questions(request, ChatEncoder.of(loaded.tokenizer, model=model, day=chat_on))
    _note_overflow(loaded, request)
    model_facts = {"model": loaded.origin, "model_sha256": loaded.source.sha256} if output is not None else {}
    streamed = plain and single and (streaming if streaming is not None else on_terminal())
    writing = _Writing(loaded, request, streamed=streamed)

    def hand_over() -> None:
        if output is not None:
            save_json(output, [_as_json(sample, logprobs=True) | model_facts for sample in writing.samples])
        if as_json:
            write_json([_as_json(sample, logprobs=logprobs) for sample in writing.samples])
        elif not streamed:
            _print(writing, logprobs=logprobs)
        note(writing.summary())

    with _stop_signals(writing) as signals:
        try:
            writing.run(signals)
        except Exception:
            if writing.samples:  # as after an interrupt: the error may be that of the last of many batches
                hand_over()
            raise
        hand_over()
    if signals:
        return 128 + signals[0]
    return INTERRUPTED if writing.interrupted else 0


def _stop_signals(writing: "_Writing") -> AbstractContextManager[Sequence[int]]:
    """The signals that ask to stop: a run is sent one where a terminal interrupts."""
    return stopping_in_order(writing.interrupt, quiet=True) if inside_a_run() else nullcontext(())


def _as_questions(request: GenerationRequest, encoder: ChatEncoder) -> GenerationRequest:
    """The request with each prompt as a conversation's first message."""
    texts = [prompt_text(prompt) for prompt in request.prompts]
    return replace(
        request, prompts=[EncodedPrompt(text, encoder.prompt([Message("user", text)])) for text in texts]
    )


def _note_making() -> None:
    note("Quantizing the model's weights to int8 (once per model).")


def _note_overflow(loaded: LoadedEngine, request: GenerationRequest) -> None:
    if request.on_overflow != "slide":
        return
    context = loaded.engine.context_length
    longest = max(map(len, encode_prompts(loaded.tokenizer, request, context)))
    if exceeds_context(longest, request, context):
        remark(
            f"a prompt of {longest:,} tokens and {request.max_new_tokens:,} new tokens exceed the context of "
            f"{context:,} tokens: when it is full, the model continues from the last {context // 2:,}"
        )


def _as_json(sample: Sample, *, logprobs: bool) -> dict[str, Any]:
    return {
        "prompt": sample.prompt,
        "index": sample.index,
        "text": sample.text,
        "token_ids": sample.token_ids,
        **({"logprobs": sample.logprobs} if logprobs else {}),
        "finish_reason": sample.finish_reason,
        "seed": sample.seed,
    }


class _Writing:
    """Takes a request through, shows how far it is, and keeps what was written if it is broken off."""

    def __init__(self, loaded: LoadedEngine, request: GenerationRequest, *, streamed: bool) -> None:
        self.loaded, self.request, self.interrupted = loaded, request, False
        self._streamed = streamed
        self._generation = Generation(loaded.engine, loaded.tokenizer, request)
        self._tokens, self._seconds, self._finished = 0, 0.0, 0
        self._interruptible = False

    def run(self, signals: Sequence[int]) -> None:
        """Write until all is done or an interrupt comes; not at all if there is one among `signals`."""
        if self._streamed:
            _show_prompt(self.request.prompts[0])
        with StatusLine() as status:
            try:
                self._write(status, signals)
            except KeyboardInterrupt:
                self.interrupted = True
            finally:
                if self._streamed:
                    click.echo()

    def interrupt(self) -> None:
        """Break off `run` where it is: called in the handler of a signal, for a prompt can take minutes."""
        if self._interruptible:
            raise KeyboardInterrupt

    @property
    def samples(self) -> list[Sample]:
        """What was written, by prompt, then by index."""
        return self._generation.samples

    def summary(self) -> str:
        facts = [self.loaded.origin, self.loaded.precision]
        facts += [f"seed {self.request.seed}", f"{self._tokens:,} tokens in {format_duration(self._seconds)}"]
        if self._seconds > 0:
            facts.append(f"{self._tokens / self._seconds:,.0f} tokens/s")
        reasons = {sample.finish_reason for sample in self.samples}
        return " · ".join([*facts, *(reason.replace("_", " ") for reason in sorted(reasons))])

    def _write(self, status: StatusLine, signals: Sequence[int]) -> None:
        start = time.monotonic()
        try:
            self._interruptible = True
            if signals:  # it came too early to interrupt anything
                return
            for event in self._generation:
                self._take(event)
                self._seconds = time.monotonic() - start
                if not self._streamed:
                    status.show(self._progress())
        finally:
            self._interruptible = False

    def _take(self, event: Token | Sample) -> None:
        if isinstance(event, Sample):
            self._finished += 1
            return
        self._tokens += 1
        if self._streamed and event.text:
            click.echo(visible(event.text), nl=False)

    def _progress(self) -> str:
        samples = len(self.request.prompts) * self.request.num_samples
        rate = self._tokens / self._seconds if self._seconds else 0.0
        left = (samples * self.request.max_new_tokens - self._tokens) / rate if rate else 0.0
        return (
            f"{self._finished:,} of {samples:,} samples · {self._tokens:,} tokens · {rate:,.0f} tokens/s"
            f" · at most {format_duration(left)} left"
        )


def _print(writing: _Writing, *, logprobs: bool) -> None:
    samples = writing.samples
    for number, sample in enumerate(samples, start=1):
        if on_terminal():
            if len(samples) > 1:
                click.echo(click.style(f"── {number} of {len(samples)} " + "─" * 20, dim=True))
            _show_prompt(writing.request.prompts[sample.prompt_index])
        elif number > 1:
            click.echo(SEPARATOR)
        if logprobs:
            continues = writing.request.prompts[sample.prompt_index] != ""
            show_tokens(writing.loaded.tokenizer, sample.token_ids, sample.logprobs, continues=continues)
        else:
            click.echo(visible(sample.text))


def _show_prompt(prompt: Prompt) -> None:
    """Show what a text goes on from; an answer begins on a line of its own."""
    if on_terminal():
        is_question = isinstance(prompt, EncodedPrompt)
        click.echo(click.style(visible(prompt_text(prompt)), dim=True), nl=is_question)
