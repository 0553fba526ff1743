"""One column of text out of a table: CSV, TSV, JSON, JSON lines or Parquet, streamed row by row.

Main entry: `open_table`, then `Table.samples` to choose a column and `Table.rows` to read it. Invariant: a
row is read whole or yielded with its fault, never dropped or shortened, and never takes its neighbours with
it.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from conjure.core.quoting import shell_words
from conjure.errors import DataError
from conjure.lm.text.delimiter_detection import DELIMITERS, choose_delimiter
from conjure.lm.text.encodings import is_gzip, open_text, read_lines
from conjure.lm.text.read_options import ReadOptions

STANDARD_INPUT_NAME = "standard input"  # of what has no file that a person could name
_SAMPLE_ROWS = 1000
_HEAD_CHARACTERS = 1 << 20  # of the rows by which a delimiter is chosen
_NEARLY_ALL = 0.99  # of the first rows; of verse, most rows may end with a comma of their own
_LISTED, _LISTED_CHARACTERS = 8, 40  # columns named in a message
_NO_DELIMITER = "\x1f"  # for a table of one column: a character of no text
_ESCAPED_QUOTE = r"\""
_NAMELESS = "text"
_JSON_SPACE = " \t\n\r\ufeff"
_JSON_CHUNK = 1 << 16  # characters
_SEPARATOR_LINE = re.compile(r'"?sep=([^"\r\n])"?[,;\t]*\n?', re.IGNORECASE)  # Excel's way to name it
_NAME = re.compile(r'[\s{,]*("(?:[^"\\]|\\.)*")\s*:\s*')  # in a JSON object, up to its value
_LIST_OF_OBJECTS = re.compile(r"\[\s*\{")
_LONGEST_SIGN = 12  # characters of JSON that mean nothing unless they are complete: \ud83d\ude00
# Several words are looked for from the start of a word (\b): from each letter of a long one takes its square.
_SENTENCE = re.compile(r"\w\W+\w+\W+\w.*[.!?…;:。！？]['\"»”’)]*\s*$|\b(?:\w+\W+){6}\w", re.DOTALL)
_BACKSLASH = re.compile(r"\\([\"\\])?")  # and the quote or backslash that it escapes
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
    STRAY_QUOTE = "quote inside a quoted field that is not written twice"
    TOO_LONG = "field longer than 32 million characters"
    BROKEN_JSON = "broken JSON"
    NAME_TWICE = "the same name twice in an object"
    NOT_AN_OBJECT = "not a JSON object"
    NOT_TEXT = "not text"
    NOT_MESSAGES = "not a list of messages"
    NOT_PAIRS = "a history that is not a list of pairs"
    TOOLS = "tools or calls of tools"
    REASONING = "reasoning beside an answer"
    MEDIA = "images, audio or video"
    WEIGHT = "a weight other than 0 and 1"
    UNKNOWN_ROLE = "a role that is not system, user or assistant"
    ROLES = "roles out of order (user and assistant must take turns)"
    NO_ANSWER = "no answer to train on"
    EMPTY_ANSWER = "an empty answer"
    NOT_ENCODED = "cannot be encoded"


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


class ColumnSample(NamedTuple):
    """What the first rows say of one column.

    Attributes:
        texts: Its first non-empty texts.
        holds_text: Whether it has more of them than of other things, such as lists.
        is_common: Whether half of the first rows have it. In JSON, one stray row can bring a name of its own.
    """

    texts: list[str]
    holds_text: bool
    is_common: bool = True


class _Style(NamedTuple):
    """How a CSV is written where it differs from the standard.

    Attributes:
        skips_spaces: Whether spaces after a delimiter are no text.
        escapes: Whether quotes in a quoted field are escaped with a backslash.
    """

    skips_spaces: bool = False
    escapes: bool = False


_PLAIN = _Style()
_Fields = tuple[int, list[str], Fault | None]  # number of the row's first line, its fields, or its fault
# Number of the row, its values by name (for one that may be cut: the fault), or the row's fault.
Record = tuple[int, dict[str, Any], Fault | None]


class Table(Protocol):
    """A file with named columns."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was taken for granted and may be otherwise, a sentence each."""
        ...

    def samples(self) -> dict[str, ColumnSample]:
        """Every column's name with what the first rows say of it."""
        ...

    def rows(self, column: str) -> Iterator[Row]:
        """Every row's text in one column, in order."""
        ...

    def records(self) -> Iterator[Record]:
        """Every row with all its values, in order."""
        ...


