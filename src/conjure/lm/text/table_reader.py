"""One column of text out of a table: CSV, TSV, JSON lines or Parquet, streamed row by row.

Main entry: `open_table`, then `Table.samples` to choose a column and `Table.rows` to read it. Invariant: a
row that cannot be read is yielded with its fault, never dropped, and never takes its neighbours with it.
"""

import csv
import io
import json
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from conjure.errors import DataError

_SAMPLE_ROWS = 1000
_FIELD_LIMIT = 32_000_000  # characters; a quote left open swallows at most this much before it is noticed
_PARQUET_BATCH_ROWS = 1024


class Fault(StrEnum):
    """Why a row is of no use; the values are what a person is shown."""

    WRONG_ENCODING = "wrong encoding"
    EMPTY = "empty"
    NUL = "NUL character"
    MISSING_COLUMN = "missing column"
    TOO_MANY_FIELDS = "more fields than columns"
    UNCLOSED_QUOTE = "unclosed quote"
    STRAY_QUOTE = "quote inside a quoted field"
    TOO_LONG = "field longer than 32 million characters"
    BROKEN_JSON = "broken JSON"
    NOT_AN_OBJECT = "not a JSON object"
    NOT_TEXT = "not text"


class Row(NamedTuple):
    """One row of the chosen column: its text, or the fault that it has instead.

    Attributes:
        number: Line (CSV, TSV, JSON lines) or row (Parquet) in the file, from 1.
        text: What the column holds. Bytes that are not UTF-8 stand in it as lone surrogates.
        fault: Why there is no text.
    """

    number: int
    text: str | None
    fault: Fault | None = None


class Table(Protocol):
    """A file with named columns."""

    def samples(self) -> dict[str, list[str]]:
        """Every column's name with its first non-empty texts; none where it holds other things."""
        ...

    def rows(self, column: str) -> Iterator[Row]:
        """Every row's text in one column, in order."""
        ...


def open_table(path: Path, kind: str) -> Table:
    """The table in a file.

    Args:
        path: The file.
        kind: `csv`, `tsv`, `jsonl` or `parquet`.
    """
    match kind:
        case "jsonl":
            return JsonLinesTable(path)
        case "parquet":
            return ParquetTable(path)
        case _:
            return SeparatedTable(path, tabs=kind == "tsv")


def open_text(path: Path) -> IO[str]:
    """A text file as UTF-8, byte order mark dropped, every line end read as a line feed.

    Bytes that are not UTF-8 become lone surrogates, so that only the records they are in suffer.
    """
    return io.TextIOWrapper(path.open("rb"), encoding="utf-8-sig", errors="surrogateescape", newline=None)


