"""The parts that the report's charts are drawn with: a frame with its scales, axes and marks, as SVG.

Main entries: `Frame`, `drawing`. Colours and strokes are the style sheet's, by class, so that a chart follows
light, dark and print. Invariant: a chart says what it shows to those who cannot see it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from conjure.lm.report.html.markup import Child, Markup, element

WIDTH = 440  # of every chart, in units that are about a pixel on a phone
LEFT, RIGHT = 42, WIDTH - 14  # edges of the frame within it


@dataclass(frozen=True, slots=True)
class Frame:
    """The rectangle that data are drawn in, and the values at its edges."""

    top: float
    height: float
    x_from: float
    x_to: float
    y_from: float = 0.0
    y_to: float = 1.0

    @property
    def bottom(self) -> float:
        """Its lower edge."""
        return self.top + self.height

    def x(self, value: float) -> float:
        """Where a value lies from left to right."""
        return LEFT + (value - self.x_from) / (self.x_to - self.x_from) * (RIGHT - LEFT)

    def y(self, value: float) -> float:
        """Where a value lies from top to bottom."""
        return self.bottom - (value - self.y_from) / (self.y_to - self.y_from) * self.height


def drawing(description: str, frame: Frame, *parts: Child) -> Markup:
    """A chart whose lowest frame this is, with room for an axis below it."""
    box = f"0 0 {WIDTH} {frame.bottom + 40:.0f}"
    return element("svg", *parts, viewBox=box, role="img", aria_label=description, class_="chart")


def line(frame: Frame, points: Sequence[tuple[float, float]], kind: str) -> Markup:
    """A line through points."""
    path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
    return element("polyline", points=path, class_=f"line {kind}")


def dot(x: float, y: float, radius: float, kind: str, hint: str) -> Markup:
    """A dot that says its figures when pointed at."""
    return element("circle", element("title", hint), cx=x, cy=y, r=radius, class_=kind)


def rectangle(left: float, right: float, top: float, bottom: float, kind: str) -> Markup:
    """A bar."""
    return element("rect", x=left, y=top, width=right - left, height=bottom - top, class_=kind)


def hint_area(left: float, right: float, top: float, bottom: float, hint: str) -> Markup:
    """An area that cannot be seen, and says something when pointed at."""
    title = element("title", hint)
    return element("rect", title, x=left, y=top, width=right - left, height=bottom - top, class_="hint")


def rule(y: float) -> Markup:
    """A fine line from edge to edge."""
    return element("line", x1=LEFT, x2=RIGHT, y1=y, y2=y, class_="grid")


def label(text: str, x: float, y: float, *, anchor: str = "start", kind: str | None = None) -> Markup:
    """Words in a chart."""
    return element("text", text, x=x, y=y, text_anchor=anchor, class_=kind)


def y_axis(frame: Frame, ticks: Sequence[float], text: Callable[[float], str], title: str) -> list[Markup]:
    """Rules across the frame with their values, under the axis's title."""
    rules = [rule(frame.y(tick)) for tick in ticks]
    labels = [label(text(tick), LEFT - 6, frame.y(tick) + 4, anchor="end") for tick in ticks]
    return [*rules, *labels, label(title, 4, 9)]


def x_axis(frame: Frame, ticks: Sequence[int], title: str) -> list[Markup]:
    """Values below the frame, above the axis's title."""
    labels = [label(f"{tick:,}", frame.x(tick), frame.bottom + 16, anchor="middle") for tick in ticks]
    return [*labels, label(title, (LEFT + RIGHT) / 2, frame.bottom + 34, anchor="middle")]


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values from `low` to `high`, about so many."""
    rough = (high - low) / most if high > low else 1.0
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def whole_ticks(high: int) -> list[int]:
    """Round whole values from 0 to `high`."""
    return [round(tick) for tick in round_ticks(0, max(high, 1)) if tick == round(tick)]
