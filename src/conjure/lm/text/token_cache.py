"""Records as token ids on disk: made once, memory-mapped ever after; and their groups, kept likewise.

Main entries: `tokenise`, `find_groups`. The ids lie in a folder keyed by the digests of the content, of the
tokenizer and of the options, so an edited file or another model can never meet ids that are not its own.
Invariants: memory does not grow with the data; a folder that has its final name is complete; two writers at
once are safe.
"""

import errno
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import numpy.typing as npt

from conjure.core.files import locked, sha256_bytes, sync_folder, write_atomically
from conjure.core.home import HOME_VARIABLE, Home
from conjure.core.text import error_text, valid_utf8
from conjure.errors import DataError, StoreError
from conjure.lm.bounds import value_fault
from conjure.lm.text.batches import in_batches
from conjure.lm.text.chat.encoding import ANSWER, ConversationEncoder, EncodedChat, encode_record
from conjure.lm.text.chat.formats import ChatFormat, Conversation, Message
from conjure.lm.text.near_duplicates import DuplicateGroups, GroupBuilder
from conjure.lm.text.records import BadRows, Piece, RecordSet
from conjure.lm.text.repeated_answers import AnswerComparison
from conjure.lm.text.sources import Source
from conjure.lm.text.table_reader import Fault
from conjure.lm.text.tokenizer import Tokenizer

_FORMAT = 8  # of the folder; a change here makes every older folder unused
_GROUPS_FORMAT = 4  # likewise, of the groups
_BATCH_CHARACTERS = 1 << 20  # encoded at a time: enough for all cores, little enough for any memory
_HISTOGRAM_BINS = 12
_FEW_BYTES = 1.5  # a token, on average: for a script that was learned it is 3 to 5
_FOREIGN = 0.8  # characters a byte, at most, where most letters are not ASCII
_MOST_REASONS = 5  # told of conversations that cannot be encoded

