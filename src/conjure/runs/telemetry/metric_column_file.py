"""The file beside a run's metrics that holds the same points as columns.

Main entries: `ColumnWriter`, by which a run's supervisor writes it while the command goes on; `read_index`
and `read_column`, for who draws curves; `encode_part`, for who writes it whole.

The file is a row of parts. Each has a line of JSON, which says from where to where in ``metrics.jsonl`` its
points come from, and then the columns of those points. A part begins with the last bucket of the part before,
so that buckets stay whole.

Invariant: a part counts only if it is there to its end and goes on where the one before ended; whatever a
crash leaves is passed over, and the points are read from ``metrics.jsonl``.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from conjure.core.files import open_regular, parse_json, write_atomically
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.telemetry.line_tail import LONGEST_LINE_BYTES
from conjure.runs.telemetry.metric_column import Column, size_of
from conjure.runs.telemetry.metrics import Point

_FORMAT = 2
_CHECKED_BYTES = 4096
_MODE = 0o600
_PART_BYTES = 1 << 19  # of metrics; parsing as much takes some milliseconds
_PARTS = 64  # and more as a file grows, but never much more than that for each doubling
_LAST_PART_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the file some points of a metric are.

    Attributes:
        at: The first byte.
        points: How many.
        start: How many points of the metric come before them.
    """

    at: int
    points: int
    start: int


@dataclass(slots=True)
class KeptColumn:
    """What is kept of a metric, and what need not be read to know."""

    places: list[_Place] = field(default_factory=list)
    steps_ascend: bool = True
    times_ascend: bool = True

    @property
    def points(self) -> int:
        """How many points."""
        return self.places[-1].start + self.places[-1].points


@dataclass(frozen=True, slots=True)
class ColumnIndex:
    """What a file of columns holds.

    Attributes:
        source_bytes: How much of the metrics it was made from.
        identity: Which file it is; parts are only ever added to one.
        metrics: By name, in the order of their first points.
    """

    source_bytes: int = 0
    identity: tuple[int, int] | None = None
    metrics: Mapping[str, KeptColumn] = field(default_factory=dict)


