"""What was measured as a page of docs.

Main entry: `lines`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from machine import kind

from web.figures import VISITS, Row
from web.tools import Tool

_MISSING = "–"


def lines(
    ours: Sequence[Row],
    side_by_side: Mapping[str, Mapping[str, Any]],
    tools: Sequence[Tool],
    facts: Mapping[str, Any],
) -> Iterator[str]:
    """The whole page, line by line.

    Args:
        ours: Our own pages at full size; none if they were not measured.
        side_by_side: The figures of each tool, by its name.
        tools: All of them.
        facts: The machine, and ``settings``.
    """
    settings = facts["settings"]
    yield "# Pages of runs, measured"
    yield ""
    yield f"<!-- Made by `{settings['command']}`; do not edit. -->"
    yield ""
    yield (
        f"Measured in Chromium {settings['chromium']} on {facts['processor']} ({kind(facts)}),"
        f" {facts['cores']} cores, {facts['date']}, by `{settings['command']}`."
        " How it is measured: [README.md](README.md#pages-of-runs)."
    )
    yield ""
    if settings["scale"] != 1:
        yield f"**A quick run** at {settings['scale']:g} of the sizes. Its figures are rough."
        yield ""
    if side_by_side:
        yield from _side_by_side(
            side_by_side, [tool for tool in tools if tool.name in side_by_side], settings
        )
    if ours:
        yield from _ours(ours, settings)
    yield from _machine(facts)


def _side_by_side(
    found: Mapping[str, Mapping[str, Any]], tools: Sequence[Tool], settings: Mapping[str, Any]
) -> Iterator[str]:
    yield "## Side by side"
    yield ""
    yield (
        f"{settings['runs']} runs with 5 metrics of {settings['points']:,} points, written into each tool by"
        f" its own library. Seconds; the median of {VISITS} visits, each with an empty cache."
    )
    yield ""
    yield f"| | {' | '.join(found)} |"
    yield f"|---|{'--:|' * len(found)}"
    for title, cell in _ROWS:
        yield f"| {title} | {' | '.join(cell(figures) for figures in found.values())} |"
    drawn = [tool.drawn for tool in tools]
    yield f"| points drawn of each curve | {' | '.join(drawn)} |"
    yield ""
    yield from _notes(found, tools)


def _notes(found: Mapping[str, Mapping[str, Any]], tools: Sequence[Tool]) -> Iterator[str]:
    for tool in tools:
        figures = found[tool.name]
        if figures["failure"]:
            yield f"- {tool.name}: {figures['failure']}"
        if tool.live_note:
            yield f"- {tool.name}: a new point is seen {tool.live_note}."
        hosts = sorted({address.split("/")[2] for address in figures["foreign"] or []})
        if hosts:
            yield f"- {tool.name} asks {', '.join(hosts)}, which {_were(hosts)} out of reach."
    yield ""


def _were(hosts: Sequence[str]) -> str:
    return "was" if len(hosts) == 1 else "were"


def _ours(ours: Sequence[Row], settings: Mapping[str, Any]) -> Iterator[str]:
    yield "## conjure at full size"
    yield ""
    yield (
        f"{10_000 * settings['scale']:,.0f} runs; 50 runs with 10 metrics of "
        f"{100_000 * settings['scale']:,.0f} points; a log of {1_000_000 * settings['scale']:,.0f} lines."
    )
    yield ""
    yield "| | measured | goal | |"
    yield "|---|--:|--:|---|"
    for row in ours:
        goal = "" if row.goal is None else f"≤ {_shown(row.goal, row.unit)}"
        verdict = "" if row.goal is None else "yes" if row.value <= row.goal else "**no**"
        yield f"| {row.what} | {_shown(row.value, row.unit)} | {goal} | {verdict} |"
    yield ""


def _machine(facts: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    yield "## Machine"
    yield ""
    yield f"- {facts['processor']}, {facts['cores']} cores; {facts['memory_bytes'] / 2**30:.0f} GiB of memory"
    yield f"- {facts['system']}; Python {facts['python']}; conjure {facts['conjure']}; {versions}"
    yield f"- Load before the first measurement: {facts['load_average']:.2f}"


def _seconds(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda figures: (
        _MISSING if figures[name] is None else _shown(figures[name], "s").removesuffix(" s")
    )


def _megabytes(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda figures: _MISSING if figures[name] is None else f"{figures[name] / 1e6:.2f} MB"


def _count(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda figures: _MISSING if figures[name] is None else str(len(figures[name]))


def _shown(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"
    return f"{value:,.0f} {unit}".rstrip()


_ROWS: tuple[tuple[str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("all points written by the tool's library", _seconds("write_s")),
    ("command of the server → first answer", _seconds("ready_s")),
    ("command of the server → all runs seen", _seconds("first_sight_s")),
    ("table of runs: first paint", _seconds("table_paint_s")),
    ("table of runs: all rows", _seconds("table_rows_s")),
    ("one metric of all runs drawn", _seconds("curves_s")),
    ("a new point seen after it was written", _seconds("live_s")),
    ("transferred for the table of runs", _megabytes("table_bytes")),
    ("transferred for the curves", _megabytes("curves_bytes")),
    ("requests beyond the origin", _count("foreign")),
    ("errors on the console", _count("errors")),
)
