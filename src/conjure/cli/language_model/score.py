"""What `conjure score` does: scores the texts with each model, and prints the figures with their protocol.

Main entry: `score`. Invariant: the number format, which is told with the figures, does not depend on the
machine.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import permutations
from pathlib import Path
from typing import Any

import click

from conjure.cli.language_model.token_view import show_tokens
from conjure.cli.render import StatusLine, note, remark, save_json, write_json
from conjure.core.text import plural, today
from conjure.core.units import format_duration
from conjure.errors import DataError
from conjure.lm.checkpoints.base_model import base_difference
from conjure.lm.checkpoints.describe import read_training
from conjure.lm.checkpoints.model_resolver import ModelSource
from conjure.lm.generation.score import Score, Tally, Windows, score_chats, score_documents
from conjure.lm.generation.scorer_loading import LoadedScorer, Precision, load_scorer
from conjure.lm.text.chat.encoding import EncodedChat, conversation_encoder, encode_record
from conjure.lm.text.read_options import ReadOptions
from conjure.lm.text.records import RecordSet, read_records
from conjure.metric_logging import inside_a_run
from conjure.recipes.generation_specs import refuse_needless_date
from conjure.recipes.resource_lookup import data_path, model_lookup


def score(
    inputs: Sequence[str],
    *,
    models: Sequence[str],
    files: bool,
    column: str | None,
    split: str | None,
    layout: ReadOptions,
    context: int | None,
    stride: int | None,
    chat_date: date | None,
    adapter: str | None,
    precision: Precision,
    per_token: bool,
    as_json: bool,
    output: Path | None,
) -> int:
    """Score what is given with each model and print the figures; the exit status.

    Args:
        inputs: The text, or names of files.
        models: Names; figures of several stand side by side.
        files: Whether `inputs` are names of files.
        column: Of tables.
        split: How text files are cut into records.
        layout: How the files are written.
        context: Tokens seen at once; None takes all the model can, at most 8,192.
        stride: Tokens from one window to the next; None takes half the context.
        chat_date: What a chat template gets when it asks for the date; None is today.
        adapter: A PEFT folder or resource whose LoRA weights to merge into the model.
        precision: The number format to compute in.
        per_token: Show every token.
        as_json: Print JSON.
        output: A file for that JSON.
    """
    names = [data_path(name) for name in inputs] if files else inputs
    texts = _records(names, column, split, layout) if files else inputs
    if not inside_a_run():  # an older conjure may have recorded one
        refuse_needless_date({"chat_date": chat_date}, are_chats=_are_chats(texts))
    results, as_objects = [], as_json or output is not None
    day = chat_date if chat_date is not None else today()
    for name in models:
        merged = data_path(adapter) if adapter is not None else None
        model = load_scorer(name, much=files, precision=precision, adapter=merged, lookups=[model_lookup])
        windows = Windows.of(model.scorer, context, stride)
        sha256 = model.source.sha256 if as_objects else None
        result = _Result(model, windows, sha256, day, are_chats=_are_chats(texts))
        for scored in _with_progress(result, texts):
            result.add(scored, keep=as_objects and (per_token or not files))
            if per_token and not as_json:
                show_tokens(
                    model.tokenizer, scored.token_ids, scored.token_logprobs, continues=result.are_chats
                )
        if not result.tally.tokens:
            raise DataError("the text is empty: there is nothing to score")
        results.append(result)
    if files:
        _note_bad_rows(texts)
    for one, other in permutations(results, 2):
        _note_other_base(one.model.source, other.model.source)
    objects = [result.as_json() for result in results]
    figures = objects if len(models) > 1 else objects[0]
    if output is not None:
        save_json(output, figures)
    if as_json:
        write_json(figures)
    else:
        _print_table(results)
    return 0


def _records(inputs: Sequence[str], column: str | None, split: str | None, layout: ReadOptions) -> RecordSet:
    records = read_records(inputs, column=column, split=split, layout=layout)
    for source in records.sources:
        if source.chat is not None:
            remark(f"{source.name} contains conversations ({source.chat}); their answers are scored")
        if source.guessed:
            remark(f"reading column {source.column!r} of {source.name} (use --column NAME for another)")
    return records


def _are_chats(texts: RecordSet | Sequence[str]) -> bool:
    return isinstance(texts, RecordSet) and bool(texts.chat_formats)


def _note_bad_rows(records: Any) -> None:
    for bad in records.bad_rows.values():
        note(f"Left out: {records.describe(bad)}")


def _note_other_base(base: ModelSource, tuned: ModelSource) -> None:
    """Say so if a model that was tuned from one of this name was tuned from another."""
    training = read_training(tuned.folder) or {}
    settings, noted = training.get("settings"), training.get("base")  # of anything, in a file of others
    if not isinstance(settings, dict) or settings.get("model") != base.name:
        return
    difference = base_difference(base, noted if isinstance(noted, dict) else None, tuned.folder)
    if difference is not None:
        remark(f"{tuned.name} was not tuned from this {base.name}: it started from {difference}")


@dataclass
class _Result:
    """What one model made of the texts."""

    model: LoadedScorer
    windows: Windows
    sha256: str | None
    day: date
    are_chats: bool
    records: int = 0
    scores: list[Score] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tally: Tally = Tally()

    def add(self, score: Score, *, keep: bool) -> None:
        self.records += 1
        self.tally += score.tally
        if keep:
            self.scores.append(score)

    def as_json(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "model": self.model.origin,
            "model_sha256": self.sha256,
            "precision": self.model.precision,
            "context": self.windows.context,
            "stride": self.windows.stride,
            "records": self.records,
            **_measures(self.tally),
            "mean_record_logprob": self.tally.total / self.records,
        }
        if len(self.scores) == 1:
            return {**facts, **_tokens(self.scores[0])}
        if self.scores:
            facts["scores"] = [{**_measures(score.tally), **_tokens(score)} for score in self.scores]
        return facts


def _measures(tally: Tally) -> dict[str, Any]:
    numbers = {
        "total": tally.total,
        "loss": tally.loss,
        "perplexity": tally.perplexity,
        "word_perplexity": tally.word_perplexity,
        "bits_per_byte": tally.bits_per_byte,
    }
    counts = {"tokens": tally.tokens, "words": tally.words, "bytes": tally.bytes}
    # JSON has no NaN and no infinity.
    return counts | {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _tokens(score: Score) -> dict[str, Any]:
    return {"token_ids": score.token_ids, "token_logprobs": score.token_logprobs}


def _conversations(records: RecordSet, model: LoadedScorer, day: date) -> Iterator[EncodedChat]:
    """The conversations of the records in a model's tokens, as they are on a day."""
    encoder = conversation_encoder(records.chat_formats, model.tokenizer, model=model.origin, day=day)
    assert encoder is not None
    for piece in records.pieces():
        assert piece.conversation is not None
        yield encode_record(encoder, piece.conversation)