_Kept = TypeVar("_Kept")
# Bytes of text done and bytes in the files; compressed ones have less than there is of text. Once all has
# been read, both are the same.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many records have which length.

    Attributes:
        width: Tokens a bin is wide.
        counts: Records with 1…width tokens, width+1…2·width, and so on.
        open_ended: Whether the last bin also counts every longer record.
    """

    width: int
    counts: tuple[int, ...]
    open_ended: bool


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of the records in tokens, end-of-text tokens not counted.

    Attributes:
        shortest: The least.
        median: The middle one.
        mean: The average.
        p90: Nine in ten are no longer than this.
        longest: The most.
        histogram: All of them, in bins.
    """

    shortest: int
    median: float
    mean: float
    p90: float
    longest: int
    histogram: Histogram


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What a text is made of; for a preview, a training plan and a report alike.

    Attributes:
        files: Name, kind and column of every file.
        records: Usable records.
        distinct: Those that differ in more than case, space and punctuation.
        groups: Groups of records that say the same (`conjure.lm.text.near_duplicates`).
        largest_group: Records in the largest of them.
        tokens: Token ids, end-of-text tokens included.
        size_bytes: Bytes of text in the records, as UTF-8.
        characters: Characters of text in the records.
        lengths: How long the records are.
        bad_rows: Rows left out, in words, one sentence for each reason.
        bad_row_count: Rows left out.
        remarks: What was taken for granted, or is worth knowing before training, a sentence each.
        answer_tokens: Of conversations, the tokens that are answers; else None.
    """

    files: tuple[dict[str, str | None], ...]
    records: int
    distinct: int
    groups: int
    largest_group: int
    tokens: int
    size_bytes: int
    characters: int
    lengths: Lengths
    bad_rows: tuple[str, ...]
    bad_row_count: int
    remarks: tuple[str, ...] = ()
    answer_tokens: int | None = None

    @property
    def are_chats(self) -> bool:
        """Whether it holds conversations that only a chat template can write."""
        return bool({file.get("chat") for file in self.files} - {None, str(ChatFormat.PROMPT)})

    def to_dict(self) -> dict[str, Any]:
        """The facts as plain values, for JSON."""
        return asdict(self)


class TokenisedText:
    """The ids of all records, one after another, in memory-mapped files.

    Attributes:
        ids: Token ids, uint16 or uint32, (N,).
        ends: Where each record ends in `ids`, its end-of-text token included, uint64, (R,).
        start_id: The token that every record starts with; None where the model wants none.
        hashes: A 64-bit hash of each record's text, (R,): what the held-out split goes by.
        end_of_text: Whether every record is followed by the end-of-text token.
        size_bytes: Bytes of text in the records, as UTF-8.
        characters: Characters of text in the records.
        bad_rows: Rows left out, by reason.
        refused: Numbers of the conversations that are left out because they cannot be encoded.
        written_special: How often each special token is written out in the text.
        allow_special: Whether those were taken for the tokens.
        altered: Records that the tokenizer does not give back exactly.
        alters: What it does to them, in words; None where every text comes back.
        kinds: Of conversations, what each token is to training (`conjure.lm.text.chat.encoding`); else None.
    """

    kinds: npt.NDArray[np.uint8] | None = None

    def __init__(self, folder: Path) -> None:
        meta = json.loads((folder / "text.json").read_text(encoding="utf-8"))
        self.ids = _mapped(folder / "ids", np.dtype(meta["dtype"]), meta["tokens"])
        self.ends = _mapped(folder / "ends", np.dtype("<u8"), meta["records"])
        self.hashes = _mapped(folder / "hashes", np.dtype("<u8"), meta["records"])
        if "chat" in meta:
            self.kinds = _mapped(folder / "kinds", np.dtype("u1"), meta["tokens"])
        self.end_of_text: bool = meta["end_of_text"]
        self.start_id: int | None = meta["start_id"]
        self.altered: int = meta["altered"]
        self.alters: str | None = meta["alters"]
        self.size_bytes: int = meta["size_bytes"]
        self.characters: int = meta["characters"]
        self.written_special: dict[str, int] = meta["written_special"]
        self.allow_special: bool = meta["allow_special"]
        self.bad_rows = [BadRows(Fault(bad["fault"]), **_without(bad, "fault")) for bad in meta["bad_rows"]]
        self.refused = frozenset[int](meta["refused"])

    def record(self, index: int) -> npt.NDArray[Any]:
        """The ids of one record, its end-of-text token included."""
        return self.ids[self._place(index)]

    def _place(self, index: int) -> slice:
        """Where a record is in `ids`."""
        return slice(int(self.ends[index - 1]) if index else 0, int(self.ends[index]))

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens in each record, those that start and end it not counted, (R,)."""
        added = int(self.end_of_text) + (self.start_id is not None)
        return np.diff(self.ends.astype(np.int64), prepend=0) - added

    def conversation(self, index: int) -> EncodedChat | None:
        """A record that is a conversation; None where the text is plain."""
        if self.kinds is None:
            return None
        place = self._place(index)
        return EncodedChat(self.ids[place].tolist(), self.kinds[place].tolist())

    def written_lengths(self, end_ids: Collection[int]) -> npt.NDArray[np.int64]:
        """Tokens a model is to write of each record: all, or those of a conversation's last answer, (R,).

        Args:
            end_ids: Tokens that end an answer; they are not counted.
        """
        if self.kinds is None:
            return self.lengths
        chats = (self.conversation(index) for index in range(len(self.ends)))
        answers = [list(chat.answers(end_ids)) for chat in chats if chat is not None]
        return np.array([len(spans[-1]) if spans else 0 for spans in answers], np.int64)


