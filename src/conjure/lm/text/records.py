"""Text files of every kind conjure reads, as one stream of records.

Main entry: `read_records`. A record is one joke, one document: a whole ``.txt``, each of its lines or
paragraphs, or one column's text in each row of a table. Invariants: the same texts give the same records
from any kind of file; nothing is left out without being counted; memory does not grow with the data.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from conjure.core.files import sha256_bytes, sha256_file
from conjure.errors import DataError, UsageError, option
from conjure.lm.bounds import value_fault
from conjure.lm.text.chat.formats import ChatFormat, Conversation, Message, read_conversation
from conjure.lm.text.encodings import (
    guess_encoding,
    open_text,
    read_lines,
    strip_byte_order_marks,
    text_encoding,
    undecodable_line,
)
from conjure.lm.text.read_options import ReadOptions
from conjure.lm.text.sources import Source, find_sources, translate_read_errors
from conjure.lm.text.table_reader import Fault, Row, open_table
from conjure.lm.text.tokenizer import split_safely
from conjure.lm.text.tokenizer_detection import GPT2_KIND

SPLITS = ("lines", "paragraphs")
_UNITS = {"parquet": "row", "json": "record"}  # what a kind of file is made of, if not lines
_CHUNK = 1 << 20  # bytes or characters read at a time from a text taken whole


class Piece(NamedTuple):
    """A stretch of a record; all but whole text files come in one.

    Attributes:
        text: The stretch. Token ids of a record's stretches join up to the ids of the record.
        ends_record: Whether the record is complete with it.
        conversation: The record, where it is a conversation; `text` is then what is compared.
    """

    text: str
    ends_record: bool
    conversation: Conversation | None = None


@dataclass(slots=True)
class BadRows:
    """Rows left out because of one fault.

    Attributes:
        fault: The reason.
        count: How many.
        source_index: Which of the sources holds the first of them.
        number: Line or row of the first of them, from 1; 0 is a whole file.
        detail: More about the reason, in words; may be empty.
    """

    fault: Fault
    count: int
    source_index: int
    number: int
    detail: str = ""


@dataclass
class RecordSet:
    """Records that can be read as often as needed, in order.

    Attributes:
        sources: The files, in order.
        split: How texts are cut: None (whole), `lines` or `paragraphs`.
        layout: What was said about how the files are written.
        bad_rows: What the latest reading left out; complete when that reading is.
    """

    sources: tuple[Source, ...]
    split: str | None = None
    layout: ReadOptions = field(default_factory=ReadOptions)
    bad_rows: dict[Fault, BadRows] = field(default_factory=dict)

    def __iter__(self) -> Iterator[str]:
        """Whole records.

        Raises:
            DataError: There is not one usable record, or a file cannot be read.
        """
        parts: list[str] = []
        for piece in self.pieces():
            parts.append(piece.text)
            if piece.ends_record:
                yield "".join(parts)
                parts.clear()

    def pieces(
        self, cut: re.Pattern[str] | None = GPT2_KIND.cut, *, without: Collection[int] = ()
    ) -> Iterator[Piece]:
        """The records in pieces of bounded size, so that one may be larger than memory.

        Args:
            cut: Where a record may be cut (`Tokenizer.cut`); None leaves every one whole.
            without: Numbers of records to leave out, from 0.

        Raises:
            DataError: There is not one usable record, or a file cannot be read.
        """
        self.bad_rows = {}
        number = 0
        for index, source in enumerate(self.sources):
            whole = source.kind == "txt" and self.split is None
            with translate_read_errors(source.name):
                for piece in self._whole(index, source, cut) if whole else self._rows(index, source):
                    if number not in without:
                        yield piece
                    number += piece.ends_record
        if not number:
            raise self._nothing_usable()

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of the content of the files and of how it is cut into records."""
        # What says nothing leaves no mark: a training that 0.1 interrupted goes on with the same data.
        parts = [] if self.layout == ReadOptions() else [f"{self.layout!r}\n"]
        for source in self.sources:
            with translate_read_errors(source.name):
                parts.append(f"{source.kind} {source.column!r} {self.split} {sha256_file(source.path)}\n")
        return sha256_bytes("".join(parts).encode("utf-8", "surrogateescape"))

    @property
    def chat_formats(self) -> frozenset[ChatFormat]:
        """The formats of its conversations; none where it is plain text."""
        return frozenset(source.chat for source in self.sources if source.chat is not None)

    @property
    def size_bytes(self) -> int:
        """Bytes in all the files."""
        return sum(source.path.stat().st_size for source in self.sources)

    def describe(self, bad: BadRows) -> str:
        """One fault in words: how often, and where first."""
        source = self.sources[bad.source_index]
        unit = _UNITS.get(source.kind, "line")
        where = f"{source.name}, {unit} {bad.number}" if bad.number else source.name
        reason = f"{bad.fault}: {bad.detail}" if bad.detail else str(bad.fault)
        return f"{bad.count:,} × {reason} (first: {where}{self._encoding_hint(bad)})"

    @cached_property
    def remarks(self) -> tuple[str, ...]:
        """What was taken for granted about the files and may be otherwise, a sentence each."""
        return tuple(f"{source.name}: {remark}" for source in self.sources for remark in source.remarks)

    def _encoding_hint(self, bad: BadRows) -> str:
        """For text that is not UTF-8, how it would read in another encoding."""
        source = self.sources[bad.source_index]
        if bad.fault not in (Fault.WRONG_ENCODING, Fault.NUL) or source.kind == "parquet":
            return ""
        with translate_read_errors(source.name):
            guess = guess_encoding(source.path)
            if guess is None or guess.encoding == self.layout.encoding:
                return self._undecodable_line(source) if not bad.number else ""
        return f"; decoded as {guess.encoding}: {guess.sample!r}"

    def _undecodable_line(self, source: Source) -> str:
        """Which line of a text taken whole is no text; nothing where all of it is."""
        line = undecodable_line(source.path, self.layout.encoding)
        codec = text_encoding(source.path, self.layout.encoding).removesuffix("-sig").upper()
        return f"; line {line:,} is not {codec}" if line is not None else ""

    def _whole(self, index: int, source: Source, cut: re.Pattern[str] | None) -> Iterator[Piece]:
        fault = _fault_in_file(source.path, self.layout.encoding)
        if fault is None:
            yield from _whole_text(source.path, self.layout.encoding, cut)
        else:
            self._count(fault, index, 0)

    def _rows(self, index: int, source: Source) -> Iterator[Piece]:
        if source.chat is not None:
            yield from self._conversations(index, source, source.chat)
            return
        for row in _rows_of(source, self.split, self.layout):
            text = _with_line_feeds(strip_byte_order_marks(row.text)) if row.text is not None else ""
            fault = row.fault if row.fault is not None else _fault_in(text)
            if fault is None:
                yield Piece(text, ends_record=True)
            else:
                self._count(fault, index, row.number)

    def _conversations(self, index: int, source: Source, format_: ChatFormat) -> Iterator[Piece]:
        unit = _UNITS.get(source.kind, "line")
        for number, record, fault in open_table(source.path, source.kind, self.layout, source.name).records():
            found = fault if fault is not None else _readable(read_conversation(record, format_))
            if isinstance(found, Fault):
                self._count(found, index, number)
            else:
                conversation = Conversation(found, f"{source.name}, {unit} {number}", index, number)
                yield Piece(conversation.text, ends_record=True, conversation=conversation)

    def _count(self, fault: Fault, source_index: int, number: int) -> None:
        self.bad_rows.setdefault(fault, BadRows(fault, 0, source_index, number)).count += 1

    def _nothing_usable(self) -> DataError:
        names = " and ".join(source.name for source in self.sources[:3])
        more = len(self.sources) - 3
        names += f" and {more} more" if more > 0 else ""
        contain = "contains" if len(self.sources) == 1 else "contain"
        faults = "; ".join(self.describe(bad) for bad in self.bad_rows.values())
        fix = self._remedy()
        if fix is None and Fault.NUL in self.bad_rows:
            faults += "; this may not be a text file"
        return DataError(f"{names} {contain} no usable records{f': {faults}' if faults else ''}", fix=fix)

    def _remedy(self) -> str | None:
        """What to do about bytes that are not UTF-8 text."""
        bad = self.bad_rows.get(Fault.WRONG_ENCODING) or self.bad_rows.get(Fault.NUL)
        if bad is None or self.sources[bad.source_index].kind == "parquet":
            return None
        guess = guess_encoding(self.sources[bad.source_index].path)
        if guess is None or guess.encoding == self.layout.encoding:
            return None
        return option("encoding", guess.encoding)