class SeparatedTable:
    """CSV or TSV; quoted fields may hold line ends, the first row names the columns.

    Raises:
        DataError: The first row cannot be read, or gives two columns one name.
    """

    def __init__(self, path: Path, *, tabs: bool) -> None:
        self._path = path
        with open_text(path) as file:
            self._delimiter = "\t" if tabs else _delimiter(file.readline())
        with open_text(path) as file:
            self._names = self._header(self._fields(file))

    def samples(self) -> dict[str, list[str]]:
        """Every column's name with its first non-empty texts."""
        values: dict[str, list[str]] = {name: [] for name in self._names if name.strip()}
        with open_text(self._path) as file:
            rows = self._fields(file)
            self._header(rows)
            for _, fields, _ in islice(rows, _SAMPLE_ROWS):
                for name, text in zip(self._names, fields, strict=False):
                    if name in values and text.strip():
                        values[name].append(text)
        return values

    def rows(self, column: str) -> Iterator[Row]:
        """Every row's text in one column, in order; blank lines are no rows."""
        index = self._names.index(column)
        with open_text(self._path) as file:
            rows = self._fields(file)
            self._header(rows)
            for number, fields, fault in rows:
                if fault is not None:
                    yield Row(number, None, fault)
                elif any(fields[len(self._names) :]):
                    yield Row(number, None, Fault.TOO_MANY_FIELDS)
                elif len(fields) > index:
                    yield Row(number, fields[index])
                elif fields:
                    yield Row(number, None, Fault.MISSING_COLUMN)

    def _header(self, rows: Iterator[tuple[int, list[str], Fault | None]]) -> list[str]:
        """The columns' names, taken off the front of `rows`."""
        number, names, fault = next((row for row in rows if row[1] or row[2]), (1, [], None))
        if fault is not None:
            raise DataError(f"{self._path}, line {number}: {fault} where the columns are named")
        twice = next((name for name in names if name.strip() and names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{self._path} has two columns named {twice!r}", fix="rename one of them")
        return names

    def _fields(self, file: IO[str]) -> Iterator[tuple[int, list[str], Fault | None]]:
        """Line number, fields and fault of every row; reading goes on at the line after a faulty one."""
        csv.field_size_limit(max(csv.field_size_limit(), _FIELD_LIMIT))
        lines = _Lines(file)
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        while True:
            lines.begin_row()
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield lines.first_number, [], _quoting_fault(error, lines)
                lines.give_back_all_but_first()
                reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
            else:
                yield lines.first_number, fields, None


class _Lines:
    """Lines of a file that can be given back, so that a quote left open spoils one row, not the rest."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._given_back: list[str] = []  # last one first
        self._row: list[str] = []
        self._ended = False
        self.first_number = 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._given_back.pop() if self._given_back else self._file.readline()
        if not line:
            self._ended = True
            raise StopIteration
        self._row.append(line)
        return line

    def begin_row(self) -> None:
        self.first_number += len(self._row)
        self._row = []

    @property
    def row_is_one_line(self) -> bool:
        return len(self._row) == 1 and not self._ended

    def give_back_all_but_first(self) -> None:
        self._given_back += reversed(self._row[1:])
        self._row = self._row[:1]
        self._ended = False


def _quoting_fault(error: csv.Error, lines: _Lines) -> Fault:
    if not lines.row_is_one_line:
        return Fault.UNCLOSED_QUOTE
    return Fault.TOO_LONG if "field limit" in str(error) else Fault.STRAY_QUOTE


def _delimiter(header: str) -> str:
    """A comma, or what a `.csv` without any uses instead (spreadsheets in much of Europe write `;`)."""
    return "," if "," in header else max(";\t,", key=header.count)


class JsonLinesTable:
    """One JSON object a line; its names are the columns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def samples(self) -> dict[str, list[str]]:
        """Every name in the first objects with its first non-empty texts."""
        values: dict[str, list[str]] = {}
        for _, record, _ in islice(self._records(), _SAMPLE_ROWS):
            for name, value in record.items():
                values.setdefault(name, [])
                if isinstance(value, str) and value.strip():
                    values[name].append(value)
        return values

    def rows(self, column: str) -> Iterator[Row]:
        """Every object's text under one name, in order."""
        for number, record, fault in self._records():
            if fault is None:
                yield (
                    _row(number, record[column])
                    if column in record
                    else Row(number, None, Fault.MISSING_COLUMN)
                )
            else:
                yield Row(number, None, fault)

    def _records(self) -> Iterator[tuple[int, dict[str, Any], Fault | None]]:
        with open_text(self._path) as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    yield number, {}, Fault.BROKEN_JSON
                else:
                    is_object = isinstance(record, dict)
                    yield number, record if is_object else {}, None if is_object else Fault.NOT_AN_OBJECT


class ParquetTable:
    """A Parquet file, read a batch of rows at a time.

    Raises:
        DataError: It is not Parquet, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as file:
            self._schema = file.schema_arrow

    def samples(self) -> dict[str, list[str]]:
        """Every column's name with its first non-empty texts; none where it holds other things."""
        values: dict[str, list[str]] = {name: [] for name in self._schema.names}
        for name in values:
            if _is_text(self._schema.field(name).type):
                texts = (row.text for row in islice(self.rows(name), _SAMPLE_ROWS))
                values[name] = [text for text in texts if text is not None and text.strip()]
        return values

    def rows(self, column: str) -> Iterator[Row]:
        """Every row's text in one column, in order."""
        import pyarrow

        number = 0
        try:
            with self._open() as file:
                for batch in file.iter_batches(_PARQUET_BATCH_ROWS, columns=[column]):
                    for scalar in batch.column(0):
                        number += 1
                        yield _parquet_row(number, scalar)
        except (pyarrow.ArrowException, OSError) as error:
            raise self._damaged(error) from error

    def _open(self) -> Any:
        import pyarrow
        from pyarrow import parquet

        try:
            # Small reads: a row group may be larger than the memory there is.
            return parquet.ParquetFile(self._path, buffer_size=1 << 20, pre_buffer=False)
        except (pyarrow.ArrowException, OSError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DataError:
        return DataError(f"{self._path} is not a Parquet file, or is damaged: {str(error).splitlines()[0]}")


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    inner = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner)


def _parquet_row(number: int, scalar: Any) -> Row:
    try:
        return _row(number, scalar.as_py())
    except UnicodeDecodeError:
        return Row(number, None, Fault.WRONG_ENCODING)


def _row(number: int, value: object) -> Row:
    """A row from a typed value: null is empty, and a number is not text."""
    if isinstance(value, str):
        return Row(number, value)
    return Row(number, None, Fault.EMPTY if value is None else Fault.NOT_TEXT)