def read_index(path: Path, source: IO[bytes], size: int) -> ColumnIndex:
    """What the file at `path` holds of the metrics in `source`, of `size` bytes; perhaps nothing."""
    metrics: dict[str, KeptColumn] = {}
    source_bytes, digest = 0, ""
    try:
        with open_regular(path) as file:
            facts = os.fstat(file.fileno())
            for header, at in _headers(file, facts.st_size):
                end = int(header["source_bytes"])
                if int(header["source_start"]) != source_bytes or not source_bytes < end <= size:
                    break
                source_bytes, digest = end, header["source_digest"]
                for each in header["metrics"]:
                    kept = metrics.setdefault(str(each["name"]), KeptColumn())
                    kept.places.append(_Place(at + int(each["at"]), int(each["points"]), int(each["start"])))
                    kept.steps_ascend, kept.times_ascend = each["steps_ascend"], each["times_ascend"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ColumnIndex()
    if not source_bytes or _digest(source, source_bytes) != digest:
        return ColumnIndex()
    return ColumnIndex(source_bytes, (facts.st_dev, facts.st_ino), metrics)


def read_column(path: Path, identity: tuple[int, int] | None, kept: KeptColumn) -> Column:
    """The points of a metric.

    Raises:
        OSError: The file is gone.
        EOFError: Another file has taken its place.
    """
    column = Column(steps_ascend=kept.steps_ascend, times_ascend=kept.times_ascend)
    with path.open("rb") as file:
        facts = os.fstat(file.fileno())
        if (facts.st_dev, facts.st_ino) != identity:
            raise EOFError("another process has written it anew")
        for place in kept.places:
            file.seek(place.at)
            column.read(_exactly(file, size_of(place.points)), place.points, place.start)
    return column


def encode_part(
    source: IO[bytes], source_start: int, source_bytes: int, columns: Mapping[str, tuple[Column, int]]
) -> bytes:
    """A part of the file.

    Args:
        source: The metrics.
        source_start: Up to where in them the part before goes.
        source_bytes: Up to where this part goes.
        columns: Of each metric the points, and how many come before them.
    """
    metrics: list[dict[str, Any]] = []
    blocks, at = [], 0
    for name, (column, start) in columns.items():
        metrics.append(
            {
                "name": name,
                "points": len(column),
                "start": start,
                "at": at,
                "steps_ascend": column.steps_ascend,
                "times_ascend": column.times_ascend,
            }
        )
        blocks.append(column.to_bytes(start))
        at += len(blocks[-1])
    header = {
        "format": _FORMAT,
        "byte_order": sys.byteorder,
        "source_start": source_start,
        "source_bytes": source_bytes,
        "source_digest": _digest(source, source_bytes),
        "bytes": at,
        "metrics": metrics,
    }
    return b"".join([json.dumps(header).encode() + b"\n", *blocks])


class ColumnWriter:
    """Keeps the points of a run as columns while they come, in little memory.

    A disk that takes nothing, or another process that writes the same file, ends the keeping: who draws
    curves reads the rest of the points from the metrics.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._source = RunFolder(folder).metrics
        self._path = RunFolder(folder).columns
        self._columns: dict[str, tuple[Column, int]] = {}
        self._new: set[str] = set()
        self._offset = self._kept = 0
        self._metrics: IO[bytes] | None = None
        self._descriptor: int | None = None
        self._is_over = False

    def add(self, points: Sequence[Point], offset: int) -> None:
        """Take in points; with them the metrics have been read up to `offset`."""
        if self._is_over:
            return
        rows: dict[str, tuple[list[int], list[float], list[float]]] = {}
        for name, step, value, at in points:
            steps, values, times = rows.setdefault(name, ([], [], []))
            steps.append(step)
            values.append(value)
            times.append(at)
        for name, added in rows.items():
            column, _ = self._columns.setdefault(name, (Column(), 0))
            column.extend(*added)
        self._new.update(rows)
        self._offset = offset
        if offset - self._kept > max(_PART_BYTES, offset // _PARTS):
            self._keep()

    def finish(self) -> None:
        """Keep what has come since the last part was written, if it is worth it."""
        if not self._is_over and self._offset - self._kept > _LAST_PART_BYTES:
            self._keep()
        self._end()

    def _keep(self) -> None:
        try:
            if self._metrics is None:
                self._metrics = self._source.open("rb")
            _insist_on_same(self._metrics.fileno(), self._source)
            new = {name: kept for name, kept in self._columns.items() if name in self._new}
            self._write(encode_part(self._metrics, self._kept, self._offset, new))
        except OSError:
            self._end()
            return
        self._kept = self._offset
        for name in self._new:
            column, start = self._columns[name]
            self._columns[name] = column, start + column.drop_all_but_last_bucket()
        self._new.clear()

    def _write(self, part: bytes) -> None:
        if self._descriptor is None:
            write_atomically(self._path, part, mode=_MODE)
            # A command may have put a link in its place, which is not followed.
            flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
            self._descriptor = os.open(self._path, flags)
            return
        _insist_on_same(self._descriptor, self._path)
        written = 0
        while written < len(part):
            written += os.write(self._descriptor, part[written:])
        os.fdatasync(self._descriptor)

    def _end(self) -> None:
        self._is_over = True
        self._columns.clear()
        if self._metrics is not None:
            self._metrics.close()
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None


def _insist_on_same(descriptor: int, path: Path) -> None:
    """Raise OSError if an open file is not what lies at a path any more."""
    here, there = os.fstat(descriptor), path.lstat()
    if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
        raise OSError(f"another file has taken the place of {path}")


def _headers(file: IO[bytes], size: int) -> Iterator[tuple[dict[str, Any], int]]:
    """The first line of each part that is there to its end, and where what follows it begins."""
    while True:
        line = file.readline(LONGEST_LINE_BYTES)
        if not line:
            return
        try:
            header = parse_json(line)
            end = file.tell() + int(header["bytes"])
            fits = (header["format"], header["byte_order"]) == (_FORMAT, sys.byteorder)
        except (ValueError, KeyError, TypeError):
            return  # a crash cut it off
        if not fits or not file.tell() <= end <= size:
            return
        yield header, file.tell()
        file.seek(end)


def _digest(source: IO[bytes], size: int) -> str:
    """Of the first and last bytes of the first `size`: points are only ever appended."""
    source.seek(0)
    digest = hashlib.sha256(source.read(min(size, _CHECKED_BYTES)))
    source.seek(max(size - _CHECKED_BYTES, 0))
    digest.update(source.read(min(size, _CHECKED_BYTES)))
    return digest.hexdigest()


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError(f"{size} bytes expected, {len(data)} found")
    return data
