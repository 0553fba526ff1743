r"""What a run printed: written to ``log.jsonl`` as it comes, and read back.

Main entries: `LogWriter`, `LogTail`, `lines`. Each line of the file is one JSON object: ``time`` (seconds
since the epoch), ``stream`` (``stdout``, ``stderr``, or ``conjure`` for the supervisor's own notes) and
``text``. An entry holds whole lines, as many as arrived together, or a piece of a line that waits for its
end. Bytes that are not UTF-8 stand as U+FFFD in ``text`` and exactly in ``escaped`` (``\\xNN``; a backslash
is doubled).

Invariant: the entries of a stream, put together, are what the command wrote to it, except that a progress
bar (a line rewritten by carriage returns more than twice) keeps its newest states only.
"""

import codecs
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from conjure.core.files import parse_json
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import RunStatus
from conjure.runs.telemetry.line_tail import LineTail

STDOUT, STDERR, NOTE = "stdout", "stderr", "conjure"

_LONGEST_PIECE_BYTES = 1 << 16
_PARTIAL_AFTER_S = 0.1  # a line without end is shown after this long, so that prompts and dots are seen
_BAR_EVERY_S = 0.5
_BAR_STATES = 3
_LATEST_S = 1 << 36  # the year 4147: no clock of ours showed more


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A piece of a stream, and when it came."""

    time: float
    stream: str
    text: str
    escaped: str | None = None

    @property
    def content(self) -> bytes:
        """The bytes that were written, exactly."""
        if self.escaped is None:
            return self.text.encode()
        return codecs.escape_decode(self.escaped.encode())[0]  # pyright: ignore[reportReturnType]


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a stream, without its end, and when its beginning came."""

    time: float
    stream: str
    text: str


@dataclass(slots=True)
class _Pending:
    """A line whose end has not come."""

    content: bytearray = field(default_factory=bytearray)
    since: float = 0.0
    bar_shown_at: float = float("-inf")


class LogWriter:
    """Appends to a run's log. Memory stays bounded whatever the command prints.

    A full disk costs the entries that do not fit, never half of one; what was lost is noted when there is
    room again.

    Args:
        path: The file; made if missing.
        clock: Seconds since the epoch, for the entries.
        timer: Seconds by a clock that does not jump, for what waits.
        write: Writes bytes to an open file, and gives how many it could.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
        write: Callable[[int, bytes], int] = os.write,
    ) -> None:
        self._write = write
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._clock = clock
        self._timer = timer
        self._pending: dict[str, _Pending] = {}
        self._lost_bytes = 0

    def write(self, stream: str, data: bytes) -> None:
        """Take in what the command wrote to a stream."""
        pending = self._pending.setdefault(stream, _Pending())
        if not pending.content:
            pending.since = self._timer()
        pending.content += data
        end = pending.content.rfind(b"\n") + 1
        if end:
            self._emit(stream, pending, end)
        while len(pending.content) > _LONGEST_PIECE_BYTES:
            self._emit(stream, pending, _whole_characters(pending.content[:_LONGEST_PIECE_BYTES]))

    def flush_waiting(self) -> None:
        """Write lines whose end is long in coming; to be called a few times a second."""
        now = self._timer()
        for stream, pending in self._pending.items():
            end = _whole_characters(pending.content)
            if not end or now - pending.since < _PARTIAL_AFTER_S:
                continue
            if b"\r" in pending.content:
                if now - pending.bar_shown_at < _BAR_EVERY_S:
                    continue
                pending.bar_shown_at = now
            self._emit(stream, pending, end)

    def note(self, text: str) -> None:
        """Add a line of the supervisor's own."""
        self._append(NOTE, f"{text}\n".encode(errors="backslashreplace"))

    def flush(self) -> None:
        """Write all that is still waiting: nothing more is to come."""
        for stream, pending in self._pending.items():
            if pending.content:
                self._emit(stream, pending, len(pending.content))

    def close(self) -> None:
        """Write what is still waiting and let go of the file."""
        self.flush()
        self._note_loss()
        os.close(self._file)

    def _emit(self, stream: str, pending: _Pending, end: int) -> None:
        self._append(stream, bytes(pending.content[:end]))
        del pending.content[:end]
        pending.since = self._timer()

    def _append(self, stream: str, content: bytes) -> None:
        if stream != NOTE:
            self._note_loss()
        if not self._write_whole(stream, content) and stream != NOTE:
            self._lost_bytes += len(content)

    def _note_loss(self) -> None:
        """Say what was lost, as soon as there is room to say it."""
        words = (
            f"{self._lost_bytes} bytes of output were lost: they could not be written (is the disk full?)\n"
        )
        if self._lost_bytes and self._write_whole(NOTE, words.encode()):
            self._lost_bytes = 0

    def _write_whole(self, stream: str, content: bytes) -> bool:
        """Write an entry, or nothing of it."""
        entry = _encode(round(self._clock(), 3), stream, content)
        size = os.fstat(self._file).st_size
        with suppress(OSError):
            if self._write(self._file, entry) == len(entry):
                return True
        os.ftruncate(self._file, size)
        return False


