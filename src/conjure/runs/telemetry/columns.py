"""A run's metric points as columns, kept beside their file, so that a curve is drawn without parsing JSON.

Main entries: `ColumnCache.open`, `MetricColumns.refresh`. Of each `BUCKET` points in a row a column also
knows which is the lowest, the highest and the first that is not finite; `curves` needs no more to find
extremes in a long series.

Invariant: the columns say what ``metrics.jsonl`` says. The file beside it is a cache: it is written whole or
not at all, checked against the points it was made from, and made again where it does not fit.
"""

import hashlib
import json
import math
import os
import re
import sys
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from conjure.core.files import parse_json, write_atomically
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.telemetry.line_tail import LONGEST_LINE_BYTES, LineTail
from conjure.runs.telemetry.metrics import parse_point

BUCKET = 64

_FORMAT = 1
_WORTH_KEEPING_BYTES = 1 << 20  # a shorter file is parsed in milliseconds
_CHECKED_BYTES = 4096
# As `conjure.reporting` writes points; a line of another form is parsed as JSON.
_POINT = re.compile(
    rb'^\{"name": "((?:[^"\\]|\\.)+)", "step": (-?[0-9]{1,18}), '
    rb'"value": (?:(-?[0-9][0-9.e+-]*)|"(nan|-?inf)"), "time": ([0-9]{1,10}\.[0-9]+)\}$',
    re.MULTILINE,
)