def open_table(path: Path, kind: str, layout: ReadOptions | None = None, name: str | None = None) -> Table:
    """The table in a file.

    Args:
        path: The file.
        kind: One of `TABLE_KINDS`.
        layout: What was said about how it is written.
        name: What to call it in a message; its path if None.
    """
    layout = layout if layout is not None else ReadOptions()
    name = name if name is not None else str(path)
    match kind:
        case "jsonl":
            return JsonLinesTable(path, layout, name)
        case "json":
            return JsonTable(path, layout, name)
        case "parquet":
            return ParquetTable(path, name)
        case _:
            return SeparatedTable(path, layout, name, tabs=kind == "tsv")


class SeparatedTable:
    """CSV or TSV; quoted fields may hold line ends, the first row names the columns.

    Raises:
        DataError: The first row cannot be read, or gives two columns one name.
    """

    def __init__(self, path: Path, layout: ReadOptions, name: str, *, tabs: bool) -> None:
        self._path, self._layout, self._name = path, layout, name
        head = self._head()
        said = _SEPARATOR_LINE.fullmatch(head[0]) if head else None
        self._skipped_lines = 1 if said is not None else 0
        self._by_line = layout.quoting == "auto" and tabs
        if layout.delimiter is not None:
            self._delimiter: str | None = layout.delimiter
        elif said is not None:
            self._delimiter = said[1]
        else:
            self._delimiter = "\t" if tabs else self._find_delimiter(head)
        delimiter = self._delimiter or _NO_DELIMITER
        self._style = _PLAIN if self._by_line else _style_of(head, delimiter, layout.quoting)
        rows = self._fields(head)
        self._names, self._first_row = self._header(rows), head[self._skipped_lines :][:1]
        sample = [fields for _, fields, fault in rows if fault is None and fields]
        self._padding = _padding(sample, len(self._names))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was taken for granted and may be otherwise, a sentence each."""
        escapes = "quotes inside its quoted fields are escaped with backslashes, which are not read as text"
        return (
            *self._doubts(),
            *([f"{escapes} (--quoting standard reads them)"] if self._style.escapes else ()),
        )

    def _doubts(self) -> tuple[str, ...]:
        """Whether the names are a record, or the columns are not found."""
        listed = list_names(self._names)
        if self._layout.header and looks_like_record(self._names, self._first_texts()):
            return (f"the first row names the columns ({listed}) and looks like a record: if it is one,"
                    " use --no-header",)  # fmt: skip
        first = self._first_row[0] if self._first_row else ""
        if self._delimiter is None and any(delimiter in first for delimiter in DELIMITERS):
            return (f"it is read as one column ({listed}): no delimiter gives the rows as many fields as the"
                    " first (--delimiter C sets one)",)  # fmt: skip
        return ()

    def samples(self) -> dict[str, ColumnSample]:
        """Every column's name with what the first rows say of it."""
        return {name: ColumnSample(texts, bool(texts)) for name, texts in self._first_texts().items()}

    def _first_texts(self) -> dict[str, list[str]]:
        """Every column's name with its first non-empty texts."""
        values: dict[str, list[str]] = {name: [] for name in self._names if name.strip()}
        for _, fields, _ in islice(self._body(), _SAMPLE_ROWS):
            for name, text in zip(self._names, fields, strict=False):
                if name in values and text.strip():
                    values[name].append(text)
        return values

    def rows(self, column: str) -> Iterator[Row]:
        """Every row's text in one column, in order; blank lines are no rows."""
        index, width = self._names.index(column), len(self._names)
        for number, fields, fault in self._body():
            if fault is not None:
                yield Row(number, None, fault)
            elif any(fields[width:]) or self._may_be_cut(len(fields) - width, index):
                yield Row(number, None, Fault.TOO_MANY_FIELDS)
            elif len(fields) > index:
                yield Row(number, fields[index])
            elif fields:
                yield Row(number, None, Fault.MISSING_COLUMN)

    def records(self) -> Iterator[Record]:
        """Every row with its texts by column, in order; blank lines are no rows."""
        width = len(self._names)
        for number, fields, fault in self._body():
            if any(fields[width:]):
                fault = Fault.TOO_MANY_FIELDS
            elif self._may_be_cut(len(fields) - width, width - 1):
                fields[width - 1] = Fault.TOO_MANY_FIELDS
            if fields or fault is not None:
                yield number, dict(zip(self._names, fields, strict=False)) if fault is None else {}, fault

    def _may_be_cut(self, extra: int, index: int) -> bool:
        """Whether empty fields after the last column may be delimiters that the column's text ends with."""
        return extra > 0 and index == len(self._names) - 1 and extra != self._padding

    def _body(self) -> Iterator[_Fields]:
        """The rows after the header, with line numbers of the file."""
        rows = self._fields(read_lines(self._path, self._layout.encoding))
        if self._layout.header:
            next((row for row in rows if row[1] or row[2]), None)
        yield from rows

    def _head(self) -> list[str]:
        """The first lines."""
        lines, room = [], _HEAD_CHARACTERS
        for line in islice(read_lines(self._path, self._layout.encoding), _SAMPLE_ROWS):
            lines.append(line)
            room -= len(line)
            if room < 0:
                break
        return lines

    def _find_delimiter(self, head: list[str]) -> str | None:
        def parse(delimiter: str) -> list[list[str]]:
            quoting = self._layout.quoting
            style = _style_of(head, delimiter, quoting)
            rows = _usable(_csv_rows(iter(head), delimiter, quoting, style))
            if style.skips_spaces and rows:  # by their spaces, names are told from a sentence
                rows[:1] = _usable(_csv_rows(iter(head), delimiter, quoting))[:1]
            return rows

        return choose_delimiter(parse, "".join(head))

    def _header(self, rows: Iterator[_Fields]) -> list[str]:
        """The columns' names, taken off the front of `rows`."""
        number, names, fault = next((row for row in rows if row[1] or row[2]), (1, [], None))
        if fault is not None:
            raise DataError(f"{self._name}, line {number}: {fault} where the columns are named")
        if not self._layout.header:
            return [str(place) for place in range(1, len(names) + 1)]
        refuse_equal_names(self._name, names)
        return names

    def _fields(self, lines: Iterable[str]) -> Iterator[_Fields]:
        """Line number, fields and fault of every row; reading goes on at the line after a faulty one."""
        lines = iter(lines)
        for _ in range(self._skipped_lines):
            next(lines, None)
        if self._delimiter is None:
            rows = _single_fields(lines, self._layout.quoting, self._style)
        elif self._layout.quoting == "none":
            rows = _unquoted_rows(lines, self._delimiter)
        elif self._by_line:
            rows = _balanced_rows(lines, self._delimiter)
        else:
            rows = _csv_rows(lines, self._delimiter, self._layout.quoting, self._style)
        return ((number + self._skipped_lines, fields, fault) for number, fields, fault in rows)


