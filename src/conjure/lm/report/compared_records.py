"""The records that fine-tunes are compared on: what each was trained on, and what none of them was.

Main entries: `TunedTexts`, `unseen_records`. Invariant: a record comes out only if no record of its group was
trained on by any of the models; of conversations, none that gives the same answer.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from conjure.errors import DataError, UsageError
from conjure.lm.report.measure_model import record_texts
from conjure.lm.text.chat.encoding import ConversationEncoder, conversation_encoder
from conjure.lm.text.chat.formats import ChatFormat, Conversation, Message
from conjure.lm.text.near_duplicates import GroupBuilder, Numbers
from conjure.lm.text.read_options import ReadOptions
from conjure.lm.text.records import RecordSet, read_records
from conjure.lm.text.repeated_answers import AnswerComparison
from conjure.lm.text.split import (
    Split,
    TokenStream,
    all_records,
    overlapping_training,
    repeating_training,
    split_records,
    train_part_of_0_1,
)
from conjure.lm.text.token_cache import TokenisedText, tokenise
from conjure.lm.text.tokenizer import Tokenizer

_TOGETHER = 1000  # records whose answers are taken in at once
MOST_CHARACTERS = 200_000  # of the records that are scored: about 50,000 tokens


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a model was trained on.

    Attributes:
        data: Files and folders.
        settings: Those of the fine-tune that decide about the records, as its checkpoint keeps them.
        validation: File that was held out; None where a part of `data` was.
        train_sha256: Which records were trained on (`TokenStream.digest`); None where nothing says so.
    """

    data: tuple[str, ...]
    settings: dict[str, Any]
    validation: str | None = None
    train_sha256: str | None = None


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
class ComparedRecord:
    """A record, trained on or held out, in no model's tokens, so that every model can read it.

    Attributes:
        text: What it says: by this, records are compared.
        messages: Its turns, where it is a conversation.
    """

    text: str
    messages: tuple[Message, ...] = ()

    @property
    def question(self) -> str:
        """What is said before the last answer; empty for plain text."""
        return "\n".join(message.content for message in self.messages[:-1] if message.role != "system")


class ComparedTexts(Protocol):
    """The records of one model."""

    def trained_on(self) -> Iterator[ComparedRecord]:
        """The records that it was trained on, and before it the model it started from."""
        ...

    def held_out(self) -> Iterator[ComparedRecord]:
        """The records that its own training held out."""
        ...


@dataclass(frozen=True)
class RemadeSplit:
    """The split that a fine-tune made, made again.

    Attributes:
        split: The split, as this version of conjure makes it.
        trained: What was trained on; everything where the split was another then.
        records: The data.
        text: The same in tokens.
        measured: What was held out lies in these records, …
        measured_text: … and in these tokens; for a share of `records` they are the same.
    """

    split: Split
    trained: TokenStream
    records: RecordSet
    text: TokenisedText
    measured: RecordSet
    measured_text: TokenisedText

    def trained_on(self, tokenizer: Tokenizer) -> Iterator[ComparedRecord]:
        """The records that were trained on."""
        yield from _records_of(self.records, self.text, self.trained, tokenizer)

    def held_out(self, tokenizer: Tokenizer) -> Iterator[ComparedRecord]:
        """The records that were held out; of conversations, those that were held out as a whole."""
        stream = self.split.heldout
        if stream is None:
            return
        if stream.kinds is None:
            yield from map(ComparedRecord, record_texts(stream, tokenizer))
            return
        chosen = _record_numbers(self.measured_text, stream)
        if self.measured is self.records:
            chosen -= _record_numbers(self.text, self.split.train)
        yield from _conversations(self.measured, self.measured_text, chosen)


def _records_of(
    records: RecordSet, text: TokenisedText, stream: TokenStream, tokenizer: Tokenizer
) -> Iterator[ComparedRecord]:
    """The records of a stream; conversations that are partly in it as a whole."""
    if stream.kinds is None:
        yield from map(ComparedRecord, record_texts(stream, tokenizer))
        return
    yield from _conversations(records, text, _record_numbers(text, stream))


def _record_numbers(text: TokenisedText, stream: TokenStream) -> set[int]:
    """The records of a text that are, wholly or partly, in a stream."""
    return set(np.searchsorted(text.ends, stream.starts, side="right").tolist())