def tokenise(
    records: RecordSet,
    tokenizer: Tokenizer,
    *,
    cache: Path | None = None,
    allow_special: bool = False,
    chat: ConversationEncoder | None = None,
    progress: Progress | None = None,
) -> TokenisedText:
    """The token ids of `records`, made now or found from an earlier time.

    Args:
        records: What to turn into ids.
        tokenizer: Whose ids.
        cache: Folder that keeps the ids; default ``datasets/tokens`` in conjure's home.
        allow_special: Take special tokens that are written out in a text for those tokens, not for text.
        chat: Turns conversations into ids; None where the records are plain text.
        progress: Called with the bytes of text done and the bytes in the files, while ids are made.

    Raises:
        DataError: There is not one usable record, a conversation cannot be encoded, or a file cannot be read.
        CheckpointError: The chat template cannot be used.
        StoreError: The ids cannot be kept: the disk is full, or the folder not writable.
    """
    if bool(records.chat_formats) != (chat is not None):
        raise DataError(
            f"{records.sources[0].name} contains {'conversations' if chat is None else 'plain text'}, and the"
            f" training data {'plain text' if chat is None else 'conversations'}"
        )
    if chat is not None and allow_special:
        raise value_fault("special_tokens", "is 'token', but messages are always read as plain text")
    end_of_text = chat is None or chat.adds_end_of_text
    facts = [_FORMAT, records.digest, tokenizer.digest, end_of_text, allow_special]
    facts += [chat.digest] if chat is not None else []
    key = sha256_bytes(" ".join(map(str, facts)).encode())[:32]

    def write(folder: Path) -> None:
        writer = _Writer(folder, tokenizer, end_of_text=end_of_text, allow_special=allow_special, chat=chat)
        writer.write(records, progress)

    return _made_once(cache, key, TokenisedText, write)


def find_groups(
    sources: Sequence[RecordSet],
    *,
    refused: Sequence[frozenset[int]] = (),
    cache: Path | None = None,
    progress: Progress | None = None,
) -> DuplicateGroups:
    """Which records of some texts together say the same, found now or at an earlier time.

    Args:
        sources: The texts; their records are numbered one after the other.
        refused: For each text, the numbers of the records to leave out (`TokenisedText.refused`); by default
            none.
        cache: As for `tokenise`.
        progress: Called with the bytes of text done and the bytes in the files, while they are read.

    Raises:
        DataError: There is not one usable record, or a file cannot be read.
        StoreError: The groups cannot be kept: the disk is full, or the folder not writable.
    """
    facts = f"groups {_GROUPS_FORMAT} {[records.digest for records in sources]}"
    facts += f" without {[sorted(numbers) for numbers in refused]}" if any(refused) else ""
    key = sha256_bytes(facts.encode())[:32]

    def write(folder: Path) -> None:
        groups = _group(sources, refused or [frozenset[int]()] * len(sources), progress)
        write_atomically(folder / "labels", groups.labels.astype("<i8").tobytes())
        write_atomically(folder / "neighbours", groups.neighbours.astype("<i8").tobytes())
        if groups.repeats is not None and groups.givers is not None:
            write_atomically(folder / "repeats", groups.repeats.astype("<i8").tobytes())
            write_atomically(folder / "givers", groups.givers.astype("<i8").tobytes())
        counts = {"count": groups.count, "largest": groups.largest, "distinct": groups.distinct}
        meta = {"records": len(groups.labels), "neighbours": len(groups.neighbours), **counts}
        meta["are_chats"] = groups.repeats is not None
        write_atomically(folder / "groups.json", json.dumps(meta).encode())

    return _made_once(cache, key, _read_groups, write)


def _group(
    sources: Sequence[RecordSet], refused: Sequence[frozenset[int]], progress: Progress | None
) -> DuplicateGroups:
    builder, answers = GroupBuilder(), AnswerComparison()
    done, total = 0, sum(records.size_bytes for records in sources)
    for records, numbers in zip(sources, refused, strict=True):
        for batch in in_batches(records.pieces(without=numbers), _BATCH_CHARACTERS, _characters):
            if progress is not None:
                progress(done, total)
            for piece in batch:
                builder.add(piece.text, ends_record=piece.ends_record)
            answers.add([piece.conversation for piece in batch if piece.conversation is not None])
            done += sum(len(piece.text) for piece in batch)
    if progress is not None:
        total = max(total, done)
        progress(total, total)  # what takes time from here on cannot be told in bytes
    groups = builder.build()
    if not any(records.chat_formats for records in sources):
        return groups
    found = answers.build(groups.labels)
    return replace(groups, repeats=found.numbers, givers=found.givers)


