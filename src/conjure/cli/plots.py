"""Curves in a terminal.

Main entry: `show_curve`. Invariant: a curve is no larger than the terminal, however many points it has, and
has no colours elsewhere.
"""

import shutil

import click

from conjure.cli.render import on_terminal, visible
from conjure.runs.telemetry.series import Series, thin

_SMALLEST = (30, 8)
_TALLEST = 24
_REST = 2  # lines that plotext leaves free below


def show_curve(title: str, series: Series, *, share: int = 1) -> None:
    """Draw a metric over its steps on stdout.

    Args:
        title: Above it.
        series: The points, at least one.
        share: How many curves are to fit on the screen together.
    """
    from plotext import figure  # half a tenth of a second that only plots need

    columns, lines = shutil.get_terminal_size()
    width, height = max(columns, _SMALLEST[0]), max(min((lines - _REST) // share, _TALLEST), _SMALLEST[1])
    shown = thin(series, 2 * width)  # a braille character is two points wide
    figure.clear()
    figure.theme("simple" if on_terminal() else "colorless")
    figure.plot_size(width, height)
    figure.draw(figure.signal(shown.steps.tolist(), shown.values.tolist(), marker="braille").lines())
    figure.title(visible(title))
    figure.ruler("x").ticks(_ticks(shown))
    click.echo(figure.build().string(not on_terminal()), nl=False)


def _ticks(series: Series) -> list[int]:
    """Whole steps, evenly spread."""
    first, last = min(series.steps), max(series.steps)
    return sorted({first + (last - first) * part // 4 for part in range(5)})
