"""Finding what to read: the files and folders a person named, and the column of each table.

Main entry: `find_sources`. Invariant: a `Source` it returns could be opened and was not empty, and if it is
a table, has its column.
"""

import atexit
import gzip
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from conjure.core.files import expand_user, open_regular
from conjure.core.quoting import shell_words
from conjure.core.text import error_text, near_names
from conjure.errors import ConjureError, DataError, NotFoundError, UsageError, option
from conjure.lm.bounds import value_fault
from conjure.lm.text.chat.formats import ChatFormat, find_format
from conjure.lm.text.encodings import DEFAULT_ENCODING, open_bytes, text_encoding
from conjure.lm.text.read_options import ENDINGS, KINDS, TABLE_KINDS, ReadOptions
from conjure.lm.text.table_reader import STANDARD_INPUT_NAME, list_names, open_table

STANDARD_INPUT = "-"
_COMPRESSED = ".gz"
_FAULTS_SHOWN = 5
_KIND_OF_ENDING = {ending: kind for kind, endings in ENDINGS.items() for ending in endings}

# What opens an archive that is not read.
_UNPACKERS = {
    ".zip": "unzip",
    ".bz2": "bunzip2",
    ".xz": "unxz",
    ".zst": "unzstd",
    ".tar": "tar xf",
    ".tgz": "tar xf",
    ".tbz2": "tar xf",
    ".txz": "tar xf",
}
_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")  # of an archive that tar unpacks at once
_SPREADSHEETS = (".xlsx", ".xls", ".ods")
_NO_TEXT = (b"PK\x03\x04", b"%PDF")  # what files begin with that may have no NUL soon
_HEAD_BYTES = 4096

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Source:
    """One file that records come from.

    Attributes:
        name: What to call it in a message.
        path: Where it is.
        kind: One of `KINDS`.
        column: The column read, of a table.
        guessed: Whether the column was found rather than given.
        chat: The format of its conversations, of a table that holds some.
        remarks: What was taken for granted about it and may be otherwise, a sentence each.
    """

    name: str
    path: Path
    kind: str
    column: str | None = None
    guessed: bool = False
    chat: ChatFormat | None = None
    remarks: tuple[str, ...] = ()

    @property
    def is_table(self) -> bool:
        """Whether its records are rows."""
        return self.kind in TABLE_KINDS


def find_sources(
    names: Sequence[str], *, column: str | None = None, layout: ReadOptions | None = None
) -> list[Source]:
    """Every file meant, once each, in order, with the column to read.

    Args:
        names: Files, folders, or `-` for text on standard input.
        column: The column to read from tables; by default the one that holds text, if there is just one.
        layout: What was said about how the files are written.

    Raises:
        NotFoundError: A file is not there.
        UsageError: A kind of file that is not read, an unknown column, or several that could be meant.
        DataError: A file is empty or damaged, or a folder holds nothing of these kinds.
    """
    layout = layout if layout is not None else ReadOptions()
    if not names:
        raise UsageError("no data was given: give a file, a folder, or - for standard input")
    found: dict[Path, Source] = {}
    for source in _collect(lambda name: _files_of(name, layout.format), names):
        found.setdefault(source.path.resolve(), source)
    files = list(found.values())
    if column is not None and not any(file.is_table for file in files):
        raise value_fault(
            "column",
            f"{column!r} needs a table ({_endings(TABLE_KINDS)}); {files[0].name} is text",
            fix=option("format", "csv") if files[0].name == STANDARD_INPUT_NAME else None,
        )
    return _collect(lambda file: [_with_column(file, column, layout)] if file.is_table else [file], files)


@contextmanager
def translate_read_errors(name: str) -> Iterator[None]:
    """Turn the system's refusal to read a file into one sentence.

    Raises:
        DataError: Reading failed inside the block.
    """
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
            raise DataError(f"{name} is a gzip file that is damaged or truncated: {error}") from error
        raise DataError(f"{name} cannot be read: {error_text(error)}") from error


def text_columns(samples: dict[str, list[str]]) -> list[str]:
    """The columns that hold text: several words each, or failing that, at least letters.

    Args:
        samples: Each column's first non-empty values.
    """
    if len(samples) == 1:
        return list(samples)
    for is_text in (_is_wordy, _has_letters):
        found = [name for name, values in samples.items() if _most(is_text, values)]
        if found:
            return found
    return []


def _collect(step: Callable[[_Item], list[Source]], items: Iterable[_Item]) -> list[Source]:
    """The sources of all items, or the faults of all of them in one error."""
    sources: list[Source] = []
    faults: list[ConjureError] = []
    for item in items:
        try:
            sources += step(item)
        except ConjureError as error:
            faults.append(error)
    if len(faults) > 1:
        listed = [fault.unspelled.message for fault in faults[:_FAULTS_SHOWN]]
        more = len(faults) - len(listed)
        text = "; ".join(listed) + (f"; and {more:,} more" if more else "")
        raise type(faults[0])(text, fix=faults[0].unspelled.fix, hint=faults[0].unspelled.hint)
    if faults:
        raise faults[0]
    return sources


def _files_of(name: str, format: str | None) -> list[Source]:
    path = expand_user(name)
    if name == STANDARD_INPUT:
        return [_checked(Source(STANDARD_INPUT_NAME, _copy_of_standard_input(), format or "txt"))]
    if path.is_dir():
        return _files_in(path, format)
    if not path.exists():
        raise NotFoundError(f"{name} does not exist{_nearest(path)}")
    kind = format or kind_of(path)
    if kind not in KINDS:
        raise _unknown_kind(name, path)
    return [_checked(Source(name, path, kind))]