def _read_groups(folder: Path) -> DuplicateGroups:
    meta = json.loads((folder / "groups.json").read_text(encoding="utf-8"))
    count, are_chats = meta["records"], meta["are_chats"]
    return DuplicateGroups(
        labels=_mapped(folder / "labels", np.dtype("<i8"), count),
        count=meta["count"],
        largest=meta["largest"],
        distinct=meta["distinct"],
        neighbours=_mapped(folder / "neighbours", np.dtype("<i8"), 2 * meta["neighbours"]).reshape(-1, 2),
        repeats=_mapped(folder / "repeats", np.dtype("<i8"), count) if are_chats else None,
        givers=_mapped(folder / "givers", np.dtype("<i8"), count) if are_chats else None,
    )


def _made_once(
    cache: Path | None, key: str, read: Callable[[Path], _Kept], write: Callable[[Path], None]
) -> _Kept:
    """What lies in a folder of the cache; if it is not there or somebody damaged it, it is written first."""
    cache = cache if cache is not None else Home.from_environment().create().datasets / "tokens"
    folder = cache / key
    found = _open(folder, read)
    if found is not None:
        return found
    with _storing(cache), locked(cache / f"{key}.lock"):
        found = _open(folder, read)  # another process may have made it while this one waited
        if found is not None:
            return found
        unfinished = cache / f"{key}.unfinished"
        for leftover in (folder, unfinished):
            shutil.rmtree(leftover, ignore_errors=True)
        unfinished.mkdir()
        try:
            write(unfinished)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        sync_folder(cache)
    return read(folder)


def describe(records: RecordSet, text: TokenisedText, groups: DuplicateGroups) -> DataFacts:
    """The facts about a text that has been read and turned into ids."""
    return DataFacts(
        files=tuple(_file_facts(source) for source in records.sources),
        records=len(text.ends),
        distinct=groups.distinct,
        groups=groups.count,
        largest_group=groups.largest,
        tokens=len(text.ids),
        answer_tokens=int((text.kinds == ANSWER).sum()) if text.kinds is not None else None,
        size_bytes=text.size_bytes,
        characters=text.characters,
        lengths=summarise_lengths(text.lengths),
        bad_rows=_bad_rows(records, text),
        bad_row_count=sum(bad.count for bad in text.bad_rows),
        remarks=(*records.remarks, *_remarks(text)),
    )


def notes(records: RecordSet, text: TokenisedText) -> tuple[str, ...]:
    """What was left out of a text, and what else is worth knowing about it, a sentence each."""
    return (*_bad_rows(records, text), *records.remarks, *_remarks(text))


def _bad_rows(records: RecordSet, text: TokenisedText) -> tuple[str, ...]:
    return tuple(records.describe(bad) for bad in text.bad_rows)


def _file_facts(source: Source) -> dict[str, str | None]:
    name = valid_utf8(source.name)
    facts: dict[str, str | None] = {"name": name, "kind": source.kind, "column": source.column}
    return facts | ({"chat": str(source.chat)} if source.chat is not None else {})


def _remarks(text: TokenisedText) -> Iterator[str]:
    for token, count in text.written_special.items():
        times = "once" if count == 1 else f"{count:,} times"
        if text.kinds is not None:
            yield f"{token} occurs in messages {times} and is read as plain text"
        elif text.allow_special:
            yield f"{token} occurs in the text {times} and is read as the token"
        else:
            yield (
                f"{token} occurs in the text {times} and is read as plain text"
                " (to read it as the token: --special-tokens token)"
            )
    if text.altered:
        count = "1 record is" if text.altered == 1 else f"{text.altered:,} records are"
        yield f"{count} altered by the model's tokenizer: {text.alters}"
    foreign = text.kinds is None and text.characters < _FOREIGN * text.size_bytes
    if foreign and text.size_bytes < _FEW_BYTES * len(text.ids):
        yield (
            "the model's vocabulary has few tokens for this script"
            f" ({text.size_bytes / len(text.ids):.2f} bytes per token): training is slow and the context"
            " short; use a model for this language"
        )


