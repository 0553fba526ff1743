"""Parts of a long log: its end, what stands before or after a place in it, where a text occurs.

Main entries: `read_before`, `read_after`, `search`. A place is an offset in ``log.jsonl``, always the start
of an entry. Invariant: a part costs what it holds, however long the log is; only states of a progress bar are
read though newer ones overwrite them, and `search` reads further, until its time is over.
"""

import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from conjure.core.files import open_regular
from conjure.runs.telemetry import logs
from conjure.runs.telemetry.logs import LogEntry, LogLine, decode_entry

_BLOCK_BYTES = 1 << 18
_LONGEST_ENTRY_BYTES = 1 << 24
_SEARCH_BLOCK_BYTES = 1 << 22
_MOST_UNENDED = 1 << 20  # characters of pieces without an end, which are no line by themselves
_TEXT = '"text": '


@dataclass(frozen=True, slots=True)
class Piece:
    """A line, or a piece of one.

    Attributes:
        at: Where its entry begins.
        time: When it came, seconds since the epoch.
        stream: ``stdout``, ``stderr`` or ``conjure``.
        text: What was printed, without its end; escapes and carriage returns as they came.
        ends: Whether the line ends here.
    """

    at: int
    time: float
    stream: str
    text: str
    ends: bool


@dataclass(frozen=True, slots=True)
class LogWindow:
    """A part of a log: from `start` up to `end`, of `size` bytes in all."""

    start: int
    end: int
    size: int
    pieces: tuple[Piece, ...]

    def lines(self) -> Iterator[LogLine]:
        """The pieces put together into lines."""
        return logs.lines(
            LogEntry(piece.time, piece.stream, piece.text + "\n" * piece.ends) for piece in self.pieces
        )


@dataclass(frozen=True, slots=True)
class Found:
    """Where a text occurs, the newest first.

    Attributes:
        lines: The lines that hold it.
        before: From where to search on; 0 when all was searched.
    """

    lines: tuple[Piece, ...]
    before: int


def read_after(path: Path, offset: int, lines: int = 1000) -> LogWindow:
    """The part that begins at a place, up to about so many lines; empty where nothing is new."""
    with _opened(path) as file:
        size = _size(file)
        end, pieces, amount = offset, [], _Amount(lines)
        for at, line in _forward(file, offset):
            found = list(_pieces(at, line))
            pieces += found
            end = at + len(line) + 1
            if amount.is_reached_with(found):
                break
        return LogWindow(offset, end, size, _without_overwritten(pieces))


def read_before(path: Path, offset: int | None = None, lines: int = 1000) -> LogWindow:
    """The part that ends at a place, or at the end of the log, of about so many lines."""
    with _opened(path) as file:
        size = _size(file)
        end = size if offset is None else min(offset, size)
        entries: list[list[Piece]] = []
        start, amount = end, _Amount(lines)
        last: int | None = None
        for at, line in _backward(file, end):
            last = at + len(line) + 1 if last is None else last
            entries.append(list(_pieces(at, line)))
            start = at
            if amount.is_reached_with(entries[-1]):
                break
        pieces = [piece for entry in reversed(entries) for piece in entry]
        return LogWindow(start, end if last is None else last, size, _without_overwritten(pieces))


class _Amount:
    """So many lines, or much of lines whose ends are elsewhere."""

    def __init__(self, lines: int) -> None:
        self._lines, self._unended = lines, _MOST_UNENDED

    def is_reached_with(self, pieces: Sequence[Piece]) -> bool:
        """Whether it is reached with these and those before."""
        self._lines -= sum(piece.ends for piece in pieces)
        self._unended -= sum(len(piece.text) for piece in pieces if not piece.ends)
        return self._lines <= 0 or self._unended <= 0


