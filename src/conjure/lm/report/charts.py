"""The report's charts, as small SVG pictures drawn by hand.

Main entries: `loss_curve`, `length_histograms`, `new_ngrams_chart`, `runs_chart`. Colours and strokes are the
style sheet's, by class, so that a chart follows light, dark and print. Invariant: nothing is told by colour
alone, and every mark says its figures when pointed at.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from conjure.lm.report.facts import Course, LengthScale, Report, SampleFacts, Side
from conjure.lm.report.markup import Markup, element

WIDTH = 440  # of every chart, in units that are about a pixel on a phone
_LEFT, _RIGHT = 42, 14


@dataclass(frozen=True, slots=True)
class _Frame:
    """The rectangle that data are drawn in, and the values at its edges."""

    top: float
    height: float
    x_from: float
    x_to: float
    y_from: float
    y_to: float

    @property
    def bottom(self) -> float:
        return self.top + self.height

    def x(self, value: float) -> float:
        span = self.x_to - self.x_from
        return _LEFT + (value - self.x_from) / (span if span else 1) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        span = self.y_to - self.y_from
        return self.bottom - (value - self.y_from) / (span if span else 1) * self.height


def loss_curve(course: Course) -> Markup:
    """Training and held-out loss over the steps, and the step whose weights were kept."""
    train = [(point.step, point.train_loss) for point in course.points if point.train_loss is not None]
    held_out = [
        (point.step, point.held_out_loss) for point in course.points if point.held_out_loss is not None
    ]
    losses = [loss for _, loss in (*train, *held_out)] or [0.0, 1.0]
    low, high = min(losses), max(losses)
    pad = 0.06 * (high - low) or 0.5
    frame = _Frame(32, 182, 0, max(course.steps, 1), low - pad, high + pad)
    return _chart(
        f"Line chart of the loss over {course.steps:,} training steps",
        frame.bottom + 40,
        _horizontal_grid(frame, _ticks(low, high, 5), _plain),
        _x_axis(frame, _whole_ticks(0, course.steps), "step"),
        _axis_title("nats per token"),
        _kept(frame, course),
        _line(frame, train, "train"),
        _line(frame, held_out, "unseen"),
        [
            _dot(frame, step, loss, "unseen", 3, f"step {step:,}: held-out loss {loss:.3f} nats per token")
            for step, loss in held_out
        ],
    )


def length_histograms(report: Report) -> Markup:
    """How long samples are, base above tuned, each with the outline of the data's records."""
    scale = report.lengths
    panels = [
        _length_panel(scale, report.base, "base", 22),
        _length_panel(scale, report.tuned, "tuned", 146),
    ]
    frame = _Frame(146, 92, 0, scale.width * len(scale.data.shares), 0, 1)
    ticks = [tick for tick in _whole_ticks(0, scale.limit) if tick < scale.limit * 0.94]
    return _chart(
        "Two histograms of lengths in tokens: the base model's samples and the tuned model's, "
        "each against the data's records",
        frame.bottom + 40,
        panels,
        _x_axis(frame, ticks, "tokens"),
        element("text", f"{scale.limit}+", x=frame.x(scale.limit), y=frame.bottom + 16, text_anchor="middle"),
    )


def new_ngrams_chart(report: Report) -> Markup:
    """Share of word n-grams that no training record holds, over n."""
    series = [("base", report.base.name, report.base.novelty.new_ngrams)]
    series.append(("tuned", report.tuned.name, report.tuned.novelty.new_ngrams))
    if report.normal is not None:
        series.append(("unseen", "unseen text", report.normal.novelty.new_ngrams))
    longest = len(report.tuned.novelty.new_ngrams)
    frame = _Frame(24, 190, 1, longest, 0, 1)
    marks = []
    for kind, name, shares in series:
        points = [(n, share) for n, share in enumerate(shares, start=1) if share is not None]
        marks.append(_line(frame, points, kind))
        marks += [
            _dot(frame, n, share, kind, 3.5, f"{name}: {share:.1%} of the {n}-grams are new")
            for n, share in points
        ]
    return _chart(
        f"Line chart: share of word n-grams that are new, for n from 1 to {longest}",
        frame.bottom + 40,
        _horizontal_grid(frame, [0, 0.25, 0.5, 0.75, 1], _percent),
        _x_axis(frame, list(range(1, longest + 1)), "words in a row (n)"),
        _axis_title("new n-grams"),
        marks,
    )


def runs_chart(report: Report) -> Markup:
    """Every sample's longest verbatim run in words, a dot each; copies stand out."""
    rows: list[tuple[str, str, list[tuple[int, str, bool]]]] = [
        ("base", report.base.name, [_run_of(sample) for sample in report.base.samples]),
        ("tuned", report.tuned.name, [_run_of(sample) for sample in report.tuned.samples]),
    ]
    if report.normal is not None:
        unseen = [(words, f"{words} words", False) for words in report.normal.novelty.run_words]
        rows.append(("unseen", "unseen text", unseen))
    longest = max(words for _, _, runs in rows for words, _, _ in runs)
    frame = _Frame(8, 58 * len(rows), 0, max(longest, 10), 0, len(rows))
    marks = []
    for number, (kind, name, runs) in enumerate(rows):
        top = frame.y(len(rows) - number)
        marks.append(element("text", name, x=_LEFT, y=top + 13, class_="label"))
        marks.append(_rule(_LEFT, WIDTH - _RIGHT, top + 54))
        for place, (words, title, copied) in enumerate(runs):
            down = (place * 0.618034) % 1  # golden ratio: neighbours never fall on one another
            aside = 0.5 * ((place * 0.414214) % 1 - 0.5)  # of a word
            marks.append(
                element(
                    "circle",
                    element("title", title),
                    cx=frame.x(words + aside),
                    cy=top + 22 + 26 * down,
                    r=4 if copied else 3,
                    class_="dot copied" if copied else f"dot {kind}",
                )
            )
    return _chart(
        "Strip chart of the longest verbatim run of each text, in words",
        frame.bottom + 40,
        _x_axis(frame, _whole_ticks(0, int(frame.x_to)), "words in the longest verbatim run"),
        marks,
    )


