"""Patterns for file names, as gitignore writes them: ``*.csv``, ``results/``, ``checkpoints/**/best.pt``.

Main entry: `GlobSet`. Invariant: a pattern without a slash matches at any depth, one with a slash from the
root; a pattern that matches a folder matches everything in it; ``*``, ``?`` and ``[…]`` match no slash.
"""

import re
from collections.abc import Iterable
from functools import cached_property


class GlobSet:
    """Any of several patterns.

    Example:
        >>> GlobSet(["*.csv", "logs/"]).matches("run/logs.csv")
        True
        >>> GlobSet(["logs/"]).matches("logs")
        False
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(patterns)

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def matches(self, name: str) -> bool:
        """Whether a file of this name, relative to the root and in POSIX form, is meant."""
        return bool(self.patterns) and self._expression.fullmatch(name) is not None

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        return re.compile("|".join(f"(?:{_translate(pattern)})" for pattern in self.patterns), re.DOTALL)


def _translate(pattern: str) -> str:
    body = pattern.removeprefix("./")
    only_inside = body.endswith("/")
    body = body.rstrip("/")
    start = "" if "/" in body else "(?:.*/)?"
    parts = [_translate_segment(segment) for segment in body.removeprefix("/").split("/")]
    return start + _join(parts) + ("/.*" if only_inside else "(?:/.*)?")


def _join(parts: list[str | None]) -> str:
    """Segments joined by slashes; None stands for ``**``, any number of folders."""
    expression = ""
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        if part is None:
            expression += ".*" if last else "(?:.*/)?"
        else:
            expression += part + ("" if last else "/")
    return expression


def _translate_segment(segment: str) -> str | None:
    if segment == "**":
        return None
    expression, place = "", 0
    while place < len(segment):
        letter = segment[place]
        end = _class_end(segment, place) if letter == "[" else 0
        if letter == "\\" and place + 1 < len(segment):
            expression += re.escape(segment[place + 1])
            place += 1
        elif end:
            expression += _translate_class(segment[place + 1 : end])
            place = end
        else:
            expression += {"*": "[^/]*", "?": "[^/]"}.get(letter, re.escape(letter))
        place += 1
    return expression


def _class_end(segment: str, start: int) -> int:
    """Where the ``]`` is that closes the class opened at `start`; 0 if there is none."""
    first = start + 2 if segment[start + 1 : start + 2] in {"!", "^"} else start + 1
    return max(segment.find("]", first + 1), 0)  # a ] that comes first stands for itself


def _translate_class(content: str) -> str:
    negated = content[0] in "!^"
    members = content[1:] if negated else content
    ranges = re.sub(r"([\\\[\]^&~|])", r"\\\1", members)
    try:
        re.compile(f"[{ranges}]")
    except re.error:  # a range that runs backwards matches nothing
        return "(?!)"
    return f"(?!/)[{'^' if negated else ''}{ranges}]"


# Left out of snapshots and outputs unless asked for. What git tracks counts as asked for.
DEFAULT_EXCLUSIONS = (".git", ".venv", "venv", "node_modules", "__pycache__", "*.pyc")
