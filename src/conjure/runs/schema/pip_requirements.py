"""Requirements files as a run can keep them: one text that means the same anywhere.

Main entry: `read_requirements`. Invariant: the text names packages only; nothing in it depends on where the
files lay.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from conjure.errors import NotFoundError, UsageError

_INCLUDE = re.compile(r"(?:-r|--requirement)[\s=]+(?P<path>.+)|-r(?P<short>\S+)")
_CONSTRAINT = re.compile(r"-c\b|--constraint\b")
_LOCAL = re.compile(r"(?:-e|--editable)[\s=]+\S.*|\.{0,2}/.*|\.|file:.*")
_DEEPEST = 20


def read_requirements(files: Iterable[Path]) -> tuple[str, list[str]]:
    """The content of requirements files, those they include put in place.

    A line that installs a local folder is left out: a run's own code is importable without being installed.

    Returns:
        The text, and what was left out, in words.

    Raises:
        NotFoundError: A file is not there.
        UsageError: A file cannot be read, or has a line that could not mean the same elsewhere.
    """
    lines: list[str] = []
    notes: list[str] = []
    for file in files:
        _read(file, lines, notes, depth=0)
    return "".join(f"{line}\n" for line in lines), notes


def _read(file: Path, lines: list[str], notes: list[str], *, depth: int) -> None:
    if depth > _DEEPEST:
        raise UsageError(f"{file} includes itself")
    for number, line in enumerate(_content(file).splitlines(), start=1):
        text = line.strip()
        include = _INCLUDE.fullmatch(text.partition(" #")[0].strip())
        if include:
            _read(file.parent / (include["path"] or include["short"]), lines, notes, depth=depth + 1)
        elif _CONSTRAINT.match(text):
            raise UsageError(
                f"{file}, line {number}: constraints ({text}) cannot be kept with a run",
                fix="write the versions into the requirements themselves, as in numpy==2.1.0",
            )
        elif _LOCAL.fullmatch(text):
            notes.append(f"{file}, line {number}: {text} is left out: a run's own code needs no installing")
        else:
            lines.append(line)


def _content(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no requirements file {file}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"requirements file {file} cannot be read: {reason}") from error