def looks_like_record(names: Sequence[str], samples: Mapping[str, Sequence[str]]) -> bool:
    """Whether what names the columns looks like one of the rows: sentences, or numbers among numbers."""
    return any(
        _SENTENCE.search(name) is not None
        or (_is_number(name) and bool(samples.get(name)) and all(map(_is_number, samples[name])))
        for name in names
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def refuse_equal_names(table: str, names: Sequence[str]) -> None:
    """Refuse a table in which a column's name would not tell which is meant.

    Raises:
        DataError: Two columns have one name.
    """
    seen: set[str] = set()
    for name in names:
        if name.strip() and name in seen:
            raise DataError(f"{table} has two columns named {list_names([name])}; rename one of them")
        seen.add(name)


def list_names(names: Sequence[str]) -> str:
    """Names in quotes, at most `_LISTED` of them, long ones shortened."""
    shown = [repr(name if len(name) <= _LISTED_CHARACTERS else name[: _LISTED_CHARACTERS - 1] + "…")
             for name in islice(names, _LISTED)]  # fmt: skip
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def _style_of(head: Sequence[str], delimiter: str, quoting: str) -> _Style:
    """How the first rows are written, where that tells; the standard way where it was asked for."""
    if quoting != "auto":
        return _PLAIN
    style = _Style(skips_spaces=_has_spaced_quotes("".join(head), delimiter))
    escapes = any(_ESCAPED_QUOTE in line for line in head) and _escapes_save_rows(head, delimiter, style)
    return style._replace(escapes=escapes)


def _has_spaced_quotes(text: str, delimiter: str) -> bool:
    """Whether spaces stand before every quoted field but those at the start of a line."""
    delimiter = re.escape(delimiter)
    spaces = re.findall(rf"{delimiter}( *)\"", text)
    fields = re.findall(rf"{delimiter} +\"(?:[^\"]|\"\")*+\"(?={delimiter}|$)", text, re.MULTILINE)
    return bool(spaces) and all(spaces) and len(fields) >= max(1, len(spaces) - 1)


def _escapes_save_rows(head: Sequence[str], delimiter: str, style: _Style) -> bool:
    """Whether more rows are read only with backslashes as escapes than would say something else with them."""
    plain = _rows_by_number(head, delimiter, style)
    escaped = _rows_by_number(head, delimiter, style._replace(escapes=True))
    if list(escaped.values()).count(None) > 1:  # the last row may go on after the head
        return False
    saved = changed = 0
    for number, fields in escaped.items():
        as_text = plain.get(number)
        if fields is None:
            continue
        if as_text is None:
            saved += 1
        else:  # one bad row is no reason to halve \\ in all others
            changed += fields != [field.replace(_ESCAPED_QUOTE, '"') for field in as_text]
    return saved > changed


def _rows_by_number(head: Sequence[str], delimiter: str, style: _Style) -> dict[int, list[str] | None]:
    """The fields of every row; None for a faulty one."""
    rows = _csv_rows(iter(head), delimiter, "auto", style)
    return {number: fields if fault is None else None for number, fields, fault in rows}


def _usable(rows: Iterable[_Fields]) -> list[list[str]]:
    return [fields for _, fields, fault in rows if fault is None and fields]


def _padding(rows: Sequence[Sequence[str]], width: int) -> int:
    """Empty fields that rows have after the last column, all or nearly all; 0 where they differ."""
    extras = Counter(len(row) - width for row in rows if not any(row[width:]))
    extra, count = extras.most_common(1)[0] if extras else (0, 0)
    return extra if extra > 0 and count >= _NEARLY_ALL * len(rows) else 0


def _unquoted_rows(lines: Iterator[str], delimiter: str) -> Iterator[_Fields]:
    for number, line in enumerate(lines, start=1):
        text = line.removesuffix("\n")
        yield number, text.split(delimiter) if text else [], None


def _single_fields(lines: Iterator[str], quoting: str, style: _Style) -> Iterator[_Fields]:
    """The rows of a table of one column: nothing separates, so nothing can be cut."""
    if quoting == "none":
        yield from _unquoted_rows(lines, _NO_DELIMITER)
        return
    source = _Lines(lines)
    for number, fields, fault in _csv_rows(source, _NO_DELIMITER, quoting, style):
        if fault is Fault.STRAY_QUOTE:  # a text that begins with a quotation
            yield number, [source.row_text], None
        else:
            yield number, [_NO_DELIMITER.join(fields)] if fields else [], fault


def _balanced_rows(lines: Iterator[str], delimiter: str) -> Iterator[_Fields]:
    """Rows in which a field is quoted only where that makes a whole row: as tools write TSV, or do not."""
    source, width = _Lines(lines), 0
    while True:
        source.begin_row()
        line = next(source, "")
        if not line:
            return
        text = line.removesuffix("\n")
        fields = text.split(delimiter) if text else []
        if any(field.startswith('"') for field in fields):
            fields = _quoted_row(source, line, delimiter, width) or fields
        width = width or len(fields)
        yield source.first_number, fields, None


def _quoted_row(source: "_Lines", first: str, delimiter: str, width: int) -> list[str] | None:
    """The fields of a row whose quotes balance; it goes on in further lines only if those are no rows."""
    with suppress(csv.Error):
        fields = next(_reader(_lines_of_row(source, first, delimiter, width), delimiter))
        if source.row_is_one_line or len(fields) == width:
            return fields
    source.give_back_all_but_first()
    return None


def _lines_of_row(source: "_Lines", first: str, delimiter: str, width: int) -> Iterator[str]:
    """The lines that may be one row of `width` fields, as far as they are asked for."""
    yield first
    delimiters, characters = first.count(delimiter), len(first)
    for line in source if width else ():
        delimiters += line.count(delimiter)
        if delimiters >= width or characters > _FIELD_LIMIT:
            return
        characters += len(line)
        yield line


def _reader(lines: Iterator[str], delimiter: str, style: _Style = _PLAIN) -> Iterator[list[str]]:
    """Rows with quoted fields, as long as ours may be: the library's own limit is far lower."""
    csv.field_size_limit(max(csv.field_size_limit(), _FIELD_LIMIT))
    return csv.reader(
        map(_with_backslashes_kept, lines) if style.escapes else lines,
        delimiter=delimiter,
        escapechar="\\" if style.escapes else None,
        skipinitialspace=style.skips_spaces,
        strict=True,
    )


def _with_backslashes_kept(line: str) -> str:
    """A line to be read with backslashes as escapes: those that escape nothing are text."""
    return _BACKSLASH.sub(lambda found: found[0] if found[1] else r"\\", line)


def _csv_rows(
    lines: Iterator[str], delimiter: str, quoting: str, style: _Style = _PLAIN
) -> Iterator[_Fields]:
    if quoting == "none":
        yield from _unquoted_rows(lines, delimiter)
        return
    source = lines if isinstance(lines, _Lines) else _Lines(lines)
    reader = _reader(source, delimiter, style)
    while True:
        source.begin_row()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fault = _quoting_fault(error, source)
            source.give_back_all_but_first()
            yield source.first_number, [], fault
            reader = _reader(source, delimiter, style)
        else:
            yield source.first_number, fields, None


class _Lines:
    """Lines that can be given back, so that a quote left open spoils one row, not the rest."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._given_back: list[str] = []  # last one first
        self._row: list[str] = []
        self._ended = False
        self.first_number = 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._given_back.pop() if self._given_back else next(self._lines, "")
        if not line:
            self._ended = True
            raise StopIteration
        self._row.append(line)
        return line

    def begin_row(self) -> None:
        self.first_number += len(self._row)
        self._row = []

    @property
    def row_text(self) -> str:
        """The row as it is written."""
        return "".join(self._row).removesuffix("\n")

    @property
    def row_is_one_line(self) -> bool:
        return len(self._row) == 1 and not self._ended

    def give_back_all_but_first(self) -> None:
        self._given_back += reversed(self._row[1:])
        self._row = self._row[:1]
        self._ended = False


def _quoting_fault(error: csv.Error, lines: _Lines) -> Fault:
    if "field limit" in str(error) and lines.row_is_one_line:
        return Fault.TOO_LONG
    return Fault.STRAY_QUOTE if lines.row_is_one_line else Fault.UNCLOSED_QUOTE


class JsonLinesTable:
    """One JSON object a line; its names are the columns."""

    remarks: tuple[str, ...] = ()

    def __init__(self, path: Path, layout: ReadOptions, name: str) -> None:
        self._path, self._encoding, self._name = path, layout.encoding, name

    def samples(self) -> dict[str, ColumnSample]:
        """Every name in the first objects with what they say of it."""
        texts: dict[str, list[str]] = {}
        having, others = Counter[str](), Counter[str]()
        rows = 0
        for _, record, fault in islice(self.records(), _SAMPLE_ROWS):
            rows += fault is None
            having.update(record.keys())
            for name, value in record.items():
                found = texts.setdefault(name, [])
                if not isinstance(value, str):
                    others[name] += value is not None
                elif value.strip():
                    found.append(value)
        return {
            name: ColumnSample(found, len(found) > others[name], 2 * having[name] >= rows)
            for name, found in texts.items()
        }

    def rows(self, column: str) -> Iterator[Row]:
        """Every object's text under one name, in order."""
        for number, record, fault in self.records():
            if fault is not None:
                yield Row(number, None, fault)
            elif column not in record:
                yield Row(number, None, Fault.MISSING_COLUMN)
            else:
                yield _row(number, record[column])

    def records(self) -> Iterator[Record]:
        """Every object, in order; blank lines are none."""
        for number, line in enumerate(read_lines(self._path, self._encoding), start=1):
            if not line.strip():
                continue
            try:
                value = _DECODER.decode(line)
            except _TwiceError:
                yield number, {}, Fault.NAME_TWICE
            except (ValueError, RecursionError):
                yield number, {}, Fault.BROKEN_JSON
            else:
                is_object = isinstance(value, dict)
                yield number, value if is_object else {}, None if is_object else Fault.NOT_AN_OBJECT


class JsonTable(JsonLinesTable):
    """One JSON array of objects or of texts, or objects one after another; read element by element.

    The column of plain texts is called `_NAMELESS`.

    Raises:
        DataError: It breaks off, is no JSON, or holds one object with the records inside.
    """

    def records(self) -> Iterator[Record]:
        """Every element of the array, or every value, in order."""
        inside = None
        for number, value in enumerate(self._values(), start=1):
            if isinstance(value, dict):
                inside = next((name for name, each in value.items() if _holds_records(each)), None)
                yield number, value, None
            elif isinstance(value, str):
                yield number, {_NAMELESS: value}, None
            elif isinstance(value, _TwiceError):
                yield number, {}, Fault.NAME_TWICE
            else:
                yield number, {}, Fault.NOT_AN_OBJECT
            if number > 1:
                inside = None
        if inside is not None:
            raise self._one_object(inside)

    def _values(self) -> Iterator[Any]:
        """The elements of the array, or else the values one after another; memory holds one at a time."""
        with open_text(self._path, self._encoding) as file:
            text = _JsonText(file)
            array = text.skip("[")
            count = 0
            while not (text.skip("]") if array else text.ended):
                if array and count and not text.skip(","):
                    raise self._broken(count)
                try:
                    yield text.value()
                except _TooLongError as error:
                    raise self._too_long(count + 1, error, in_array=array) from error
                except (ValueError, RecursionError) as error:
                    raise self._broken(count + 1) from error
                count += 1
            if not text.ended:
                raise self._broken(count + 1)

    def _broken(self, number: int) -> DataError:
        return DataError(f"{self._name} is damaged or truncated: record {number:,} is broken JSON")

    def _too_long(self, number: int, error: "_TooLongError", *, in_array: bool) -> DataError:
        if not in_array and number == 1 and error.records is not None:
            return self._one_object(error.records)
        return DataError(
            f"{self._name}: record {number:,} is longer than 32 million characters",
            hint="an array of shorter records is needed",
        )

    def _one_object(self, name: str) -> DataError:
        return DataError(
            f"{self._name} contains one object, with its records under {list_names([name])}; an array"
            " of records is needed",
            fix=None if self._name == STANDARD_INPUT_NAME else self._jq(f".[{json.dumps(name)}]"),
        )

    def _jq(self, program: str) -> str:
        """The command that writes what a program of jq finds in the file into another one."""
        file, output = shell_words(self._name), shell_words(f"records-{self._path.name.removesuffix('.gz')}")
        if is_gzip(self._path):
            return f"gzip -dc {file} | jq {shell_words(program)} > {output}"
        return f"jq {shell_words(program)} {file} > {output}"


def _holds_records(value: object) -> bool:
    """Whether a list holds objects that are not the messages of a conversation."""
    elements = [element for element in value if isinstance(element, dict)] if isinstance(value, list) else []
    return bool(elements) and not all("role" in each or "from" in each for each in elements)


class _JsonText:
    """JSON read value by value from a file."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._text, self._place = "", 0

    @property
    def ended(self) -> bool:
        """Whether only white space is left."""
        return self._next_character() == ""

    def skip(self, character: str) -> bool:
        """Whether this character comes next; then it is passed."""
        found = self._next_character() == character
        self._place += found
        return found

    def value(self) -> Any:
        """The next value, or a `_TwiceError`.

        Raises:
            ValueError, RecursionError: It is none.
            _TooLongError: It is longer than `_FIELD_LIMIT`.
        """
        self._next_character()
        while True:
            try:
                value, end = self._decoded()
            except ValueError as error:
                if len(self._text) > _FIELD_LIMIT and _breaks_off(error, self._text):
                    raise _TooLongError(_unfinished_list(self._text, self._place)) from error
                if len(self._text) > _FIELD_LIMIT or not self._read_more():
                    raise
                continue
            if end == len(self._text) and self._read_more():  # a number may go on
                continue
            self._place = end
            return value

    def _decoded(self) -> tuple[Any, int]:
        """What the text begins with, and where that ends."""
        try:
            return _DECODER.raw_decode(self._text, self._place)
        except _TwiceError as twice:  # perhaps within a value that has not been read to its end
            return twice, _PLAIN_DECODER.raw_decode(self._text, self._place)[1]

    def _next_character(self) -> str:
        while True:
            while self._place < len(self._text) and self._text[self._place] in _JSON_SPACE:
                self._place += 1
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._read_more():
                return ""

    def _read_more(self) -> bool:
        """Take in as much again as there is, so that a long value is not tried too often."""
        waiting = self._text[self._place :]
        more = self._file.read(max(_JSON_CHUNK, len(waiting)))
        self._text, self._place = waiting + more, 0
        return bool(more)


class _TwiceError(ValueError):
    """An object has two values under one name."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError
    return found


# Numbers are of no use here, and Python refuses to read very long whole ones.
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=float)
_PLAIN_DECODER = json.JSONDecoder(parse_int=float)