def log_is_lost(folder: Path, record: RunRecord) -> bool:
    """Whether a run must have a log, as all have that got as far as a supervisor, and it is not there."""
    return RunStatus.QUEUED in record.facts.entered and not RunFolder(folder).log.is_file()


class LogTail:
    """Follows a log: each `read` gives the entries that were added since the last."""

    def __init__(self, path: Path) -> None:
        self._lines = LineTail(path)

    def move_to(self, path: Path) -> None:
        """Go on at another path: with the same file, if that was moved there, or with another one."""
        self._lines.path = path

    def read(self) -> Iterator[LogEntry]:
        """The new entries."""
        for line in self._lines.read():
            entry = decode_entry(line)
            if entry is not None:
                yield entry


class LineAssembler:
    """Puts pieces together into lines; of a progress bar only its last state is kept."""

    def __init__(self) -> None:
        self._begun: dict[str, LogLine] = {}

    def feed(self, entry: LogEntry) -> Iterator[LogLine]:
        """The lines that are whole with this entry."""
        begun = self._begun.pop(entry.stream, LogLine(entry.time, entry.stream, ""))
        *whole, rest = (begun.text + entry.text).split("\n")
        rest = newest_state(rest)  # a progress bar is rewritten for hours, and is one line all the same
        if len(rest) > _LONGEST_PIECE_BYTES:  # a line without end is given in pieces, not gathered up
            whole, rest = [*whole, rest], ""
        for place, text in enumerate(whole):
            yield LogLine(entry.time if place else begun.time, entry.stream, last_state(text))
        if rest:
            self._begun[entry.stream] = LogLine(entry.time if whole else begun.time, entry.stream, rest)

    def begun(self) -> list[LogLine]:
        """Lines whose end has not come, as they are by now."""
        return [LogLine(line.time, line.stream, last_state(line.text)) for line in self._begun.values()]


def lines(entries: Iterable[LogEntry]) -> Iterator[LogLine]:
    """Entries as lines."""
    assembler = LineAssembler()
    for entry in entries:
        yield from assembler.feed(entry)
    yield from assembler.begun()


def last_state(line: str) -> str:
    """What a terminal would be left with: the text after the last carriage return that something follows."""
    return line.rstrip("\r").rpartition("\r")[2]


def newest_state(line: str) -> str:
    """Of a line whose end has not come, the last state and the carriage returns around it."""
    body = line.rstrip("\r")
    _, returned, newest = body.rpartition("\r")
    return f"{returned}{newest}{line[len(body) :][:1]}"


def _encode(now: float, stream: str, content: bytes) -> bytes:
    entry: dict[str, float | str] = {"time": now, "stream": stream}
    try:
        entry["text"] = _thin_bars(content.decode())
    except UnicodeDecodeError:
        entry["text"] = content.decode(errors="replace")
        entry["escaped"] = repr(content)[2:-1]
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"


def decode_entry(line: bytes) -> LogEntry | None:
    """The entry on a line of the file, or None where there is none."""
    try:
        stored = parse_json(line)
        entry = LogEntry(float(stored["time"]), stored["stream"], stored["text"], stored.get("escaped"))
        return entry if 0 <= entry.time < _LATEST_S and isinstance(entry.content, bytes) else None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None


def _whole_characters(content: bytes | bytearray) -> int:
    """Length of the longest start of `content` that does not end inside a UTF-8 character."""
    for back in range(1, min(3, len(content)) + 1):
        byte = content[-back]
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(content) - back if needed > back else len(content)
        if byte < 0x80:
            break
    return len(content)


def _thin_bars(text: str) -> str:
    if text.count("\r") < _BAR_STATES:
        return text
    return "\n".join(map(_thin_bar, text.split("\n")))


def _thin_bar(line: str) -> str:
    """Of a line that was rewritten again and again, its last state."""
    return line if line.count("\r") < _BAR_STATES else newest_state(line)