def _conversations(records: RecordSet, text: TokenisedText, chosen: set[int]) -> Iterator[ComparedRecord]:
    for number, piece in enumerate(records.pieces(without=text.refused)):
        if number in chosen:
            assert piece.conversation is not None
            yield ComparedRecord(piece.text, piece.conversation.messages)


class TunedTexts:
    """The records that a model was trained on, and those that were held out; read as needed.

    Args:
        model: The model.
        tokenizer: Its own.
    """

    def __init__(self, model: TunedModel, tokenizer: Tokenizer) -> None:
        self._name, self._tokenizer = f"run {model.run}", tokenizer
        self._settings = model.trainings[-1].settings
        self._splits = [remake_split(each, tokenizer, name=self._name) for each in model.trainings]

    @property
    def chat_formats(self) -> frozenset[ChatFormat]:
        """Those of the conversations that it was tuned on last; none where that was plain text."""
        return self._splits[-1].records.chat_formats

    def trained_on(self) -> Iterator[ComparedRecord]:
        """The records that it was trained on, and before it the model it started from."""
        for split in self._splits:
            yield from split.trained_on(self._tokenizer)

    def held_out(self) -> Iterator[ComparedRecord]:
        """The records that its own training held out."""
        yield from self._splits[-1].held_out(self._tokenizer)

    def learned(self) -> Iterator[str]:
        """What it could have learned to write: the texts it was trained on; of conversations, the answers."""
        for split in self._splits:
            yield from record_texts(split.trained, self._tokenizer)

    @property
    def reads_special_tokens(self) -> bool:
        """Whether special tokens written out in its data were those tokens."""
        return _reads_special_tokens(self._settings)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each record of its data; of conversations, of the last answers."""
        return self._splits[-1].text.written_lengths(self._tokenizer.end_ids)

    def encoder(self, formats: frozenset[ChatFormat]) -> ConversationEncoder | None:
        """What turns conversations in these formats into the model's tokens; None where there are none.

        Raises:
            UsageError: The model cannot read them.
        """
        try:
            return _encoder(self._settings, formats, self._tokenizer, self._name)
        except UsageError:
            raise UsageError(
                f"the model of {self._name} has no chat template, so it cannot read the conversations "
                "that the other runs held out",
                hint="compare runs that were tuned on data of one kind",
            ) from None


def _encoder(
    settings: dict[str, Any], formats: frozenset[ChatFormat], tokenizer: Tokenizer, name: str
) -> ConversationEncoder | None:
    chat_date = settings.get("chat_date")
    day = date.fromisoformat(chat_date) if chat_date is not None else None
    return conversation_encoder(formats, tokenizer, model=f"the model of {name}", day=day)


def remake_split(training: Training, tokenizer: Tokenizer, *, name: str = "") -> RemadeSplit:
    """The split that a fine-tune made, made again from what it kept of its settings.

    Args:
        training: What it was trained on.
        tokenizer: The model's.
        name: What to call the run in a message.
    """
    settings = training.settings
    records = _read(training.data, settings)
    validation = _read([training.validation], settings) if training.validation is not None else None
    encode = partial(
        tokenise,
        tokenizer=tokenizer,
        allow_special=_reads_special_tokens(settings),
        chat=_encoder(settings, records.chat_formats, tokenizer, name),
    )
    text = encode(records)
    measured = (validation, encode(validation)) if validation is not None else None
    split = split_records(
        records,
        text,
        measured,
        holdout=settings["holdout"],
        dedup=settings.get("dedup", "keep"),
    )
    trained = _trained_on(training, text, split)
    whole = (records, text)
    return RemadeSplit(split, trained, records, text, *(measured if measured is not None else whole))


def seen_in_training(
    trainings: Sequence[Training],
    records: RecordSet,
    text: TokenisedText,
    stream: TokenStream,
    tokenizer: Tokenizer,
) -> npt.NDArray[np.bool_]:
    """Which records of a stream, or the like of them, a model was trained on, (R,).

    Args:
        trainings: Those of the model.
        records: What the stream is of.
        text: The same in tokens.
        stream: The records to look at.
        tokenizer: The model's.

    Raises:
        ConjureError: What it was trained on is no longer there, or cannot be read.
    """
    trained = (
        record for training in trainings for record in remake_split(training, tokenizer).trained_on(tokenizer)
    )
    return _seen(trained, _records_of(records, text, stream, tokenizer))[0]


def _seen(
    trained: Iterable[ComparedRecord], others: Iterable[ComparedRecord]
) -> tuple[npt.NDArray[np.bool_], Numbers]:
    """Which of the others are like those trained on, and a number each, equal where they say the same."""
    builder, answers = GroupBuilder(), AnswerComparison()
    are_chats: list[bool] = []

    def add(records: Iterable[ComparedRecord]) -> int:
        left = iter(records)
        while batch := list(islice(left, _TOGETHER)):
            for record in batch:
                builder.add(record.text)
            answers.add([Conversation(record.messages, "") for record in batch])
            are_chats.extend(bool(record.messages) for record in batch)
        return len(are_chats)

    first = add(trained)
    add(others)
    groups, chats = builder.build(), np.array(are_chats, bool)
    was_trained = np.arange(len(chats)) < first
    if not chats.any():
        return overlapping_training(groups, was_trained)[first:], groups.labels[first:]
    found = answers.build(groups.labels)
    groups = replace(groups, repeats=found.numbers, givers=found.givers)
    seen = repeating_training(groups, was_trained & chats)
    seen |= overlapping_training(groups, was_trained & ~chats)  # a base model that was tuned on plain text
    return seen[first:], groups.repeat_numbers[first:]


def _trained_on(training: Training, text: TokenisedText, split: Split) -> TokenStream:
    """What a fine-tune was trained on, which an older version may have chosen otherwise."""
    if training.train_sha256 is None and "dedup" not in training.settings:
        return train_part_of_0_1(text, training.settings["holdout"])
    return split.train if training.train_sha256 == split.train.digest else all_records(text)


def _reads_special_tokens(settings: dict[str, Any]) -> bool:
    return bool(settings.get("special_tokens") == "token")


def _read(files: Sequence[str], settings: dict[str, Any]) -> RecordSet:
    """Records as the fine-tune read them; an older version kept fewer settings, and had no others."""
    names = [name.name for name in fields(ReadOptions) if name.name in settings]
    layout = ReadOptions(**{name: settings[name] for name in names})
    return read_records(files, column=settings.get("column"), split=settings.get("split"), layout=layout)


def refuse_mixed_kinds(runs: Sequence[int], texts: Sequence[TunedTexts]) -> None:
    """Refuse to compare a model tuned on conversations with one tuned on plain text.

    Raises:
        UsageError: There are both.
    """
    chats = [run for run, text in zip(runs, texts, strict=True) if text.chat_formats]
    plain = [run for run, text in zip(runs, texts, strict=True) if not text.chat_formats]
    if chats and plain:
        raise UsageError(
            f"run {chats[0]} was tuned on conversations and run {plain[0]} on plain text",
            hint="compare runs that were tuned on data of one kind",
        )


def unseen_records(texts: Sequence[ComparedTexts]) -> tuple[int, list[ComparedRecord]]:
    """How many records that differ were held out by any, and those of them that none was trained on."""
    held_out = list({record.text: record for text in texts for record in text.held_out()}.values())
    seen, labels = _seen((record for text in texts for record in text.trained_on()), held_out)
    firsts: dict[int, ComparedRecord] = {}
    for record, label, known in zip(held_out, labels.tolist(), seen.tolist(), strict=True):
        if not known:
            firsts.setdefault(label, record)
    return len(set(labels.tolist())), list(firsts.values())


def readable_by_all(
    records: Sequence[ComparedRecord], encoders: Sequence[ConversationEncoder | None]
) -> list[ComparedRecord]:
    """The records that every model's chat template accepts; plain text is always read."""
    return [
        record
        for record in records
        if all(encoder is None or _accepts(encoder, record) for encoder in encoders)
    ]


def _accepts(encoder: ConversationEncoder, record: ComparedRecord) -> bool:
    try:
        return any(encoder.encode(record.messages).answers())
    except DataError:
        return False


def some_records(records: Sequence[ComparedRecord]) -> list[ComparedRecord]:
    """All records, or as many as have `MOST_CHARACTERS`, chosen by hash."""
    if sum(len(record.text) for record in records) <= MOST_CHARACTERS:
        return list(records)
    chosen: list[ComparedRecord] = []
    size = 0
    for record in sorted(records, key=_hash):
        size += len(record.text)
        if chosen and size > MOST_CHARACTERS:
            break
        chosen.append(record)
    return chosen


def _hash(record: ComparedRecord) -> bytes:
    return hashlib.blake2b(record.text.encode("utf-8", "surrogatepass")).digest()