def read_records(
    sources: Sequence[str | Path],
    *,
    column: str | None = None,
    split: str | None = None,
    layout: ReadOptions | None = None,
) -> RecordSet:
    """The records in files and folders.

    Args:
        sources: Files of the kinds in `read_options.ENDINGS` (all but Parquet also as ``.gz``),
            folders holding some, or ``-`` for standard input.
        column: The column to read from tables; by default the one that holds text, if there is just one.
        split: Cut texts into `lines` or `paragraphs`; by default each is one record.
        layout: What is to be known about how they are written, where it does not show.

    Returns:
        The records; reading them starts when they are iterated.

    Raises:
        NotFoundError: A file is not there.
        UsageError: A kind of file that is not read, an unknown column, or several that could be meant.
        DataError: A file is empty or damaged, or a folder holds nothing of these kinds.
    """
    if split is not None and split not in SPLITS:
        raise value_fault("split", f"is {split!r}; allowed: {', '.join(SPLITS)}")
    layout = layout if layout is not None else ReadOptions()
    found = find_sources([str(source) for source in sources], column=column, layout=layout)
    if split is not None and all(source.is_table for source in found):
        raise value_fault("split", f"{split!r} is for text; {found[0].name} is a table: each row is a record")
    _refuse_mixture(found)
    return RecordSet(tuple(found), split, layout)


