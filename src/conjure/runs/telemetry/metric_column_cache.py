"""A run's metric points as columns, so that a curve is drawn without parsing JSON.

Main entries: `ColumnCache.open`, `MetricColumns.refresh`. The run's supervisor keeps them in a file beside
the metrics while the run goes on; of a run where that is missing they are made here, on first sight.

Invariant: the columns say what ``metrics.jsonl`` says. The file beside it is a cache: it is checked against
the points it was made from, and made again where it does not fit.
"""

import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import IO

from conjure.core.files import open_regular, write_atomically
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.telemetry.line_tail import LineTail
from conjure.runs.telemetry.metric_column import Column
from conjure.runs.telemetry.metric_column_file import (
    ColumnIndex,
    encode_part,
    read_column,
    read_index,
)
from conjure.runs.telemetry.metrics import metric_name, parse_point

_WORTH_KEEPING_BYTES = 1 << 20  # more than the supervisor of a run leaves unwritten
# As `conjure.metric_logging` writes points; a line of another form is parsed as JSON. What matches is JSON,
# except that the name may hold anything.
_POINT = re.compile(
    rb'^\{"name": "((?:[^"\\]|\\.)+)", "step": (-?(?:0|[1-9][0-9]{0,17})), '
    rb'"value": (?:(-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)|"(nan|-?inf)"), '
    rb'"time": ((?:0|[1-9][0-9]{0,9})\.[0-9]+)\}$',
    re.MULTILINE,
)


class MetricColumns:
    """The columns of one run; may be used from several threads.

    Attributes:
        is_whole: Whether all points have been read that were there at the last `refresh`.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.is_whole = False
        self._source = RunFolder(folder).metrics
        self._beside = RunFolder(folder).columns
        self._lock = threading.RLock()
        self._identity: tuple[int, int] | None = None
        self._lines = LineTail(self._source)
        self._kept = ColumnIndex()
        self._kept_bytes = 0
        self._columns: dict[str, Column] = {}

    def refresh(self, until: float | None = None) -> None:
        """Take in what was added to the run's metrics.

        Args:
            until: When to stop for now, by `time.monotonic`; None to go on to the end.
        """
        with self._lock:
            try:
                file = open_regular(self._source)
            except OSError:
                self._forget()
                self.is_whole = True
                return
            with file:
                facts = os.fstat(file.fileno())
                if self._identity != (facts.st_dev, facts.st_ino) or facts.st_size < self._lines.offset:
                    self._forget()
                    self._identity = (facts.st_dev, facts.st_ino)
                    self._kept = read_index(self._beside, file, facts.st_size)
                    self._lines.offset = self._kept_bytes = self._kept.source_bytes
                has_time = until is None or facts.st_size == self._lines.offset or monotonic() < until
                self.is_whole = has_time and self._take_new(file, until)
                if self.is_whole and self._is_worth_keeping(file):
                    self._save(file)

    def names(self) -> list[str]:
        """The metrics, in the order of their first points."""
        with self._lock:
            return list(dict.fromkeys([*self._kept.metrics, *self._columns]))

    def count(self, name: str) -> int:
        """How many points a metric has."""
        with self._lock:
            if name in self._columns:
                return len(self._columns[name])
            return self._kept.metrics[name].points if name in self._kept.metrics else 0

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
        self._identity, self._lines.offset, self._kept_bytes = None, 0, 0
        self._kept, self._columns = ColumnIndex(), {}

    def _take_new(self, file: IO[bytes], until: float | None = None) -> bool:
        """Take in the new points; False if there was no time for all."""
        for block in self._lines.read_blocks(file):
            self._take(block)
            if until is not None and monotonic() > until:
                return False
        return True

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

    def _load_column(self, name: str) -> bool:
        """Have in memory what is kept of a metric; False where all points had to be read anew for it."""
        if name in self._columns or name not in self._kept.metrics:
            return True
        try:
            self._columns[name] = read_column(self._beside, self._kept.identity, self._kept.metrics[name])
        except (OSError, EOFError):  # it was removed or replaced: what it was made from is still there
            identity = self._identity
            self._forget()
            self._identity = identity
            with suppress(OSError), self._source.open("rb") as source:
                self._take_new(source)
            return False
        return True

    def _is_worth_keeping(self, file: IO[bytes]) -> bool:
        limit = max(_WORTH_KEEPING_BYTES, self._lines.offset // 10)
        if self._lines.offset - self._kept_bytes > limit:  # unless the run's supervisor has kept it meanwhile
            self._kept_bytes = read_index(self._beside, file, self._lines.offset).source_bytes
        return self._lines.offset - self._kept_bytes > limit

    def _save(self, file: IO[bytes]) -> None:
        """Write all columns beside the file they are of; a disk that takes nothing only costs the cache."""
        columns = {name: (self.column(name), 0) for name in self.names()}
        with suppress(OSError):
            write_atomically(self._beside, encode_part(file, 0, self._lines.offset, columns), mode=0o600)
            self._kept = read_index(self._beside, file, self._lines.offset)
            self._kept_bytes = self._kept.source_bytes


class ColumnCache:
    """The columns of the runs that were looked at last, within a limit of memory.

    Args:
        limit_bytes: How much memory they may take together.
    """

    def __init__(self, limit_bytes: int = 256 << 20) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, MetricColumns] = OrderedDict()

    def open(self, folder: Path, until: float | None = None) -> MetricColumns:
        """The columns of the run in `folder`, up to date; or as far as they are read at a moment."""
        with self._lock:
            columns = self._open.pop(folder, None) or MetricColumns(folder)
            self._open[folder] = columns
        columns.refresh(until)
        self._make_room()
        return columns

    def _make_room(self) -> None:
        with self._lock:
            total = sum(columns.size_bytes for columns in self._open.values())
            while total > self._limit_bytes and len(self._open) > 1:
                _, oldest = self._open.popitem(last=False)
                total -= oldest.size_bytes


def _points(whole: bytes) -> Iterable[tuple[str, int, float, float]]:
    found = _POINT.findall(whole)
    if len(found) == whole.count(b"\n") + 1:
        with suppress(ValueError):  # a name that is none
            raws = {raw for raw, *_ in found}
            names = {raw: metric_name(json.loads((b'"' + raw + b'"').decode())) for raw in raws}
            return (
                (names[raw], int(step), float(number or word), float(at))
                for raw, step, number, word, at in found
            )
    return filter(None, map(parse_point, whole.split(b"\n")))
