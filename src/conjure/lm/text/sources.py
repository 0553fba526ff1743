"""Finding what to read: the files and folders a person named, and the column of each table.

Main entry: `find_sources`. Invariant: a `Source` it returns could be opened and was not empty, and if it is
a table, has its column.
"""

import atexit
import difflib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from conjure.errors import ConjureError, DataError, NotFoundError, UsageError
from conjure.lm.text.table_reader import open_table

STANDARD_INPUT = "-"
TABLE_KINDS = ("csv", "tsv", "jsonl", "parquet")
KINDS = ("txt", *TABLE_KINDS)

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
    """

    name: str
    path: Path
    kind: str
    column: str | None = None
    guessed: bool = False

    @property
    def is_table(self) -> bool:
        """Whether its records are rows."""
        return self.kind in TABLE_KINDS


def find_sources(names: Sequence[str], *, column: str | None = None) -> list[Source]:
    """Every file meant, once each, in order, with the column to read.

    Args:
        names: Files, folders, or `-` for text on standard input.
        column: The column to read from tables; by default the one that holds text, if there is just one.

    Raises:
        NotFoundError: A file is not there.
        UsageError: A kind of file that is not read, an unknown column, or several that could be meant.
        DataError: A file is empty or damaged, or a folder holds nothing of these kinds.
    """
    if not names:
        raise UsageError("no data was named", fix="name a file, a folder, or - for standard input")
    found: dict[Path, Source] = {}
    for source in _collect(_files_of, names):
        found.setdefault(source.path.resolve(), source)
    files = list(found.values())
    if column is not None and not any(file.is_table for file in files):
        raise UsageError(
            f"column {column!r} needs a table ({_endings(TABLE_KINDS)}); {files[0].name} is text"
        )
    return _collect(lambda file: [_with_column(file, column)] if file.is_table else [file], files)


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn the system's refusal to read a file into one sentence.

    Raises:
        DataError: Reading failed inside the block.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}") from error


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
        raise type(faults[0])("; ".join(map(str, faults)), fix=faults[0].fix)
    if faults:
        raise faults[0]
    return sources


def _files_of(name: str) -> list[Source]:
    path = Path(name)
    if name == STANDARD_INPUT:
        return [_checked(Source("standard input", _copy_of_standard_input(), "txt"))]
    if path.is_dir():
        return _files_in(path)
    if not path.exists():
        raise NotFoundError(f"{name} does not exist", fix=_nearest(path))
    if _kind(path) not in KINDS:
        raise UsageError(
            f"{name} is not a kind of file that is read; those end in {_endings()}",
            fix=f"if it is plain text, give it on standard input: - < {name}",
        )
    return [_checked(Source(name, path, _kind(path)))]


def _copy_of_standard_input() -> Path:
    """Standard input as a file until this process ends, for it is read more than once."""
    with tempfile.NamedTemporaryFile(prefix="conjure-", suffix=".txt", delete=False) as file:
        path = Path(file.name)
        atexit.register(path.unlink, missing_ok=True)
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path


def _files_in(folder: Path) -> list[Source]:
    """The readable kinds of file below a folder, in order of their paths; hidden ones are left alone."""
    with readable(str(folder)):
        paths = sorted(path for path in folder.rglob("*") if _kind(path) in KINDS and path.is_file())
    shown = [path for path in paths if not any(p.startswith(".") for p in path.relative_to(folder).parts)]
    if not shown:
        raise DataError(f"the folder {folder} holds no file that ends in {_endings()}")
    return [Source(str(path), path, _kind(path)) for path in shown]


def _nearest(path: Path) -> str | None:
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / near[0]}?" if near else None


def _checked(source: Source) -> Source:
    with readable(source.name), source.path.open("rb") as file:
        empty = not file.read(1)
    if empty:
        raise DataError(f"{source.name} is empty (0 bytes)")
    return source


def _with_column(source: Source, column: str | None) -> Source:
    """The source with the column to read: the one given, or the only one that holds text."""
    with readable(source.name):
        samples = open_table(source.path, source.kind).samples()
    if not samples and column is None:
        raise DataError(
            f"{source.name} has no columns: not one of its first rows can be read",
            fix='a .jsonl holds one object a line, such as {"text": "…"}' if source.kind == "jsonl" else None,
        )
    if column is not None:
        if column in samples or not samples:  # a later row may have it; if none has, reading says so
            return replace(source, column=column)
        near = difflib.get_close_matches(column, samples, n=1, cutoff=0.0)
        raise UsageError(
            f"{source.name} has no column {column!r}; its columns are {_listed(samples)}",
            fix=f"--column {near[0]}" if near else None,
        )
    if not any(samples.values()):
        raise DataError(f"{source.name} has no text in its first rows; its columns are {_listed(samples)}")
    candidates = text_columns(samples)
    if len(candidates) == 1:
        return replace(source, column=candidates[0], guessed=True)
    what = "several columns that could be the text" if candidates else "no column that looks like text"
    raise UsageError(
        f"{source.name} has {what}; its columns are {_listed(samples)}",
        fix=f"--column {(candidates or list(samples))[0]}",
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


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


def _kind(path: Path) -> str:
    return path.suffix.lower()[1:]


def _endings(kinds: Iterable[str] = KINDS) -> str:
    return " ".join(f".{kind}" for kind in kinds)