class _TooLongError(ValueError):
    """A value is longer than is read at once.

    Attributes:
        records: The name under which it has a list of objects that goes on beyond that; None where not.
    """

    def __init__(self, records: str | None) -> None:
        super().__init__()
        self.records = records


def _breaks_off(error: ValueError, text: str) -> bool:
    """Whether a value is no JSON only because the text ends before it does."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos > len(text) - _LONGEST_SIGN


def _unfinished_list(text: str, place: int) -> str | None:
    """The name under which the object at `place` has a list of objects that the text does not end."""
    while (found := _NAME.match(text, place)) is not None:
        try:
            place = _PLAIN_DECODER.raw_decode(text, found.end())[1]
        except ValueError:
            is_list = _LIST_OF_OBJECTS.match(text, found.end()) is not None
            return json.loads(found[1]) if is_list else None
    return None


class ParquetTable:
    """A Parquet file, read a batch of rows at a time.

    Raises:
        DataError: It is not Parquet, or damaged, or gives two columns one name.
    """

    remarks: tuple[str, ...] = ()

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        with self._open() as file:
            self._schema = file.schema_arrow
        refuse_equal_names(name, self._schema.names)

    def samples(self) -> dict[str, ColumnSample]:
        """Every column's name with what the first rows say of it."""
        values: dict[str, list[str]] = {name: [] for name in self._schema.names}
        for name in values:
            if _is_text(self._schema.field(name).type):
                texts = (row.text for row in islice(self.rows(name), _SAMPLE_ROWS))
                values[name] = [text for text in texts if text is not None and text.strip()]
        return {name: ColumnSample(texts, bool(texts)) for name, texts in values.items()}

    def rows(self, column: str) -> Iterator[Row]:
        """Every row's text in one column, in order."""
        import pyarrow

        number = 0
        try:
            with self._open() as file:
                for batch in file.iter_batches(_PARQUET_BATCH_ROWS, columns=[column]):
                    # Names with dots also match what lies inside other columns.
                    for scalar in batch.column(batch.schema.names.index(column)):
                        number += 1
                        yield _parquet_row(number, scalar)
        except (pyarrow.ArrowException, OSError) as error:
            raise self._damaged(error) from error

    def records(self) -> Iterator[Record]:
        """Every row with its values by column, in order."""
        import pyarrow

        number = 0
        try:
            with self._open() as file:
                for batch in file.iter_batches(_PARQUET_BATCH_ROWS):
                    columns = [batch.column(index) for index in range(batch.num_columns)]
                    for index in range(batch.num_rows):
                        number += 1
                        yield _parquet_record(number, batch.schema.names, [each[index] for each in columns])
        except (pyarrow.ArrowException, OSError) as error:
            raise self._damaged(error) from error

    def _open(self) -> Any:
        import pyarrow
        from pyarrow import parquet

        try:
            # Small reads: a row group may be larger than the memory there is.
            return parquet.ParquetFile(self._path, buffer_size=1 << 20, pre_buffer=False)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # names may be no UTF-8
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DataError:
        return DataError(f"{self._name} is not a Parquet file, or is damaged: {str(error).splitlines()[0]}")


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    inner = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner)


def _parquet_row(number: int, scalar: Any) -> Row:
    try:
        return _row(number, scalar.as_py())
    except UnicodeDecodeError:
        return Row(number, None, Fault.WRONG_ENCODING)


def _parquet_record(number: int, names: Sequence[str], scalars: Sequence[Any]) -> Record:
    try:
        values = [scalar.as_py() for scalar in scalars]
    except UnicodeDecodeError:
        return number, {}, Fault.WRONG_ENCODING
    return number, dict(zip(names, values, strict=True)), None


def _row(number: int, value: object) -> Row:
    """A row from a typed value: null is empty, and a number is not text."""
    if isinstance(value, str):
        return Row(number, value)
    return Row(number, None, Fault.EMPTY if value is None else Fault.NOT_TEXT)