@dataclass(slots=True)
class Column:
    """One metric's points, in the order they were reported.

    Attributes:
        steps: Of each point.
        values: Of each point; NaN and infinite ones too.
        times: Of each point, seconds since the epoch.
        lowest: Of each bucket, the index of its lowest finite value, -1 where none is finite.
        highest: Likewise the highest.
        broken: Of each bucket, the index of its first value that is not finite, -1 where all are.
        steps_ascend: Whether no step is below the one before.
        times_ascend: Whether no time is.
    """

    steps: "array[int]" = field(default_factory=lambda: array("q"))
    values: "array[float]" = field(default_factory=lambda: array("d"))
    times: "array[float]" = field(default_factory=lambda: array("d"))
    lowest: "array[int]" = field(default_factory=lambda: array("q"))
    highest: "array[int]" = field(default_factory=lambda: array("q"))
    broken: "array[int]" = field(default_factory=lambda: array("q"))
    steps_ascend: bool = True
    times_ascend: bool = True

    def __len__(self) -> int:
        return len(self.values)

    @property
    def size_bytes(self) -> int:
        """How much memory the points take."""
        return sum(part.itemsize * len(part) for part in self._parts())

    def extend(self, steps: list[int], values: list[float], times: list[float]) -> None:
        """Add points."""
        before = len(self)
        self.steps_ascend = self.steps_ascend and _ascends(self.steps, steps)
        self.times_ascend = self.times_ascend and _ascends(self.times, times)
        self.steps.extend(steps)
        self.values.extend(values)
        self.times.extend(times)
        whole = before // BUCKET
        for part in (self.lowest, self.highest, self.broken):
            del part[whole:]
        for start in range(whole * BUCKET, len(self), BUCKET):
            self._add_bucket(start)

    def _add_bucket(self, start: int) -> None:
        values = self.values[start : start + BUCKET]
        if math.isfinite(sum(values)):
            self.lowest.append(start + values.index(min(values)))
            self.highest.append(start + values.index(max(values)))
            self.broken.append(-1)
            return
        finite = [place for place, value in enumerate(values) if math.isfinite(value)]
        others = set(range(len(values))).difference(finite)
        self.lowest.append(start + min(finite, key=values.__getitem__) if finite else -1)
        self.highest.append(start + max(finite, key=values.__getitem__) if finite else -1)
        self.broken.append(start + min(others) if others else -1)

    def _parts(self) -> "tuple[array[Any], ...]":
        return (self.steps, self.values, self.times, self.lowest, self.highest, self.broken)

    def to_bytes(self) -> bytes:
        """All of it, part after part."""
        return b"".join(part.tobytes() for part in self._parts())

    @classmethod
    def read(cls, file: IO[bytes], points: int, *, steps_ascend: bool, times_ascend: bool) -> "Column":
        """The column whose bytes begin at the file's place.

        Raises:
            EOFError: The file ends before.
        """
        column = cls(steps_ascend=steps_ascend, times_ascend=times_ascend)
        buckets = -(-points // BUCKET)
        for part, length in zip(column._parts(), (points,) * 3 + (buckets,) * 3, strict=True):
            part.frombytes(_exactly(file, length * part.itemsize))
        return column


@dataclass(frozen=True, slots=True)
class _Kept:
    """Where in the file beside a column lies, and what need not be read to know."""

    at: int
    points: int
    steps_ascend: bool
    times_ascend: bool


class MetricColumns:
    """The columns of one run; may be used from several threads.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._source = RunFolder(folder).metrics
        self._beside = RunFolder(folder).columns
        self._lock = threading.RLock()
        self._identity: tuple[int, int] | None = None
        self._beside_identity: tuple[int, ...] | None = None
        self._lines = LineTail(self._source)
        self._kept_offset = 0
        self._kept: dict[str, _Kept] = {}
        self._columns: dict[str, Column] = {}

    def refresh(self) -> None:
        """Take in what was added to the run's metrics."""
        with self._lock:
            try:
                file = self._source.open("rb")
            except OSError:
                self._forget()
                return
            with file:
                facts = os.fstat(file.fileno())
                if self._identity != (facts.st_dev, facts.st_ino) or facts.st_size < self._lines.offset:
                    self._forget()
                    self._identity = (facts.st_dev, facts.st_ino)
                    self._load(file, facts.st_size)
                self._take_new(file)
            if self._lines.offset - self._kept_offset > max(_WORTH_KEEPING_BYTES, self._lines.offset // 10):
                self._save()

    def names(self) -> list[str]:
        """The metrics, in the order of their first points."""
        with self._lock:
            return list(dict.fromkeys([*self._kept, *self._columns]))

    def count(self, name: str) -> int:
        """How many points a metric has."""
        with self._lock:
            if name in self._columns:
                return len(self._columns[name])
            return self._kept[name].points if name in self._kept else 0

    def column(self, name: str) -> Column:
        """One metric's points; an empty column for a name that is none."""
        with self._lock:
            self._load_column(name)
            return self._columns.get(name, Column())

    @property
    def size_bytes(self) -> int:
        """How much memory the columns take."""
        with self._lock:
            return sum(column.size_bytes for column in self._columns.values())

    def _forget(self) -> None:
        self._identity, self._lines.offset, self._kept_offset = None, 0, 0
        self._kept, self._columns = {}, {}

    def _take_new(self, file: IO[bytes]) -> None:
        for block in self._lines.read_blocks(file):
            self._take(block)

    def _take(self, whole: bytes) -> None:
        rows: dict[str, tuple[list[int], list[float], list[float]]] = {}
        for name, step, value, at in _points(whole):
            steps, values, times = rows.setdefault(name, ([], [], []))
            steps.append(step)
            values.append(value)
            times.append(at)
        for name, added in rows.items():
            if not self._load_column(name):
                return  # these points were among all that was read anew
            self._columns.setdefault(name, Column()).extend(*added)

    def _load(self, source: IO[bytes], size: int) -> None:
        """Take over what lies beside, if it was made from the beginning of what is there now."""
        try:
            with self._beside.open("rb") as file:
                header = parse_json(file.readline(LONGEST_LINE_BYTES))
                wanted = (_FORMAT, sys.byteorder, _digest(source, int(header["source_bytes"])))
                if int(header["source_bytes"]) > size or wanted != (
                    header["format"],
                    header["byte_order"],
                    header["source_digest"],
                ):
                    return
                start, identity = file.tell(), _identity(os.fstat(file.fileno()))
                kept = {
                    str(each["name"]): _Kept(
                        start + int(each["at"]),
                        int(each["points"]),
                        each["steps_ascend"],
                        each["times_ascend"],
                    )
                    for each in header["metrics"]
                }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return
        self._kept, self._beside_identity = kept, identity
        self._lines.offset = self._kept_offset = int(header["source_bytes"])

    def _load_column(self, name: str) -> bool:
        """Have in memory what is kept of a metric; False where all points had to be read anew for it."""
        if name in self._columns or name not in self._kept:
            return True
        kept = self._kept[name]
        try:
            with self._beside.open("rb") as file:
                if _identity(os.fstat(file.fileno())) != self._beside_identity:
                    raise EOFError("another process has written it anew")
                file.seek(kept.at)
                self._columns[name] = Column.read(
                    file, kept.points, steps_ascend=kept.steps_ascend, times_ascend=kept.times_ascend
                )
        except (OSError, EOFError):  # it was removed or replaced: what it was made from is still there
            identity = self._identity
            self._forget()
            self._identity = identity
            with suppress(OSError), self._source.open("rb") as source:
                self._take_new(source)
            return False
        return True

    def _save(self) -> None:
        """Write all columns beside the file they are of; a disk that takes nothing only costs the cache."""
        for name in self.names():
            self._load_column(name)
        columns = {name: self._columns[name] for name in self.names()}
        metrics, at = [], 0
        for name, column in columns.items():
            metrics.append(
                {
                    "name": name,
                    "points": len(column),
                    "at": at,
                    "steps_ascend": column.steps_ascend,
                    "times_ascend": column.times_ascend,
                }
            )
            at += column.size_bytes
        with suppress(OSError):
            with self._source.open("rb") as source:
                digest = _digest(source, self._lines.offset)
            header = {
                "format": _FORMAT,
                "byte_order": sys.byteorder,
                "source_bytes": self._lines.offset,
                "source_digest": digest,
                "metrics": metrics,
            }
            first = json.dumps(header).encode() + b"\n"
            write_atomically(
                self._beside, b"".join([first, *map(Column.to_bytes, columns.values())]), mode=0o600
            )
            self._beside_identity = _identity(self._beside.stat())
            self._kept_offset = self._lines.offset
            self._kept = {
                each["name"]: _Kept(
                    len(first) + each["at"], each["points"], each["steps_ascend"], each["times_ascend"]
                )
                for each in metrics
            }


class ColumnCache:
    """The columns of the runs that were looked at last, within a limit of memory.

    Args:
        limit_bytes: How much memory they may take together.
    """

    def __init__(self, limit_bytes: int = 256 << 20) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, MetricColumns] = OrderedDict()

    def open(self, folder: Path) -> MetricColumns:
        """The columns of the run in `folder`, up to date."""
        with self._lock:
            columns = self._open.pop(folder, None) or MetricColumns(folder)
            self._open[folder] = columns
        columns.refresh()
        self._make_room()
        return columns

    def _make_room(self) -> None:
        with self._lock:
            total = sum(columns.size_bytes for columns in self._open.values())
            while total > self._limit_bytes and len(self._open) > 1:
                _, oldest = self._open.popitem(last=False)
                total -= oldest.size_bytes


def _points(whole: bytes) -> Iterator[tuple[str, int, float, float]]:
    found = _POINT.findall(whole)
    if len(found) != whole.count(b"\n") + 1:
        for line in whole.split(b"\n"):
            point = parse_point(line)
            if point is not None:
                yield point.name, point.step, point.value, point.time
        return
    names: dict[bytes, str] = {}
    for raw, step, number, word, at in found:
        name = names.get(raw)
        if name is None:
            name = names[raw] = json.loads(b'"' + raw + b'"')
        yield name, int(step), float(number or word), float(at)


def _ascends(before: "array[Any]", added: list[Any]) -> bool:
    if before and added and added[0] < before[-1]:
        return False
    return all(map(int.__le__ if before.typecode == "q" else float.__le__, added, added[1:]))


def _digest(source: IO[bytes], size: int) -> str:
    """Of the first and last bytes of the first `size`: points are only ever appended."""
    source.seek(0)
    digest = hashlib.sha256(source.read(min(size, _CHECKED_BYTES)))
    source.seek(max(size - _CHECKED_BYTES, 0))
    digest.update(source.read(min(size, _CHECKED_BYTES)))
    return digest.hexdigest()


def _identity(facts: os.stat_result) -> tuple[int, ...]:
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError(f"{size} bytes expected, {len(data)} found")
    return data