def _count_tokens(texts: RecordSet | Sequence[str], model: LoadedScorer, day: date) -> int:
    if isinstance(texts, RecordSet) and texts.chat_formats:
        return sum(len(chat.ids) for chat in _conversations(texts, model, day))
    return sum(len(model.tokenizer.encode(text)) for text in texts)


def _with_progress(result: _Result, texts: RecordSet | Sequence[str]) -> Iterator[Score]:
    """The scores of all texts, with how far it is on stderr."""
    model = result.model
    with StatusLine() as status:
        # Counting takes a small part of the time that scoring does.
        total = _count_tokens(texts, model, result.day) if status.enabled else 0
        started, tokens = time.monotonic(), 0

        def report(scored: int) -> None:
            nonlocal tokens
            tokens += scored
            rate = tokens / max(time.monotonic() - started, 1e-9)
            left = format_duration(max(0, total - tokens) / rate)
            status.show(f"{tokens:,} of {total:,} tokens · {rate:,.0f} tokens/s · {left} left")

        scores = (
            score_chats(
                model.scorer,
                model.tokenizer,
                _conversations(texts, model, result.day),
                result.windows,
                report=report,
            )
            if isinstance(texts, RecordSet) and texts.chat_formats
            else score_documents(model.scorer, model.tokenizer, texts, result.windows, report=report)
        )
        for score in scores:
            status.clear()  # whoever takes it may print
            yield score


def _print_table(results: list[_Result]) -> None:
    """The numbers with their protocol, a column for each model."""
    columns = [_facts(result) for result in results]
    margin = max(map(len, columns[0]))
    width = max(len(value) for value in columns[0].values())
    for label, value in columns[0].items():
        others = "".join(f"  {column[label]}" for column in columns[1:])
        click.echo(f"{label:<{margin}}  {value:<{width}}{others}".rstrip())
    if len(results) > 1:
        first, second = (result.tally for result in results)
        click.echo(
            f"{'difference':<{margin}}  {second.total - first.total:+,.3f} nats in total, "
            f"{second.bits_per_byte - first.bits_per_byte:+.4f} bits per byte"
        )
        if len({result.model.tokenizer.digest for result in results}) > 1:
            remark("the models have different tokenizers: compare word perplexity or bits per byte, not loss")


def _facts(result: _Result) -> dict[str, str]:
    tally, windows = result.tally, result.windows
    after = f"after {result.model.tokenizer.start_token}"
    if result.are_chats:
        after = "answers, each after what comes before it"
    records, words = plural(result.records, "record"), plural(tally.words, "word")
    facts = {
        "model": f"{result.model.origin}, {result.model.precision}",
        "protocol": f"{after}, context {windows.context}, stride {windows.stride}",
        "text": f"{records}, {words}, {tally.bytes:,} bytes",
        "scored": plural(tally.tokens, "token"),
        "log-probability": f"{tally.total:,.3f} nats",
    }
    if result.records > 1:
        facts["… per record"] = f"{tally.total / result.records:,.3f} nats"
    return facts | {
        "loss": f"{tally.loss:.4f} nats per token",
        "perplexity": f"{_number(tally.perplexity)} per token",
        "word perplexity": _number(tally.word_perplexity),
        "bits per byte": f"{tally.bits_per_byte:.4f}",
    }


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "not defined for this text"  # without a word, or with one that is as long as a text
    return f"{value:,.2f}" if value < 1e7 else f"{value:.3e}"
