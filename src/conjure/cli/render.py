"""Pieces of output that commands share: notes, JSON, a status line, text that is safe to show.

Main entries: `note`, `remark`, `write_json`, `cut`, `StatusLine`, `MarkedLines`, `interrupt_detaches`.
Invariant: results go to stdout and everything else to stderr; colours, and lines that rewrite themselves,
appear on a terminal only.
"""

import json
import os
import re
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from conjure.core.files import write_atomically
from conjure.core.held_interrupts import interrupts_held
from conjure.core.quoting import DIRECTION_MARKS, printable
from conjure.core.text import error_text
from conjure.errors import DataError
from conjure.runs.schema.status import EXIT_DETACHED

_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_CUT = "…"
_NO_CELL = {"Mn", "Me", "Cf"}  # what is drawn over the letter before it, or not at all
_TWO_CELLS = {"W", "F"}
_REFRESH_S = 0.1
_CLEAR_LINE = "\r\x1b[2K"

# What a terminal might obey is shown as its picture instead (U+2400 …); line ends and tabs stay.
_PICTURES = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: 0x2421,
    **dict.fromkeys((*range(0x80, 0xA0), 0x2028, 0x2029, *map(ord, DIRECTION_MARKS)), 0xFFFD),
}


def on_terminal(*, err: bool = False) -> bool:
    """Whether stdout is a terminal, or with `err` stderr."""
    return (sys.stderr if err else sys.stdout).isatty()


def note(text: str) -> None:
    """Say something beside the result, on stderr."""
    click.echo(click.style(printable(text), dim=True), err=True)


def remark(text: str) -> None:
    """Say on stderr what is worth knowing of what was given, or chosen for it."""
    note(f"note: {text}")


def visible(text: str, *, err: bool = False) -> str:
    """`text` as it may be shown on a terminal: control characters cannot act; elsewhere nothing changes.

    Args:
        text: From outside.
        err: It goes to stderr.
    """
    return text if text.isprintable() or not on_terminal(err=err) else text.translate(_PICTURES)


def terminal_width() -> int:
    """How many cells a line of the terminal has: of stdout's, or if stdout is none, of stderr's."""
    fallback = os.terminal_size((80, 24))
    with suppress(OSError, ValueError):
        found = os.get_terminal_size(sys.stderr.fileno())
        fallback = found if found.columns else fallback
    return shutil.get_terminal_size(fallback).columns


def cut(text: str, width: int) -> str:
    """`text`, or as much of its beginning as is no wider, with a mark that the rest is missing."""
    if width_of(text) <= width:
        return text
    room, kept = width - len(_CUT), 0
    for character in text:
        room -= width_of(character)
        if room < 0:
            break
        kept += 1
    return f"{text[:kept]}{_CUT}"


def width_of(text: str) -> int:
    """How many of a terminal's cells a text takes."""
    if text.isascii():
        return len(text)
    return sum(_cells_of(character) for character in text)


def _cells_of(character: str) -> int:
    if unicodedata.category(character) in _NO_CELL:
        return 0
    return 2 if unicodedata.east_asian_width(character) in _TWO_CELLS else 1


def write_json(value: Mapping[str, Any] | Iterable[Any]) -> None:
    """Write a result for programs: an object on one line, an array with one element per line."""
    if isinstance(value, Mapping):
        click.echo(_json(value))
    else:
        sys.stdout.write("[")
        for place, element in enumerate(value):
            sys.stdout.write(f"{',' * (place > 0)}\n{_json(element)}")
        sys.stdout.write("\n]\n")


def save_json(path: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write a result for programs into a file, whole or not at all.

    Raises:
        DataError: The file cannot be written.
    """
    save_text(path, json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n")


def save_text(path: Path, content: str) -> None:
    """Write a result into a file, whole or not at all.

    Raises:
        DataError: The file cannot be written.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error_text(error)}") from error


def write_json_text(text: str) -> None:
    """Write JSON that is text already."""
    # What a stdout that is not UTF-8 cannot write would be escaped as Python does, not as JSON does.
    shown = text if _is_utf8() else _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)
    click.echo(shown, nl=False)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=not _is_utf8(), allow_nan=False)


def _is_utf8() -> bool:
    """Whether stdout can write any letter."""
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


@contextmanager
def interrupt_detaches(what_continues: Callable[[], Iterable[str]]) -> Iterator[None]:
    """Have a ^C in the block end the command as detached, and say what continues.

    Args:
        what_continues: Gives the lines to say.
    """
    try:
        yield
    except KeyboardInterrupt:
        if on_terminal(err=True):
            click.echo(err=True)  # the line has the terminal's ^C
        with interrupts_held():
            for line in what_continues():
                note(line)
        raise click.exceptions.Exit(EXIT_DETACHED) from None


class MarkedLines:
    """Lines about a run, each with a mark where the terminal can show one.

    Args:
        to_stderr: Write them there: stdout is for something else.
    """

    def __init__(self, *, to_stderr: bool = False) -> None:
        self._to_stderr = to_stderr
        self._on_terminal = sys.stdout.isatty() and not to_stderr
        self._unicode = _is_utf8()

    def submit(self, number: int) -> None:
        """A run was given its number."""
        self.say("💫", f"Casting run #{number}…")

    def say(self, mark: str, text: str, *, colour: str | None = None) -> None:
        """One line."""
        text = visible(text, err=self._to_stderr)
        line = f"{mark} {text}" if self._unicode else text.replace("…", "...").replace("→", "->")
        styled = click.style(line, fg=colour) if colour and self._on_terminal else line
        click.echo(styled, err=self._to_stderr)


class StatusLine:
    """One line on stderr that is rewritten in place; nothing at all where stderr is no terminal.

    It is cut to the terminal's width: of a line that wraps only the last row could be rewritten.
    """

    def __init__(self) -> None:
        self._shown_at = 0.0
        self.enabled = sys.stderr.isatty()

    def __enter__(self) -> "StatusLine":
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def show(self, text: str) -> None:
        """Show this now, unless the last one is not even a tenth of a second old."""
        if self.enabled and time.monotonic() - self._shown_at >= _REFRESH_S:
            click.echo(f"{_CLEAR_LINE}{cut(text, terminal_width() - 1)}", nl=False, err=True)
            self._shown_at = time.monotonic()

    def clear(self) -> None:
        """Take the line away."""
        if self.enabled and self._shown_at:
            click.echo(_CLEAR_LINE, nl=False, err=True)