def _refuse_mixture(sources: Sequence[Source]) -> None:
    """Refuse conversations beside plain text.

    Raises:
        UsageError: There are both.
    """
    chats = [source for source in sources if source.chat is not None]
    if chats and len(chats) < len(sources):
        plain = next(source for source in sources if source.chat is None)
        raise UsageError(
            f"{chats[0].name} contains conversations ({chats[0].chat}) and {plain.name} plain text",
            hint=f"use one kind at a time, or {option('column')} to read one column as plain text",
        )


def _rows_of(source: Source, split: str | None, layout: ReadOptions) -> Iterator[Row]:
    if source.column is not None:
        return open_table(source.path, source.kind, layout, source.name).rows(source.column)
    lines = read_lines(source.path, layout.encoding)
    return _lines(lines) if split == "lines" else _paragraphs(lines)


def _lines(lines: Iterator[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        yield Row(number, line.removesuffix("\n"))


def _paragraphs(lines: Iterator[str]) -> Iterator[Row]:
    """Stretches of lines between blank ones; blank lines themselves are no records."""
    first, stretch = 0, []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            first = first if stretch else number
            stretch.append(line)
        elif stretch:
            yield Row(first, "".join(stretch).removesuffix("\n"))
            stretch = []
    if stretch:
        yield Row(first, "".join(stretch).removesuffix("\n"))


def _whole_text(path: Path, encoding: str | None, cut: re.Pattern[str] | None) -> Iterator[Piece]:
    """One record, in pieces that can be turned into ids one by one."""
    with open_text(path, encoding) as file:
        waiting = ""
        while chunk := file.read(max(_CHUNK, len(waiting))):  # doubling: a text may have no place to cut
            *ready, waiting = split_safely(waiting + strip_byte_order_marks(chunk), _CHUNK, cut=cut)
            for text in ready:
                yield Piece(text, ends_record=False)
        yield Piece(waiting, ends_record=True)


def _fault_in_file(path: Path, encoding: str | None) -> Fault | None:
    """What makes a text file unusable as one record; looked for before any of it is used."""
    blank = True
    with open_text(path, encoding) as file:
        while chunk := file.read(_CHUNK):
            text = strip_byte_order_marks(chunk)
            if "\0" in text:
                return Fault.NUL
            blank = blank and not text.strip()
    if undecodable_line(path, encoding) is not None:
        return Fault.WRONG_ENCODING
    return Fault.EMPTY if blank else None


def _fault_in(text: str) -> Fault | None:
    if not text.strip():
        return Fault.EMPTY
    if "\0" in text:
        return Fault.NUL
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # surrogates: bytes that were not UTF-8, or half a pair in JSON
            return Fault.WRONG_ENCODING
    return None


def _readable(messages: tuple[Message, ...] | Fault) -> tuple[Message, ...] | Fault:
    """Messages with their line ends as in every other kind of file, or the fault of one that is no text."""
    if isinstance(messages, Fault):
        return messages
    if any(_fault_in(message.content) is Fault.WRONG_ENCODING for message in messages):
        return Fault.WRONG_ENCODING
    return tuple(message._replace(content=_with_line_feeds(message.content)) for message in messages)


def _with_line_feeds(text: str) -> str:
    """Line ends as in every other kind of file, so that where a text came from does not change it."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
