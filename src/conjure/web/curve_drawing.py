"""Curves as SVG: small ones without axes, and charts.

Main entries: `sparkline`, `chart`. Invariant: every text in a picture is escaped.
"""

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

from conjure.core.units import format_number
from conjure.runs.telemetry.curve_downsampling import Curve
from conjure.web.rendering import shown

_Bounds = tuple[float, float, float, float]  # lowest and highest x, lowest and highest y
# Eight hues that differ for colour-blind eyes, dark enough on white and light enough on black; dashes tell
# them apart as well.
COLOURS = ("#3b7dd8", "#d9622b", "#1f9d74", "#b0589c", "#b98700", "#4aa3c7", "#8463d2", "#7d7d7d")
_NAMES_IN_A_LINE = 8
_LINE_HEIGHT = 18
DASHES = ("", "8 4", "2 3", "10 3 2 3", "5 2", "1 4", "12 4", "3 6")


def sparkline(curve: Curve, width: int = 96, height: int = 24) -> str:
    """A curve as a small picture without axes."""
    paths = _paths(curve, 1.5, width - 1.5, height - 2.0, 2.0, _range([curve]))
    line = f'fill="none" stroke="{COLOURS[0]}" stroke-width="1.5" stroke-linejoin="round"'
    return f'{_opening(width, height)}><path d="{paths}" {line}/></svg>'


def chart(
    title: str, curves: Sequence[tuple[str, Curve]], *, x: str = "step", width: int = 640, height: int = 280
) -> Markup:
    """Curves with axes and their names, as a picture that needs neither style nor script."""
    legend_lines = -(-len(curves) // _NAMES_IN_A_LINE) if len(curves) > 1 else 0
    left, right, top, bottom = 64, width - 16, 34, height - 40 - _LINE_HEIGHT * legend_lines
    bounds = _range([curve for _, curve in curves])
    low_x, high_x, low, high = bounds
    named = (
        f'font-family="system-ui, sans-serif" font-size="12" role="img" aria-label="{escape(shown(title))}"'
    )
    parts = [f"{_opening(width, height)} {named}>", _text(title, left, 18, "start", bold=True)]
    for value in _ticks(low, high):
        y = _scaled(value, low, high, bottom, top)
        parts.append(f'<path d="M{left} {y:.1f}H{right}" stroke="#8886" stroke-width="1"/>')
        parts.append(_text(format_number(value), left - 6, y + 4, "end"))
    for value in _ticks(low_x, high_x):
        at = _scaled(value, low_x, high_x, left, right)
        parts.append(_text(format_number(value), at, bottom + 16, "middle"))
    parts.append(_text(x, right, bottom + 32, "end"))
    for place, (name, curve) in enumerate(curves):
        line = _stroke(place)
        parts.append(f'<path d="{_paths(curve, left, right, bottom, top, bounds)}" {line}/>')
        if len(curves) > 1:
            row, column = divmod(place, _NAMES_IN_A_LINE)
            at = left + column * (right - left) / min(len(curves), _NAMES_IN_A_LINE)
            foot = height - 6 - _LINE_HEIGHT * (legend_lines - 1 - row)
            parts.append(f'<path d="M{at:.0f} {foot - 4}h18" {line}/>')
            parts.append(_text(name, at + 24, foot, "start"))
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704 - every text in it is escaped


def _opening(width: float, height: float) -> str:
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}'


def _text(text: str, x: float, y: float, anchor: str, *, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place}{weight} fill="#6b6f76">{escape(shown(text))}</text>'


def _stroke(place: int) -> str:
    colour = COLOURS[place % len(COLOURS)]
    dash = DASHES[(place + place // len(COLOURS)) % len(DASHES)]  # another for each curve of one colour
    return (
        f'fill="none" stroke="{colour}" stroke-width="1.75" stroke-dasharray="{dash}" stroke-linejoin="round"'
    )


def _range(curves: Iterable[Curve]) -> _Bounds:
    xs = [x for curve in curves for x in (*curve.x[:1], *curve.x[-1:])] or [0.0, 1.0]
    ys = [y for curve in curves for y in curve.y if y is not None] or [0.0, 1.0]
    low, high = min(ys), max(ys)
    margin = 0.04 * (high - low) or abs(high) * 0.1 or 1.0
    return min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, low - margin, high + margin


def _paths(curve: Curve, left: float, right: float, bottom: float, top: float, bounds: _Bounds) -> str:
    low_x, high_x, low, high = bounds
    parts, pen_is_up = [], True
    for x, y in zip(curve.x, curve.y, strict=True):
        if y is None:
            pen_is_up = True
            continue
        at = f"{_scaled(x, low_x, high_x, left, right):.1f} {_scaled(y, low, high, bottom, top):.1f}"
        parts.append(f"{'M' if pen_is_up else 'L'}{at}")
        if pen_is_up:
            parts.append("h0.01")  # so that a point between two gaps is seen
        pen_is_up = False
    return "".join(parts)


def _scaled(value: float, low: float, high: float, start: float, end: float) -> float:
    return start + (end - start) * ((value - low) / (high - low) if high > low else 0.5)


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    raw = span / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw)
    first = math.ceil(low / step)
    return [round(place * step, 12) for place in range(first, math.floor(high / step) + 1)]