def _run_of(sample: SampleFacts) -> tuple[int, str, bool]:
    title = f"sample {sample.index}: {sample.run.words} words, {sample.run.characters} characters"
    copied = sample.originality != "own"
    return sample.run.words, f"{title} ({sample.originality})" if copied else title, copied


def _length_panel(scale: LengthScale, side: Side, kind: str, top: float) -> list[Markup]:
    width = scale.width
    highest = max(*side.lengths.shares, *scale.data.shares)
    frame = _Frame(top, 92, 0, width * len(scale.data.shares), 0, highest * 1.05)
    marks = [_rule(_LEFT, WIDTH - _RIGHT, frame.bottom)]
    for number, (share, real) in enumerate(zip(side.lengths.shares, scale.data.shares, strict=True)):
        first, last = number * width, min((number + 1) * width - 1, scale.limit)
        more = " or more" if last == scale.limit else ""
        name = f"{first} to {last}{more}" if first < last else f"{first}{more}"
        title = f"{name} tokens: {share:.0%} of the samples, {real:.0%} of the records"
        bar = frame.x(first) + 1
        size = {"x": bar, "width": frame.x(first + width) - 1 - bar}
        marks += [
            element(
                "rect", **size, y=frame.y(share), height=frame.bottom - frame.y(share), class_=f"bar {kind}"
            ),
            element(
                "rect", element("title", title), **size, y=frame.top, height=frame.height, class_="touch"
            ),
        ]
    outline = [f"M{frame.x(0):.1f} {frame.bottom:.1f}"]
    for number, real in enumerate(scale.data.shares):
        outline.append(f"V{frame.y(real):.1f}H{frame.x((number + 1) * width):.1f}")
    outline.append(f"V{frame.bottom:.1f}")
    marks.append(element("path", d="".join(outline), class_="line unseen touchless"))
    marks.append(element("text", side.name, x=_LEFT, y=top - 6, class_="label"))
    marks.append(
        element(
            "text",
            f"{side.lengths.distance:.1f} tokens apart",
            x=WIDTH - _RIGHT,
            y=top - 6,
            text_anchor="end",
        )
    )
    return marks


def _kept(frame: _Frame, course: Course) -> list[Markup]:
    """A mark at the step whose weights the tuned model has."""
    x = frame.x(course.kept_step)
    on_left = x > WIDTH / 2
    label = f"kept: step {course.kept_step:,}"
    return [
        element("line", x1=x, x2=x, y1=frame.top, y2=frame.bottom, class_="kept"),
        element(
            "text",
            label,
            x=x - 5 if on_left else x + 5,
            y=frame.top - 6,
            text_anchor="end" if on_left else "start",
            class_="label",
        ),
    ]


def _chart(description: str, height: float, *children: Markup | list[Markup] | list[list[Markup]]) -> Markup:
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {WIDTH} {height:.0f}",
        role="img",
        aria_label=description,
        class_="chart",
    )


def _line(frame: _Frame, points: Sequence[tuple[float, float]], kind: str) -> Markup:
    path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
    return element("polyline", points=path, class_=f"line {kind}")


def _dot(frame: _Frame, x: float, y: float, kind: str, radius: float, title: str) -> Markup:
    return element(
        "circle", element("title", title), cx=frame.x(x), cy=frame.y(y), r=radius, class_=f"point {kind}"
    )


def _bar(left: float, right: float, top: float, bottom: float, kind: str, title: str | None) -> Markup:
    hint = element("title", title) if title is not None else None
    return element("rect", hint, x=left, y=top, width=right - left, height=bottom - top, class_=kind)


def _rule(left: float, right: float, y: float) -> Markup:
    return element("line", x1=left, x2=right, y1=y, y2=y, class_="grid")


def _horizontal_grid(
    frame: _Frame, ticks: Sequence[float], label: Callable[[float], str]
) -> list[list[Markup]]:
    return [
        [
            _rule(_LEFT, WIDTH - _RIGHT, frame.y(tick)),
            element("text", label(tick), x=_LEFT - 6, y=frame.y(tick) + 4, text_anchor="end"),
        ]
        for tick in ticks
    ]


def _x_axis(frame: _Frame, ticks: Sequence[float], title: str) -> list[Markup]:
    labels = [
        element("text", f"{tick:,}", x=frame.x(tick), y=frame.bottom + 16, text_anchor="middle")
        for tick in ticks
    ]
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    return [*labels, element("text", title, x=middle, y=frame.bottom + 34, text_anchor="middle")]


def _axis_title(text: str) -> Markup:
    return element("text", text, x=4, y=9)


def _whole_ticks(low: int, high: int) -> list[int]:
    return [round(tick) for tick in _ticks(low, max(high, low + 1), 6) if tick == round(tick)]


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round values between two, at most so many."""
    rough = (high - low) / most if high > low else 1.0
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _plain(value: float) -> str:
    return f"{value:g}"


def _percent(value: float) -> str:
    return f"{value:.0%}"