def _without_overwritten(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Without what the same line overwrites later: of a progress bar the newest state stays."""
    kept: list[Piece] = []
    following: dict[str, Piece] = {}
    overwritten: set[str] = set()
    for piece in reversed(pieces):
        stream = piece.stream
        if piece.ends:
            overwritten.discard(stream)
        elif stream in following and _overwrites(following[stream], piece):
            overwritten.add(stream)
        if stream not in overwritten:
            kept.append(piece)
            following[stream] = piece
    return tuple(reversed(kept))


def _overwrites(following: Piece, piece: Piece) -> bool:
    shown = following.text.rstrip("\r")
    return "\r" in shown or (bool(shown) and piece.text.endswith("\r"))


def search(
    path: Path, text: str, before: int | None = None, *, most: int = 200, seconds: float = 1.5
) -> Found:
    """The newest lines before a place that hold a text, upper and lower case alike.

    Args:
        path: The log.
        text: What to look for; not across lines.
        before: Where to begin, the end of the log if None.
        most: How many lines are enough.
        seconds: How long to go on at most.
    """
    wanted, lines = text.casefold(), []
    until = time.monotonic() + seconds
    with _opened(path) as file:
        end = _size(file) if before is None else min(before, _size(file))
        for start, block in _blocks_backward(file, end, _SEARCH_BLOCK_BYTES):
            for at, line in _lines_that_hold(start, block, wanted):
                lines += [
                    piece for piece in reversed(list(_pieces(at, line))) if wanted in piece.text.casefold()
                ]
                if len(lines) >= most:
                    return Found(tuple(lines), at)
            if time.monotonic() > until:
                return Found(tuple(lines), start)
    return Found(tuple(lines), 0)


def _lines_that_hold(start: int, block: bytes, wanted: str) -> Iterator[tuple[int, bytes]]:
    """Entries with a casefolded text in them, the last first; quick where few have it."""
    raw = json.dumps(wanted, ensure_ascii=False)[1:-1]
    folded = block.decode(errors="replace").casefold()  # which makes and takes away no end of a line
    if raw not in folded:
        return
    at = start + len(block)
    for line, text in zip(reversed(block.split(b"\n")[:-1]), reversed(folded.split("\n")[:-1]), strict=True):
        at -= len(line) + 1
        if text.rfind(raw) >= max(text.find(_TEXT), 0) + len(_TEXT):
            yield at, line


def _forward(file: IO[bytes], offset: int) -> Iterator[tuple[int, bytes]]:
    file.seek(offset)
    at = offset
    while line := file.readline(_LONGEST_ENTRY_BYTES):
        if not line.endswith(b"\n"):
            return
        yield at, line[:-1]
        at += len(line)


def _backward(file: IO[bytes], end: int) -> Iterator[tuple[int, bytes]]:
    for start, block in _blocks_backward(file, end, _BLOCK_BYTES):
        at = start + len(block)
        for line in reversed(block.split(b"\n")[:-1]):
            at -= len(line) + 1
            yield at, line


def _blocks_backward(file: IO[bytes], end: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Whole lines, in blocks from the end to the beginning; a line still being written is left out."""
    wanted = size
    while end > 0:
        begin = max(end - wanted, 0)
        file.seek(begin)
        block = file.read(end - begin)
        block = block[: block.rfind(b"\n") + 1]
        cut = 0 if begin == 0 else block.find(b"\n") + 1
        if begin > 0 and (not cut or cut == len(block)) and wanted < _LONGEST_ENTRY_BYTES:
            wanted *= 2  # an entry longer than the block
            continue
        if len(block) > cut:
            yield begin + cut, block[cut:]
        end, wanted = begin + cut if cut else begin, size


def _pieces(at: int, line: bytes) -> Iterator[Piece]:
    entry = decode_entry(line)
    if entry is not None:
        yield from _split(at, entry)


def _split(at: int, entry: LogEntry) -> Iterator[Piece]:
    *whole, rest = entry.text.split("\n")
    for text in whole:
        yield Piece(at, entry.time, entry.stream, text, ends=True)
    if rest:
        yield Piece(at, entry.time, entry.stream, rest, ends=False)


def _size(file: IO[bytes]) -> int:
    return file.seek(0, 2)


def _opened(path: Path) -> IO[bytes]:
    """The log; nothing where the run has printed nothing yet."""
    try:
        return open_regular(path)
    except FileNotFoundError:
        return io.BytesIO()
