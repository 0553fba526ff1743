"""Tables and lists of facts: drawn by rich on a terminal, plain aligned text elsewhere.

Main entries: `show_table`, `show_facts`. Invariant: elsewhere than on a terminal nothing is cut, coloured or
drawn, each row is one line, and rich is not imported.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

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
    cells = [list(map(_one_line_cell, row)) for row in rows]
    if on_terminal():
        _show_drawn(columns, cells)
    else:
        _show_plain(columns, cells)


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
    return _BREAKS.sub(" ", text)


def _cell(value: str | Cell) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)


def _one_line_cell(value: str | Cell) -> Cell:
    cell = _cell(value)
    text = one_line(cell.text)
    return cell if text == cell.text else replace(cell, text=text)


def _show_plain(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
    lines = [[column.title for column in columns], *([cell.text for cell in row] for row in rows)]
    widths = [max(map(len, texts)) for texts in zip(*lines, strict=True)]
    shown = []
    for line in lines:
        padded = [
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(line, widths, columns, strict=True)
        ]
        shown.append(_GAP.join(padded).rstrip())
    click.echo("\n".join(shown))  # at once: there may be very many


def _show_drawn(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
    # A tenth of a second to import, which only a terminal has use for.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, len(_GAP), 0, 0))
    for column in columns:
        justify = "right" if column.right else "left"
        table.add_column(column.title, justify=justify, no_wrap=not column.shrinks)
    for row in rows:
        texts = (
            Text(visible(cell.text), cell.colour or "", no_wrap=True, overflow="ellipsis") for cell in row
        )
        table.add_row(*texts)
    Console().print(table)
