"""`conjure score`: how likely a model finds a text, with the protocol beside every number.

Main entry: `command`. Invariant: weights are float32 whatever the machine, so that numbers can be compared.
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from conjure.cli.reading_options import layout_of, reading_options
from conjure.cli.recording import RECORDING, record, recording_options
from conjure.cli.render import StatusLine, duration, note, save_json, write_json
from conjure.cli.token_view import show_tokens
from conjure.cli.typed_options import names_as_typed, typed_options
from conjure.core.home import Home
from conjure.errors import DataError, NotFoundError, UsageError
from conjure.recipes.recording import Inputs, inside_a_run, recorded
from conjure.recipes.resources import data_path, is_resource, model_lookup

FIGURES_FILE = "score.json"  # among the outputs of a recorded `score`

if TYPE_CHECKING:
    from conjure.lm.generation.score import Score, Tally, Windows
    from conjure.lm.language_model import LanguageModel
    from conjure.lm.text.layout import Layout
    from conjure.lm.text.readers import RecordSet
    from conjure.runs.schema.spec import RunSpec


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="TEXT|FILES…")
@click.option("--model", default="sprite", show_default=True, help="A name, a folder, a run or a hub model.")
@click.option("--compare", nargs=2, metavar="MODEL MODEL", help="Score with two models, side by side.")
@click.option("--text", "as_text", is_flag=True, help="Take TEXT for text even where a file has that name.")
@reading_options
@click.option("--context", type=int, help="Tokens seen at once; default: all the model can.")
@click.option("--stride", type=int, help="Tokens from one window to the next; default: half the context.")
@click.option("--per-token", is_flag=True, help="Show every token with its log-probability.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Also write that JSON to this file.")
@click.option("--save", is_flag=True, help="Record it as a run, the figures as its output.")
@recording_options
@click.pass_context
def command(
    click_context: click.Context,
    /,
    inputs: tuple[str, ...],
    *,
    model: str,
    compare: tuple[str, str] | None,
    as_text: bool,
    column: str | None,
    split: str | None,
    context: int | None,
    stride: int | None,
    per_token: bool,
    as_json: bool,
    output: Path | None,
    save: bool,
    **settings: Any,
) -> int:
    """Measure how likely a model finds TEXT, or the records in FILES.

    FILES are .txt .csv .tsv .json .jsonl .parquet, folders of them, or - for standard input; one argument
    that no file has for a name is TEXT. Each record is a document: it is read after one end-of-text token,
    and each of its tokens is scored once, from at most --context tokens before it.
    """
    with names_as_typed(click_context):
        layout, recording = layout_of(settings), settings
    if compare is not None and per_token:
        raise UsageError("--per-token shows one model at a time", hint="leave out --compare, or --per-token")
    files = _are_files(inputs, as_text=as_text)
    if save and not inside_a_run():
        models = compare if compare is not None else (model,)
        spec = _spec(click_context, inputs, models, recording, files=files)
        return record(spec, background=recording["background"], as_json=as_json)

    from conjure.lm.generation.score import Windows
    from conjure.lm.language_model import load

    names = [data_path(name) for name in inputs] if files else inputs
    with names_as_typed(click_context):
        texts: Iterable[str] = _records(names, column, split, layout) if files else inputs
    results = []
    for name in compare if compare is not None else [model]:
        language_model = load(name, lookups=[model_lookup])
        with names_as_typed(click_context):
            windows = Windows.of(language_model.model, context, stride)
        result = _Result(language_model, windows)
        keep = per_token or not files
        for score in _with_progress(result, texts):
            result.add(score, keep=(as_json or output is not None) and keep)
            if per_token and not as_json:
                show_tokens(language_model.tokenizer, score.token_ids, score.token_logprobs)
        if not result.tally.tokens:
            raise DataError("the text is empty: there is nothing to score")
        results.append(result)
    if files:
        _note_bad_rows(texts)
    objects = [result.as_json() for result in results]
    figures = objects if compare is not None else objects[0]
    if output is not None:
        save_json(output, figures)
    if as_json:
        write_json(figures)
    else:
        _print_table(results)
    return 0


def _spec(
    context: click.Context,
    given: Sequence[str],
    models: Sequence[str],
    recording: dict[str, Any],
    *,
    files: bool,
) -> "RunSpec":
    """The run of this command: its inputs mounted, the figures in a file."""
    inputs = Inputs(Home.from_environment())
    named = [inputs.model(name) for name in models]
    words = ["--model", *named] if len(named) == 1 else ["--compare", *named]
    words += ["--output", FIGURES_FILE]
    left_out = {"model", "compare", "save", "output", "as_json", "as_text", *RECORDING}
    words += typed_options(context, leave_out=left_out)
    words += ["--", *map(inputs.data, given)] if files else ["--text", "--", *given]
    return recorded(
        "score", words, inputs.mounts, description=recording["description"], labels=recording["label"]
    )


def _are_files(inputs: Sequence[str], *, as_text: bool) -> bool:
    """Whether the arguments name files; says on stderr what they were taken for."""
    from conjure.lm.text.sources import KINDS, STANDARD_INPUT

    missing = [name for name in inputs if name != STANDARD_INPUT and not _exists(name)]
    if as_text or (missing and len(inputs) == 1):
        if len(inputs) > 1:
            raise UsageError(
                f"one text can be scored, and these are {len(inputs)}", hint='put it in "quotes"'
            )
        if not as_text and missing[0].rpartition(".")[2] in KINDS and " " not in missing[0]:
            raise NotFoundError(
                f"there is no file {missing[0]}", hint="add --text if that is the text to score"
            )
        note("Scoring the text given.")
        return False
    if missing:
        raise NotFoundError(f"there is no file {missing[0]}", hint='put a text to score in "quotes"')
    note(f"Scoring {', '.join(inputs[:3])}{f' and {len(inputs) - 3} more' if len(inputs) > 3 else ''}.")
    return True


def _exists(name: str) -> bool:
    try:
        return bool(name) and (Path(name).exists() or is_resource(Home.from_environment(), name))
    except OSError:  # too long for a file's name
        return False


def _records(inputs: Sequence[str], column: str | None, split: str | None, layout: "Layout") -> "RecordSet":
    from conjure.lm.text.readers import read_records

    records = read_records(inputs, column=column, split=split, layout=layout)
    for source in records.sources:
        if source.guessed:
            note(f"Reading column {source.column!r} of {source.name} (--column NAME: another).")
    return records


def _note_bad_rows(records: Any) -> None:
    for bad in records.bad_rows.values():
        note(f"Left out: {records.describe(bad)}.")


@dataclass
class _Result:
    """What one model made of the texts."""

    model: "LanguageModel"
    windows: "Windows"
    records: int = 0
    scores: "list[Score]" = field(default_factory=list)

    def __post_init__(self) -> None:
        from conjure.lm.generation.score import Tally

        self.tally: Tally = Tally()

    def add(self, score: "Score", *, keep: bool) -> None:
        self.records += 1
        self.tally += score.tally
        if keep:
            self.scores.append(score)

    def as_json(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "model": self.model.origin,
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


def _measures(tally: "Tally") -> dict[str, Any]:
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


def _tokens(score: "Score") -> dict[str, Any]:
    return {"token_ids": score.token_ids, "token_logprobs": score.token_logprobs}


def _with_progress(result: _Result, texts: Iterable[str]) -> "Iterator[Score]":
    """The scores of all texts, with how far it is on stderr."""
    from conjure.lm.generation.score import score_documents

    model = result.model
    with StatusLine() as status:
        # Counting takes a small part of the time that scoring does.
        total = sum(len(model.tokenizer.encode(text)) for text in texts) if status.enabled else 0
        started, tokens = time.monotonic(), 0

        def report(scored: int) -> None:
            nonlocal tokens
            tokens += scored
            rate = tokens / max(time.monotonic() - started, 1e-9)
            left = duration(max(0, total - tokens) / rate)
            status.show(f"{tokens:,} of {total:,} tokens · {rate:,.0f} tokens/s · {left} left")

        for score in score_documents(model.model, model.tokenizer, texts, result.windows, report=report):
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
            f"{'difference':<{margin}}  {second.total - first.total:+,.3f} nats in all, "
            f"{second.bits_per_byte - first.bits_per_byte:+.4f} bits per byte"
        )
        if len({result.model.tokenizer.digest for result in results}) > 1:
            note(
                "The models cut text into different tokens: compare words and bytes, not loss and perplexity."
            )


def _facts(result: _Result) -> dict[str, str]:
    tally, windows, end_of_text = result.tally, result.windows, result.model.tokenizer.end_of_text
    records, words = _count(result.records, "record"), _count(tally.words, "word")
    facts = {
        "model": f"{result.model.origin}, float32",
        "protocol": f"after {end_of_text}, context {windows.context}, stride {windows.stride}",
        "text": f"{records}, {words}, {tally.bytes:,} bytes",
        "scored": _count(tally.tokens, "token"),
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
    return f"{value:,.2f}" if value < 1e7 else f"{value:.3e}"


def _count(number: float, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
