"""Tables and lists of facts: drawn by rich on a terminal, plain aligned text elsewhere.

Main entries: `show_table`, `show_facts`. Invariant: elsewhere than on a terminal nothing is cut, coloured or
drawn, each row is one line, and rich is not imported.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from conjure.cli.render import on_terminal, visible

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
    """A cell with a colour of its own (a name that both click and rich know)."""

    text: str
    colour: str | None = None


Row = Sequence[str | Cell]


def show_table(columns: Sequence[Column], rows: Iterable[Row]) -> None:
    """Write a table with a line of headings to stdout."""
    if on_terminal():
        _show_drawn(columns, rows)
    else:
        _show_plain(columns, rows)


def show_facts(facts: Iterable[tuple[str, str | Cell]]) -> None:
    """Write names and values to stdout, the values below one another; further lines of one are indented."""
    rows = [(name, _cell(value)) for name, value in facts]
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


def _show_drawn(columns: Sequence[Column], rows: Iterable[Row]) -> None:
    # A tenth of a second to import, which only a terminal has use for.
    from rich.console import Console

    Console().print(drawn_table(columns, rows))


def drawn_table(columns: Sequence[Column], rows: Iterable[Row]) -> Any:
    """The table as rich draws it, for who shows it again and again."""
    # As above.
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, len(_GAP), 0, 0))
    for column in columns:
        justify = "right" if column.right else "left"
        table.add_column(column.title, justify=justify, no_wrap=not column.shrinks)
    for row in rows:
        texts = (
            Text(visible(one_line(cell.text)), cell.colour or "", no_wrap=True, overflow="ellipsis")
            for cell in map(_cell, row)
        )
        table.add_row(*texts)
    return table