def _unknown_kind(name: str, path: Path) -> UsageError:
    unpack = _unpacker(path)
    if unpack is not None:
        return UsageError(f"{name} is an archive, which cannot be read", fix=f"{unpack} {shell_words(name)}")
    if path.suffix.lower() in _SPREADSHEETS:
        return UsageError(f"{name} is a spreadsheet, which cannot be read", hint="save it as CSV")
    unknown = f"{name} has no supported file type; supported are {_endings()}"
    with translate_read_errors(name):
        if not _may_be_text(path):
            return UsageError(unknown)
    return UsageError(f"{unknown}. To read it anyway, give {option('format')}", fix=option("format", "txt"))


def _unpacker(path: Path) -> str | None:
    """What opens an archive; None for a file that is none."""
    *_, before, last = ["", "", *(suffix.lower() for suffix in path.suffixes)]
    return _UNPACKERS.get(before if before == ".tar" and last in _COMPRESSIONS else last)


def _may_be_text(path: Path) -> bool:
    """Whether a file, or what is compressed in it, does not begin like one that is no text."""
    with open_bytes(path) as file:
        head = file.read(_HEAD_BYTES)
    is_marked = text_encoding(path) != DEFAULT_ENCODING
    return is_marked or not (b"\0" in head or head.startswith(_NO_TEXT))


def _copy_of_standard_input() -> Path:
    """Standard input as a file until this process ends, for it is read more than once."""
    with tempfile.NamedTemporaryFile(prefix="conjure-", suffix=".txt", delete=False) as file:
        path = Path(file.name)
        atexit.register(path.unlink, missing_ok=True)
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path


def _files_in(folder: Path, format: str | None) -> list[Source]:
    """The readable kinds of file below a folder, in order of their paths; hidden ones are left alone."""
    wanted = KINDS if format is None else (format,)
    with translate_read_errors(str(folder)):
        paths = sorted(path for path in folder.rglob("*") if kind_of(path) in wanted and path.is_file())
    shown = [path for path in paths if not any(p.startswith(".") for p in path.relative_to(folder).parts)]
    if not shown:
        raise DataError(f"the folder {folder} contains no file that ends in {_endings(wanted)}")
    return [Source(str(path), path, kind) for path in shown if (kind := kind_of(path)) is not None]


def _nearest(path: Path) -> str:
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = near_names(path.name, names)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def _checked(source: Source) -> Source:
    with translate_read_errors(source.name), open_regular(source.path) as file:
        empty = not file.read(1)
    if empty:
        raise DataError(f"{source.name} is empty (0 bytes)")
    return source


def _with_column(source: Source, column: str | None, layout: ReadOptions) -> Source:
    """The source with the column to read: the one given, or the only one that holds text."""
    with translate_read_errors(source.name):
        table = open_table(source.path, source.kind, layout, source.name)
        samples, remarks = table.samples(), table.remarks
    source = replace(source, remarks=remarks)
    if not samples and column is None:
        example = (
            ': a .jsonl contains one object per line, such as {"text": "…"}' if source.kind == "jsonl" else ""
        )
        raise DataError(f"{source.name} has no columns: none of its first rows can be read{example}")
    if column is not None:
        return _with_given_column(source, column, samples)
    chat = find_format(samples)
    if chat is not None:
        return replace(source, chat=chat)
    texts = {name: each.texts for name, each in samples.items()}
    if not any(texts.values()):
        raise DataError(
            f"{source.name} has no text in its first rows; its columns are {list_names(list(samples))}"
        )
    candidates = text_columns(texts)
    if len(candidates) > 1:
        candidates = [name for name in candidates if samples[name].is_common] or candidates
    if len(candidates) == 1:
        return replace(source, column=candidates[0], guessed=True)
    what = "several columns that could be the text" if candidates else "no column that looks like text"
    raise UsageError(
        f"{source.name} has {what}; its columns are {list_names(list(samples))}",
        fix=option("column", (candidates or list(samples))[0]),
    )


def _with_given_column(source: Source, column: str, samples: Collection[str]) -> Source:
    # Of JSON, a later record may have it; if none has, reading says so.
    if column in samples or (not samples and source.kind in ("json", "jsonl")):
        return replace(source, column=column)
    near = near_names(column, samples, alike=0.0)
    raise UsageError(
        f"{source.name} has no column {column!r}; its columns are {list_names(list(samples))}",
        fix=option("column", near[0]) if near else None,
    )


def _most(holds: Callable[[str], bool], values: Sequence[str]) -> bool:
    return 2 * sum(map(holds, values)) > len(values)


def _is_wordy(value: str) -> bool:
    """Several words; or long without spaces, as Chinese and Japanese are written."""
    several = len(value.split()) > 1 or (len(value) >= 8 and not value.isascii())
    return several and _has_letters(value)


def _has_letters(value: str) -> bool:
    """Letters of any script, or bytes that are not UTF-8, which in old files are letters too."""
    letters = any(character.isalpha() or "\udc80" <= character <= "\udcff" for character in value)
    return letters and "://" not in value


def kind_of(path: Path) -> str | None:
    """The kind of file a name says; None for one that is not read."""
    name = path.name.lower()
    inner = name.removesuffix(_COMPRESSED)
    kind = _KIND_OF_ENDING.get(Path(inner).suffix[1:])
    return None if kind == "parquet" and inner != name else kind


def _endings(kinds: Iterable[str] = KINDS) -> str:
    return " ".join(f".{ending}" for kind in kinds for ending in ENDINGS[kind])
