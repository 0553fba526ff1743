"""Curves and points in a terminal.

Main entries: `read_series`, `show_curve`, `show_points`. Invariant: a curve is no larger than the terminal,
however many points it has, and has no colours elsewhere; thinned, it keeps its order, its first and last
point, its lowest and its highest.
"""

import shutil
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from string import ascii_lowercase

import click

from conjure.cli.render import on_terminal, visible
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.telemetry.metrics import MetricTail

_SMALLEST = (30, 8)
_TALLEST = 24
_OUTERMOST = 1e300  # values are drawn no further out, so that the distance between two is still a float
_LETTERS = ascii_lowercase
_MOST_TICKS = 5
_REST = 2  # lines that plotext leaves free below


@dataclass(slots=True)
class Series:
    """A metric's points in the order they were reported: 16 bytes each."""

    steps: "array[int]" = field(default_factory=lambda: array("q"))
    values: "array[float]" = field(default_factory=lambda: array("d"))

    def __len__(self) -> int:
        return len(self.steps)


def read_series(folder: Path, names: Iterable[str]) -> dict[str, Series]:
    """The points of some metrics of the run in `folder`; a metric without points is an empty series."""
    found = {name: Series() for name in names}
    for point in MetricTail(RunFolder(folder).metrics).read():
        series = found.get(point.name)
        if series is not None:
            series.steps.append(point.step)
            series.values.append(point.value)
    return found


def show_curve(title: str, curves: Mapping[str, Series], *, share: int = 1) -> None:
    """Draw a metric over its steps on stdout.

    Args:
        title: Above it.
        curves: The points of each curve, at least one, by its name; the names are shown if there are several.
        share: How many plots are to fit on the screen together.
    """
    from plotext import figure  # half a tenth of a second that only plots need

    columns, lines = shutil.get_terminal_size()
    width, height = max(columns, _SMALLEST[0]), max(min((lines - _REST) // share, _TALLEST), _SMALLEST[1])
    shown = {
        name: thin(series, 2 * width) for name, series in curves.items()
    }  # a braille dot is half as wide
    figure.clear()
    figure.theme("simple" if on_terminal() else "colorless")
    figure.plot_size(width, height)
    for series, (name, marker) in zip(shown.values(), _markers(shown), strict=True):
        values = [max(-_OUTERMOST, min(_OUTERMOST, value)) for value in series.values]
        signal = figure.signal(series.steps.tolist(), values, marker=marker).lines()
        figure.draw(signal.label(name) if len(shown) > 1 else signal)
    figure.title(visible(title))
    figure.ruler("x").ticks(_ticks(shown.values()))
    click.echo(figure.build().string(not on_terminal()), nl=False)


def thin(series: Series, parts: int) -> Series:
    """At most four points for each of `parts` equal stretches: its first, lowest, highest and last."""
    count = len(series)
    if count <= 4 * parts:
        return series
    kept = Series()
    for part in range(parts):
        places = range(count * part // parts, count * (part + 1) // parts)
        lowest = min(places, key=series.values.__getitem__)
        highest = max(places, key=series.values.__getitem__)
        for place in sorted({places[0], lowest, highest, places[-1]}):
            kept.steps.append(series.steps[place])
            kept.values.append(series.values[place])
    return kept


def _markers(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names with what each curve is drawn with: where no colours tell them apart, letters do."""
    names = list(names)
    letters = zip(names, cycle(_LETTERS), strict=False)
    return letters if len(names) > 1 and not on_terminal() else ((name, "braille") for name in names)


def _ticks(curves: Iterable[Series]) -> list[int]:
    """Whole steps, evenly spread."""
    steps = [step for series in curves for step in (min(series.steps), max(series.steps))]
    first, last = min(steps), max(steps)
    return sorted({first + (last - first) * part // 4 for part in range(5)})


def show_points(
    title: str, positions: Sequence[float], values: Sequence[float], names: Sequence[str]
) -> None:
    """Draw values over positions as points on stdout.

    Args:
        title: Above it.
        positions: Where each value stands, from left to right.
        values: The values.
        names: What stands below each position.
    """
    from plotext import figure  # half a tenth of a second that only plots need

    columns, _ = shutil.get_terminal_size()
    figure.clear()
    figure.theme("simple" if on_terminal() else "colorless")
    figure.plot_size(max(columns, _SMALLEST[0]), 2 * _SMALLEST[1])
    figure.draw(figure.signal(list(positions), list(values), marker="o"))
    figure.title(visible(title))
    labels = dict(zip(positions, names, strict=True))
    ticks = _spread(sorted(labels))
    figure.ruler("x").ticks(ticks, [visible(labels[tick]) for tick in ticks])
    click.echo(figure.build().string(not on_terminal()), nl=False)


def _spread(positions: list[float]) -> list[float]:
    """So many of the positions that their names have room."""
    if len(positions) <= _MOST_TICKS:
        return positions
    return [positions[place * (len(positions) - 1) // (_MOST_TICKS - 1)] for place in range(_MOST_TICKS)]
