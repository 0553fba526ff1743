"""The report page's building blocks: sections, tables, figures, and how numbers are written.

Main entries: `section`, `table`, `figure`. Invariant: a table has its explanation below it, and heads
for rows and columns that a screen reader can tell.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from conjure.lm.report.html.markup import Child, Markup, element

Column = TypeVar("Column")
Row = tuple[Child, Sequence[str]]  # its head, and its cells

_IN_FULL_BELOW = 1e7  # as `conjure score` has it


def section(heading: str, introduction: str | None, *children: Child) -> Markup:
    """A part of the page under a heading."""
    opening = element("p", introduction) if introduction is not None else None
    return element("section", element("h2", heading), opening, *children)


def section_beside(heading: str, introduction: str, chart: Markup) -> Markup:
    """A part of the page that has nothing but a chart, which stands beside its heading."""
    opening = element("div", element("h2", heading), element("p", introduction))
    return element("section", element("div", opening, chart, class_="pair beside"))


def pair(*children: Markup) -> Markup:
    """Things side by side where there is room, else one below the other."""
    return element("div", *children, class_="pair")


def figure(chart: Markup, caption: str, *legend: tuple[str, str]) -> Markup:
    """A chart, the names of its lines as (class, name), and what it shows."""
    names = element("ul", [_entry(kind, name) for kind, name in legend], class_="legend") if legend else None
    return element("figure", chart, names, element("figcaption", caption))


def table(head: Sequence[str], rows: Iterable[Row], caption: str) -> Markup:
    """A table of figures; an empty name in its head is no head."""
    heads = [element("th", name, scope="col") if name else element("td") for name in head]
    body = [
        element("tr", element("th", name, scope="row"), [element("td", cell) for cell in cells])
        for name, cells in rows
    ]
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", heads)),
        element("tbody", body),
    )


def rows_of(columns: Sequence[Column], *figures: tuple[Child, Callable[[Column], str]]) -> Iterable[Row]:
    """Rows that show the same figure of each column."""
    for name, figure_of in figures:
        yield name, [figure_of(column) for column in columns]


def term(name: str, meaning: str) -> Markup:
    """A term that says what it means when pointed at."""
    return element("abbr", name, title=meaning)


def number(value: float | None, digits: int) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:{_format(value, digits)}}"


def signed(value: float, digits: int) -> str:
    """A change, with its sign."""
    return f"{value:+{_format(value, digits)}}".replace("-", "−")


def percent(value: float | None) -> str:
    """A share, or a dash where there is none."""
    return "–" if value is None else f"{value:.0%}"


def _format(value: float, digits: int) -> str:
    """How a number is written: in full, unless it has so many digits that it would not fit the page."""
    return f",.{digits}f" if abs(value) < _IN_FULL_BELOW else ".3e"


def _entry(kind: str, name: str) -> Markup:
    line = element("line", x1=0, x2=26, y1=5, y2=5, class_=f"line {kind}")
    return element("li", element("svg", line, viewBox="0 0 26 10", aria_hidden="true"), name)
