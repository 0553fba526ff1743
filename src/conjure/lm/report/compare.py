"""Several fine-tunes compared on text that none of them was trained on.

Main entries: `compare`, `TunedModel`. Invariants: every model reads the same records, by the same context and
stride, and writes with the same seeds; a record is read only if no record of its group was trained on by any
of the models; and a model ranks above another only where the difference is more than chance makes.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from conjure.errors import UsageError
from conjure.lm.generation.generate import generate
from conjure.lm.generation.request import GenerationRequest
from conjure.lm.generation.score import Tally, Windows, score_documents
from conjure.lm.generation.torch_scorer import TorchScorer
from conjure.lm.hardware import pick_device
from conjure.lm.language_model import LanguageModel, load
from conjure.lm.report.diversity import distinct
from conjure.lm.report.facts import plain
from conjure.lm.report.lengths import distance, length_counts, usual_distance
from conjure.lm.report.novelty import compare_with_training, novelty_summary
from conjure.lm.report.observe import record_texts
from conjure.lm.report.statistics import compare_losses, group_tallies
from conjure.lm.report.words import split_words
from conjure.lm.text.held_out import Split, overlapping_training, split_records
from conjure.lm.text.near_duplicates import GroupBuilder
from conjure.lm.text.read_options import ReadOptions
from conjure.lm.text.records import RecordSet, read_records
from conjure.lm.text.token_cache import tokenise
from conjure.lm.text.tokenizer import Tokenizer

SCHEMA = 1
SAMPLES, SAMPLE_TOKENS, SEED = 20, 100, 0
MOST_CHARACTERS = 200_000  # of the records that are scored: about 50,000 tokens

Tell = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a model was trained on.

    Attributes:
        data: Files and folders.
        settings: Those of the fine-tune that decide about the records, as its checkpoint keeps them.
        validation: File that was held out; None where a part of `data` was.
    """

    data: tuple[str, ...]
    settings: dict[str, Any]
    validation: str | None = None


@dataclass(frozen=True, kw_only=True)
class TunedModel:
    """A fine-tune that is to be compared.

    Attributes:
        run: Number of its run.
        folder: Its checkpoint.
        trainings: Its own training, and before it those of the fine-tune it started from, if any.
    """

    run: int
    folder: Path
    trainings: tuple[Training, ...]


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One of the models.

    Attributes:
        run: Number of its run.
        data: Names of the files it was trained on.
        bits_per_byte: Held-out loss, comparable between tokenizers; None where nothing could be compared.
        loss: The same in nats per token; comparable where the tokenizers are the same.
        rank: 1 is best; models without a clear difference have the same one. None where not comparable.
        samples: What it wrote.
        copies: Samples that are copies of a record it was trained on, or nearly so.
        distinct_pairs: Share of different word pairs, on as many words of each model.
        length_distance: Wasserstein-1 distance of its samples' lengths to those of its records, tokens.
        usual_distance: What chance alone makes of that, in 95 of 100 cases.
    """

    run: int
    data: tuple[str, ...]
    bits_per_byte: float | None
    loss: float | None
    rank: int | None
    samples: tuple[str, ...]
    copies: int
    distinct_pairs: float | None
    length_distance: float
    usual_distance: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several fine-tunes side by side.

    Attributes:
        schema: `SCHEMA` of the conjure that made it.
        headline: What came of it, as a sentence.
        candidates: Records that at least one of the models was not trained on.
        left_out: Those among them that another of the models was trained on, or on one of their group.
        scored: Records scored, one of each group.
        available: Records that could have been scored: more, where there were very many.
        context: Tokens a model sees at once.
        stride: Tokens from one window to the next.
        seed: Of the samples.
        same_tokenizer: Whether losses in nats per token compare.
        runs: The models, in the order they were asked for.
    """

    schema: int
    headline: str
    candidates: int
    left_out: int
    scored: int
    available: int
    context: int
    stride: int
    seed: int
    same_tokenizer: bool
    runs: tuple[ComparedRun, ...]