def summarise_lengths(lengths: npt.ArrayLike) -> Lengths:
    """Summary of record lengths in tokens; at least one is needed."""
    values = np.asarray(lengths, dtype=np.int64)
    width = _bin_width(float(np.percentile(values, 99)))
    bins = np.minimum((np.maximum(values, 1) - 1) // width, _HISTOGRAM_BINS - 1)
    counts = np.bincount(bins, minlength=int(bins.max()) + 1)
    return Lengths(
        shortest=int(values.min()),
        median=float(np.median(values)),
        mean=float(values.mean()),
        p90=float(np.percentile(values, 90)),
        longest=int(values.max()),
        histogram=Histogram(width, tuple(counts.tolist()), bool(values.max() > width * len(counts))),
    )


def _bin_width(most: float) -> int:
    """A round width with which `_HISTOGRAM_BINS` bins reach `most`."""
    magnitude = 1
    while True:
        for step in (1, 2, 5):
            if step * magnitude * _HISTOGRAM_BINS >= most:
                return step * magnitude
        magnitude *= 10


class _Writer:
    """Streams records into the files of a folder that no one reads yet."""

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        *,
        end_of_text: bool,
        allow_special: bool,
        chat: ConversationEncoder | None = None,
    ) -> None:
        self._folder = folder
        self._chat = chat
        self._refused: list[int] = []  # numbers of conversations
        self._reasons: dict[str, BadRows] = {}  # why they cannot be encoded
        self._tokenizer = tokenizer
        self._end_of_text, self._allow_special = end_of_text, allow_special
        self._written_special: Counter[str] = Counter()
        self._dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        self._hash = _new_hash()
        self._tokens = self._records = self._size_bytes = self._characters = self._altered = 0
        self._at_start, self._is_altered = True, False

    def write(self, records: RecordSet, progress: Progress | None) -> None:
        total = records.size_bytes
        with (
            self._file("ids") as ids,
            self._file("ends") as ends,
            self._file("hashes") as hashes,
            self._file("kinds") as kinds,
        ):
            for batch in in_batches(records.pieces(self._tokenizer.cut), _BATCH_CHARACTERS, _characters):
                if self._chat is None:
                    self._write_batch(batch, ids, ends, hashes)
                else:
                    self._write_conversations(batch, self._chat, (ids, ends, hashes, kinds))
                if progress is not None:
                    progress(self._size_bytes, total)
            for file in (ids, ends, hashes, kinds):
                file.flush()
                os.fsync(file.fileno())
        if self._refused and not self._records:
            raise self._nothing_encoded(records)
        if progress is not None:
            total = max(total, self._size_bytes)
            progress(total, total)
        meta = {
            "dtype": self._dtype.str,
            "tokens": self._tokens,
            "records": self._records,
            "end_of_text": self._end_of_text,
            "start_id": next(iter(self._tokenizer.start_ids), None),
            "altered": self._altered,
            "alters": self._tokenizer.alters,
            "size_bytes": self._size_bytes,
            "characters": self._characters,
            "written_special": self._written_special,
            "allow_special": self._allow_special,
            "bad_rows": [asdict(bad) for bad in (*records.bad_rows.values(), *self._reasons.values())],
            "refused": self._refused,
            **({"chat": True} if self._chat is not None else {}),
        }
        write_atomically(self._folder / "text.json", json.dumps(meta).encode())

    def _file(self, name: str) -> IO[bytes]:
        return (self._folder / name).open("wb")

    def _write_batch(
        self, batch: Sequence[Piece], ids: IO[bytes], ends: IO[bytes], hashes: IO[bytes]
    ) -> None:
        stream: list[int] = []
        new_ends: list[int] = []
        new_hashes = bytearray()
        encoded = self._tokenizer.encode_batch([p.text for p in batch], allow_special=self._allow_special)
        for piece, piece_ids in zip(batch, encoded, strict=True):
            self._written_special += self._tokenizer.count_special(piece.text)
            stream += self._tokenizer.start_ids if self._at_start else []
            self._at_start = piece.ends_record
            stream += piece_ids
            if self._tokenizer.alters is not None:
                self._is_altered |= self._tokenizer.decode(piece_ids) != piece.text
            data = piece.text.encode()
            self._hash.update(data)
            self._size_bytes += len(data)
            self._characters += len(piece.text)
            if piece.ends_record:
                stream += [self._tokenizer.end_of_text_id] * self._end_of_text
                new_ends.append(self._tokens + len(stream))
                new_hashes += self._hash.digest()
                self._hash = _new_hash()
                self._altered += self._is_altered
                self._is_altered = False
        ids.write(np.array(stream, self._dtype).tobytes())
        ends.write(np.array(new_ends, "<u8").tobytes())
        hashes.write(new_hashes)
        self._tokens += len(stream)
        self._records += len(new_ends)

    def _write_conversations(
        self,
        batch: Sequence[Piece],
        chat: ConversationEncoder,
        files: tuple[IO[bytes], IO[bytes], IO[bytes], IO[bytes]],
    ) -> None:
        ids, ends, hashes, kinds = files
        written: list[tuple[Message, ...]] = []
        for piece in batch:
            assert piece.conversation is not None
            messages = piece.conversation.messages
            try:
                encoded = encode_record(chat, piece.conversation)
            except DataError as error:
                self._leave_out(piece.conversation, error)
                continue
            written.append(messages)
            for message in messages:
                self._written_special += self._tokenizer.count_special(message.content)
                self._size_bytes += len(message.content.encode())
                self._characters += len(message.content)
            self._tokens += len(encoded.ids)
            self._records += 1
            ids.write(np.array(encoded.ids, self._dtype).tobytes())
            kinds.write(bytes(encoded.kinds))
            ends.write(np.array([self._tokens], "<u8").tobytes())
            record = _new_hash()
            record.update(json.dumps([(message.role, message.content) for message in messages]).encode())
            hashes.write(record.digest())
        if self._tokenizer.alters is not None:
            self._altered += self._count_altered(written)

    def _count_altered(self, conversations: Sequence[Sequence[Message]]) -> int:
        """How many conversations have a message that the tokenizer does not give back exactly."""
        contents = [message.content for messages in conversations for message in messages]
        encoded = self._tokenizer.encode_batch(contents)
        is_altered = iter(
            self._tokenizer.decode(ids) != content for content, ids in zip(contents, encoded, strict=True)
        )
        return sum(any(list(islice(is_altered, len(messages)))) for messages in conversations)

    def _leave_out(self, conversation: Conversation, error: DataError) -> None:
        """Count a conversation that cannot be encoded, by the reason."""
        reason = str(error).removeprefix(f"{conversation.where}: ")
        if reason not in self._reasons and len(self._reasons) >= _MOST_REASONS:
            reason = ""
        first = BadRows(Fault.NOT_ENCODED, 0, conversation.source_index, conversation.number, reason)
        self._reasons.setdefault(reason, first).count += 1
        self._refused.append(self._records + len(self._refused))

    def _nothing_encoded(self, records: RecordSet) -> DataError:
        faults = "; ".join(map(records.describe, self._reasons.values()))
        return DataError(
            f"no conversation can be used: {faults}", hint="change these records, or use another model"
        )


def _new_hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=8)


def _characters(piece: Piece) -> int:
    return len(piece.text)


def _mapped(path: Path, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
    if count == 0:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r", shape=(count,))


def _open(folder: Path, read: Callable[[Path], _Kept]) -> _Kept | None:
    """What lies in a folder; None if it is not there or somebody damaged it."""
    try:
        return read(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _storing(cache: Path) -> Iterator[None]:
    """Make the cache folder, and turn a failure to write in it into one sentence.

    Raises:
        StoreError: The disk is full, or the folder cannot be written to.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StoreError(
            f"token ids cannot be stored in {cache}: {error_text(error)}",
            hint=f"{'free space, or ' if full else ''}set {HOME_VARIABLE} to a folder with free space",
        ) from error


def _without(mapping: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key != name}
