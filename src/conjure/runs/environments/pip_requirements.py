"""Requirements files as a run can keep them: one text that means the same anywhere.

Main entries: `read_requirements`, `has_versions`, `version_changes`. Invariant: nothing in the text depends
on where the files lay, or on where the user stood.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from conjure.core.home import Home
from conjure.core.text import error_text
from conjure.errors import NotFoundError, UsageError
from conjure.runs.environments.local_packages import (
    absolute_option,
    is_local,
    keep_packages,
    split_remark,
)

_INCLUDE = re.compile(r"(?:-r|--requirement)[\s=]+(?P<path>.+)|-r(?P<short>\S+)")
_CONSTRAINT = re.compile(r"-c\b|--constraint\b")
_EDITABLE = re.compile(r"(?:-e|--editable)[\s=]+(?P<what>\S.*)")
_DEEPEST = 20


def read_requirements(home: Home, files: Iterable[Path]) -> tuple[str, list[str]]:
    """The content of requirements files, those they include put in place.

    A line that installs the folder the run is submitted from is left out: a run's own code is importable
    without being installed. Other local packages are kept in the home, and paths are named in full.

    Returns:
        The text, and what was left out, in words.

    Raises:
        NotFoundError: A file is not there.
        UsageError: A file cannot be read, or has a line that could not mean the same elsewhere.
    """
    lines: list[str] = []
    notes: list[str] = []
    for file in files:
        _read(home, file, lines, notes, depth=0)
    return "".join(f"{line}\n" for line in lines), notes


def _read(home: Home, file: Path, lines: list[str], notes: list[str], *, depth: int) -> None:
    if depth > _DEEPEST:
        raise UsageError(f"{file} includes itself")
    for number, line in enumerate(_content(file).splitlines(), start=1):
        text = line.strip()
        include = _INCLUDE.fullmatch(text.partition(" #")[0].strip())
        if include:
            _read(home, file.parent / (include["path"] or include["short"]), lines, notes, depth=depth + 1)
        elif _CONSTRAINT.match(text):
            raise UsageError(
                f"{file}, line {number}: constraints ({text}) are not supported",
                hint="put the versions into the requirements, as in numpy==2.1.0",
            )
        elif text and not text.startswith("#"):
            kept = _requirement(home, file, text)
            if kept is None:
                notes.append(f"{file}, line {number}: {text} is left out: a run's own code is not installed")
            else:
                lines.append(line if kept == text else kept)
        else:
            lines.append(line)


def _requirement(home: Home, file: Path, text: str) -> str | None:
    """A line of `file` as it is kept; None for the run's own code."""
    editable = _EDITABLE.fullmatch(text)
    what = editable["what"] if editable else text
    what, remark, comment = what.partition(" #")
    what = what.strip()
    if not is_local(what) or "://" in what.removeprefix("file://"):
        return absolute_option(f"{what}{remark}{comment}" if editable else text, (file.parent, Path.cwd()))
    folder = Path.cwd()  # as pip reads them
    path, _ = split_remark(what.removeprefix("file://").removeprefix("file:"))
    path = path.partition("[")[0].strip()
    if (folder / path).is_dir() and folder.resolve().is_relative_to((folder / path).resolve()):
        return None
    return keep_packages(home, [what.removeprefix("file://")], folder)[0]


def _content(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no requirements file {file}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error_text(error) if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"requirements file {file} cannot be read: {reason}") from error


def canonical_name(package: str) -> str:
    """A package's name in the one form that all its spellings have (PEP 503)."""
    return re.sub(r"[-_.]+", "-", package).lower()


def has_versions(packages: Mapping[str, str], constraints: Iterable[str]) -> bool:
    """Whether packages have the versions that they must have; those that are not there may have any."""
    versions = {canonical_name(name): version for name, version in packages.items()}
    wanted = (constraint.partition("==") for constraint in constraints)
    return all(versions.get(canonical_name(name), version) == version for name, _, version in wanted)


def version_changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Which packages differ, in order and in words: ``numpy 2.0 → 2.1``, ``rich none → 13.7``."""
    earlier, later = (
        {canonical_name(name): version for name, version in packages.items()} for packages in (before, after)
    )
    names = sorted(name for name in earlier.keys() | later if earlier.get(name) != later.get(name))
    return [f"{name} {earlier.get(name, 'none')} → {later.get(name, 'none')}" for name in names]