def comparison_to_json(comparison: Comparison) -> str:
    """The comparison as JSON."""
    return json.dumps(plain(asdict(comparison)), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def compare(models: Sequence[TunedModel], *, tell: Tell = lambda _: None) -> Comparison:
    """Compare fine-tunes.

    Args:
        models: Two or more.
        tell: Told what is being done, as a short sentence, whenever that changes.

    Raises:
        ConjureError: Data or a checkpoint are no longer there, or cannot be read.
    """
    tell("Reading the data")
    loaded = [load(model.folder) for model in models]
    texts = [_Texts(model, own.tokenizer) for model, own in zip(models, loaded, strict=True)]
    candidates, unseen = unseen_records(texts)
    chosen = _some(unseen)
    windows = _windows(loaded)
    scores, facts = [], []
    for model, own, text in zip(models, loaded, texts, strict=True):
        tell(f"Measuring run {model.run}")
        own.model.to(pick_device())
        scored = score_documents(TorchScorer(own.model), own.tokenizer, chosen, windows)
        scores.append([score.tally for score in scored])
        facts.append(_written(own, text))
    ranks = rank(scores) if chosen else [None] * len(models)
    words = min((sum(map(len, own.words)) for own in facts), default=0)
    runs = tuple(
        ComparedRun(
            run=model.run,
            data=tuple(Path(name).name for name in model.trainings[-1].data),
            bits_per_byte=sum(tallies, Tally()).bits_per_byte if tallies else None,
            loss=sum(tallies, Tally()).loss if tallies else None,
            rank=place,
            samples=own.samples,
            copies=own.copies,
            distinct_pairs=distinct(own.words, 2, words=words),
            length_distance=own.length_distance,
            usual_distance=own.usual_distance,
        )
        for model, tallies, place, own in zip(models, scores, ranks, facts, strict=True)
    )
    return Comparison(
        schema=SCHEMA,
        headline=_headline(runs, len(chosen)),
        candidates=candidates,
        left_out=candidates - len(unseen),
        scored=len(chosen),
        available=len(unseen),
        context=windows.context,
        stride=windows.stride,
        seed=SEED,
        same_tokenizer=len({own.tokenizer.digest for own in loaded}) == 1,
        runs=runs,
    )


class _Texts:
    """The records that a model was trained on, and those that were held out; read as needed."""

    def __init__(self, model: TunedModel, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._splits = [remake_split(training, tokenizer) for training in model.trainings]

    def trained_on(self) -> Iterator[str]:
        for split in self._splits:
            yield from record_texts(split.train, self._tokenizer)

    def held_out(self) -> Iterator[str]:
        """Of its own training alone, not of that of the model it started from."""
        held_out = self._splits[-1].heldout
        if held_out is not None:
            yield from record_texts(held_out, self._tokenizer)

    def last_trained_on(self) -> Iterator[str]:
        yield from record_texts(self._splits[-1].train, self._tokenizer)


def remake_split(training: Training, tokenizer: Tokenizer) -> Split:
    """The split that a fine-tune made, made again from what it kept of its settings."""
    settings = training.settings
    records = _read(training.data, settings)
    if records.chat_formats:
        raise UsageError(
            f"{training.data[0]} holds conversations; fine-tunes on conversations cannot be compared here",
            hint="conjure score DATA --compare MODEL MODEL compares two models on the answers in a file",
        )
    encode = partial(tokenise, tokenizer=tokenizer, allow_special=settings.get("special_tokens") == "token")
    return split_records(
        records,
        encode(records),
        _read([training.validation], settings) if training.validation is not None else None,
        encode,
        holdout=settings["holdout"],
        dedup=settings.get("dedup", "keep"),
    )


def _read(files: Sequence[str], settings: dict[str, Any]) -> RecordSet:
    """Records as the fine-tune read them; an older version kept fewer settings, and had no others."""
    names = [name.name for name in fields(ReadOptions) if name.name in settings]
    layout = ReadOptions(**{name: settings[name] for name in names})
    return read_records(files, column=settings.get("column"), split=settings.get("split"), layout=layout)


def unseen_records(texts: Sequence[Any]) -> tuple[int, list[str]]:
    """The different held-out records of all, and those of whose group none was trained on, one of each.

    Args:
        texts: Each with `trained_on()` and `held_out()`, as texts.
    """
    held_out = list(dict.fromkeys(record for text in texts for record in text.held_out()))
    builder, trained = GroupBuilder(), 0
    for text in texts:
        for record in text.trained_on():
            builder.add(record)
            trained += 1
    for record in held_out:
        builder.add(record)
    groups = builder.build()
    seen = overlapping_training(groups, np.arange(len(groups.labels)) < trained)[trained:]
    labels = groups.labels[trained:]
    firsts: dict[int, str] = {}
    for record, label, known in zip(held_out, labels.tolist(), seen.tolist(), strict=True):
        if not known:
            firsts.setdefault(label, record)
    return len(set(labels.tolist())), list(firsts.values())


def _some(records: Sequence[str]) -> list[str]:
    """All records, or as many as have `MOST_CHARACTERS`, chosen by hash."""
    if sum(map(len, records)) <= MOST_CHARACTERS:
        return list(records)
    order = sorted(records, key=lambda text: hashlib.blake2b(text.encode("utf-8", "surrogatepass")).digest())
    chosen: list[str] = []
    size = 0
    for record in order:
        size += len(record)
        if chosen and size > MOST_CHARACTERS:
            break
        chosen.append(record)
    return chosen


def _windows(models: Sequence[LanguageModel]) -> Windows:
    context = min(own.config.context_length for own in models)
    return Windows(context, max(1, context // 2))


@dataclass(frozen=True, slots=True)
class _Written:
    samples: tuple[str, ...]
    words: list[list[str]]
    copies: int
    length_distance: float
    usual_distance: float


def _written(own: LanguageModel, text: _Texts) -> _Written:
    """What a model writes, beside what it was trained on."""
    request = GenerationRequest(num_samples=SAMPLES, max_new_tokens=SAMPLE_TOKENS, seed=SEED)
    samples = generate(own.model, own.tokenizer, request)
    written = tuple(sample.text for sample in samples)
    novelty = novelty_summary(compare_with_training(written, text.trained_on(), own.tokenizer))
    assert novelty is not None
    records = own.tokenizer.encode_batch(list(text.last_trained_on()))
    data = length_counts([len(ids) for ids in records], SAMPLE_TOKENS)
    lengths = [len(sample.token_ids) - (sample.finish_reason == "end_of_text") for sample in samples]
    return _Written(
        samples=written,
        words=[split_words(sample) for sample in written],
        copies=novelty.copied,
        length_distance=distance(length_counts(lengths, SAMPLE_TOKENS), data),
        usual_distance=usual_distance(data, SAMPLES),
    )


def rank(scores: Sequence[Sequence[Tally]]) -> list[int | None]:
    """The place of each model, 1 the best; no clear difference from the best of a place is the same place.

    Args:
        scores: Of each model, one tally for each record, of which every group has one.
    """
    sums = [sum(tallies, Tally()) for tallies in scores]
    order = sorted(range(len(scores)), key=lambda place: -sums[place].total)
    ranks: list[int | None] = [None] * len(scores)
    leader = order[0]
    for position, number in enumerate(order):
        groups = range(len(scores[number]))
        leading, own = (group_tallies(scores[place], groups) for place in (leader, number))
        if position > 0 and compare_losses(leading, own).outcome == "worse":
            leader = number
        ranks[number] = order.index(leader) + 1
    return ranks


def _headline(runs: Sequence[ComparedRun], scored: int) -> str:
    if not scored:
        return "Not comparable: every held-out record of one run was trained on by another."
    records = f"{scored:,} record{'s' * (scored != 1)} that none of them was trained on"
    best = [run.run for run in runs if run.rank == 1]
    if len(best) == len(runs):
        return f"No clear difference between the runs on {records}."
    if len(best) == 1:
        return f"Run {best[0]} is best on {records}."
    return f"{named(best)} are best on {records}, without a clear difference between them."


def named(runs: Sequence[int]) -> str:
    """Such as ``Runs 3, 5 and 8``."""
    first, last = ", ".join(map(str, runs[:-1])), str(runs[-1])
    return f"Runs {first} and {last}"
