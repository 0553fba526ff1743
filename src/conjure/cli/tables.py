"""Tables and lists of facts: coloured and cut to the width of a terminal, plain aligned text elsewhere.

Main entries: `show_table`, `show_facts`. Invariant: each row is one line; elsewhere than on a terminal
nothing is cut or coloured.
"""

import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import click

from conjure.cli.render import cut, on_terminal, visible, width_of

_GAP = "  "
_BREAKS = re.compile(r"\s*[\n\r\t]\s*")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: Its heading.
        right: Align to the right, as numbers are.
        shrinks: May be cut where the terminal is too narrow.
    """

    title: str
    right: bool = False
    shrinks: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell with a colour of its own (a name that click knows)."""

    text: str
    colour: str | None = None


Row = Sequence[str | Cell]


def show_table(columns: Sequence[Column], rows: Iterable[Row]) -> None:
    """Write a table with a line of headings to stdout."""
    if on_terminal():
        click.echo("\n".join(drawn_table(columns, rows)))
    else:
        _show_plain(columns, rows)


def show_facts(facts: Iterable[tuple[str, str | Cell]]) -> None:
    """Write names and values to stdout, the values below one another; further lines of one are indented."""
    rows = [(visible(name), _cell(value)) for name, value in facts]
    width = max((len(name) for name, _ in rows), default=0)
    for name, cell in rows:
        indent = "\n" + " " * (width + len(_GAP))
        label, text = name.ljust(width), visible(cell.text).replace("\n", indent)
        if on_terminal():
            label = click.style(label, dim=True)
            text = click.style(text, fg=cell.colour) if cell.colour else text
        click.echo(f"{label}{_GAP}{text}".rstrip())


def heading(text: str) -> None:
    """Write a heading above further output, after an empty line."""
    click.echo(f"\n{click.style(text, bold=True)}")


def one_line(text: str) -> str:
    """`text` with a space for every line break or tab and the blanks around it."""
    return text if text.isprintable() else _BREAKS.sub(" ", text)


def _cell(value: str | Cell) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)


def _text(value: str | Cell) -> str:
    return one_line(value if isinstance(value, str) else value.text)


def _show_plain(columns: Sequence[Column], rows: Iterable[Row]) -> None:
    # Column by column and written at once, for there may be very many rows.
    texts = list(zip(*(map(_text, row) for row in rows), strict=True)) or [()] * len(columns)
    shown = [
        _padded([column.title, *below], to_the_right=column.right)
        for column, below in zip(columns, texts, strict=True)
    ]
    click.echo("\n".join(_GAP.join(line).rstrip() for line in zip(*shown, strict=True)))


def _padded(texts: Sequence[str], *, to_the_right: bool) -> list[str]:
    width = max(map(len, texts))
    return [text.rjust(width) if to_the_right else text.ljust(width) for text in texts]


def drawn_table(columns: Sequence[Column], rows: Iterable[Row]) -> list[str]:
    """The lines of a table as wide as the terminal allows, coloured."""
    cells = [[Cell(visible(_text(cell)), cell.colour) for cell in map(_cell, row)] for row in rows]
    widths = [
        max([width_of(column.title), *(width_of(row[index].text) for row in cells)])
        for index, column in enumerate(columns)
    ]
    over = sum(widths) + len(_GAP) * (len(columns) - 1) - shutil.get_terminal_size().columns
    over = _take([index for index, column in enumerate(columns) if column.shrinks], widths, over)
    _take(range(len(columns)), widths, over)
    heading = [Cell(column.title) for column in columns]
    return [
        _drawn_line(columns, widths, heading, bold=True),
        *(_drawn_line(columns, widths, row) for row in cells),
    ]


def _take(indices: Sequence[int], widths: list[int], over: int) -> int:
    """Narrow some columns, the widest first, until the table is not too wide; what it still is too wide."""
    while over > 0 and max((widths[index] for index in indices), default=1) > 1:
        widest = max(widths[index] for index in indices)
        chosen = [index for index in indices if widths[index] == widest]
        next_widest = max((widths[index] for index in indices if widths[index] < widest), default=1)
        taken = min(widest - next_widest, max(over // len(chosen), 1))
        for index in chosen:
            widths[index] -= taken
            over -= taken
    return over


def _drawn_line(
    columns: Sequence[Column], widths: Sequence[int], cells: Sequence[Cell], *, bold: bool = False
) -> str:
    parts = []
    for column, width, cell in zip(columns, widths, cells, strict=True):
        text = cut(cell.text, width)
        padding = " " * (width - width_of(text))
        styled = click.style(text, fg=cell.colour, bold=bold or None) if cell.colour or bold else text
        parts.append(f"{padding}{styled}" if column.right else f"{styled}{padding}")
    return _GAP.join(parts).rstrip()
