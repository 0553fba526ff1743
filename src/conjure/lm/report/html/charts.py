"""The report's four charts.

Main entries: `loss_curve`, `length_histograms`, `new_ngrams_chart`, `runs_chart`. Invariant: nothing is told
by colour alone (lines differ in strokes, rows and panels are named), and every mark says its figures when
pointed at.
"""

from collections.abc import Sequence
from typing import NamedTuple

from conjure.lm.report.html.markup import Markup, element
from conjure.lm.report.html.plot import (
    LEFT,
    RIGHT,
    WIDTH,
    Frame,
    dot,
    drawing,
    hint_area,
    label,
    line,
    rectangle,
    round_ticks,
    rule,
    whole_ticks,
    x_axis,
    y_axis,
)
from conjure.lm.report.novelty import Novelty
from conjure.lm.report.report_schema import Course, LengthScale, ModelResults, Report, SampleFacts

_ROW = 58  # height of a row of dots
_PANEL = 92  # height of a histogram


def loss_curve(course: Course) -> Markup:
    """Training and held-out loss over the steps, and the step whose weights were kept."""
    train = [(point.step, point.train_loss) for point in course.points if point.train_loss is not None]
    held_out = [
        (point.step, point.held_out_loss) for point in course.points if point.held_out_loss is not None
    ]
    losses = [loss for _, loss in (*train, *held_out)] or [0.0, 1.0]
    low, high = min(losses), max(losses)
    margin = 0.06 * (high - low) if high > low else 0.5
    frame = Frame(32, 182, 0, max(course.steps, 1), low - margin, high + margin)
    hints = [f"step {step:,}: eval loss {loss:.3f} nats per token" for step, loss in held_out]
    return drawing(
        f"Line chart of the loss over {course.steps:,} training steps",
        frame,
        y_axis(frame, round_ticks(low, high, 5), lambda loss: f"{loss:g}", "nats per token"),
        x_axis(frame, whole_ticks(course.steps), "step"),
        _kept(frame, course.kept_step),
        line(frame, train, "train"),
        line(frame, held_out, "unseen"),
        [
            dot(frame.x(step), frame.y(loss), 3, "point unseen", hint)
            for (step, loss), hint in zip(held_out, hints, strict=True)
        ],
    )


def length_histograms(report: Report) -> Markup:
    """How long samples are, base above tuned, each with the outline of the data's records."""
    scale = report.lengths
    upper, lower = _length_frame(scale, report.base, 22), _length_frame(scale, report.tuned, 146)
    ticks = [tick for tick in whole_ticks(scale.limit) if tick < scale.limit * 0.94]  # clear of the last
    return drawing(
        "Two histograms of lengths in tokens: the base model's samples and the tuned model's, each against "
        "the data's records",
        lower,
        _length_panel(upper, scale, report.base, "base"),
        _length_panel(lower, scale, report.tuned, "tuned"),
        x_axis(lower, ticks, "tokens"),
        label(f"{scale.limit}+", lower.x(scale.limit), lower.bottom + 16, anchor="middle"),
    )


def new_ngrams_chart(report: Report) -> Markup:
    """Share of word n-grams that no training record holds, over n."""
    longest = len(report.tuned.novelty.new_ngrams)
    frame = Frame(24, 190, 1, longest)
    marks = []
    for kind, name, novelty in _sides(report):
        points = [(n, share) for n, share in enumerate(novelty.new_ngrams, start=1) if share is not None]
        marks.append(line(frame, points, kind))
        marks += [
            dot(frame.x(n), frame.y(share), 3.5, f"point {kind}", f"{name}: {share:.1%} of {n}-grams are new")
            for n, share in points
        ]
    return drawing(
        f"Line chart: share of word n-grams that are new, for n from 1 to {longest}",
        frame,
        y_axis(frame, (0, 0.25, 0.5, 0.75, 1), lambda share: f"{share:.0%}", "new n-grams"),
        x_axis(frame, range(1, longest + 1), "words in a row (n)"),
        marks,
    )


def runs_chart(report: Report) -> Markup:
    """Each text's longest verbatim run in words, a dot each; copies stand out."""
    sides = _sides(report)
    longest = max(max(novelty.run_words) for _, _, novelty in sides)
    frame = Frame(8, _ROW * len(sides), 0, max(longest, 10))
    samples = {"base": report.base.samples, "tuned": report.tuned.samples}
    rows = []
    for row, (kind, name, novelty) in enumerate(sides):
        top = frame.top + row * _ROW
        dots = [_run_dot(sample) for sample in samples.get(kind, ())]
        dots = dots or [_RunDot(words, f"{words} words", copied=False) for words in novelty.run_words]
        rows += [label(name, LEFT, top + 13, kind="label"), rule(top + 54), *_swarm(frame, top, kind, dots)]
    return drawing(
        "Strip chart of the longest verbatim match of each text, in words",
        frame,
        x_axis(frame, whole_ticks(int(frame.x_to)), "words in the longest verbatim match"),
        rows,
    )


def _sides(report: Report) -> list[tuple[str, str, Novelty]]:
    """Class, name and novelty of whatever was compared with the training text."""
    sides = [("base", "base model", report.base.novelty), ("tuned", "tuned model", report.tuned.novelty)]
    if report.normal is not None:
        sides.append(("unseen", "held-out text", report.normal.novelty))
    return sides


class _RunDot(NamedTuple):
    words: int
    hint: str
    copied: bool


def _run_dot(sample: SampleFacts) -> _RunDot:
    copied = sample.originality != "own"
    hint = f"sample {sample.index}: {sample.run.words} words, {sample.run.characters} characters"
    return _RunDot(sample.run.words, f"{hint} ({sample.originality})" if copied else hint, copied)


def _swarm(frame: Frame, top: float, kind: str, dots: Sequence[_RunDot]) -> list[Markup]:
    """Dots in a row, spread a little so that equal ones can be told apart."""
    marks = []
    for place, (words, hint, copied) in enumerate(dots):
        down = (place * 0.618034) % 1  # the golden ratio spreads any number of dots evenly
        aside = 0.5 * ((place * 0.414214) % 1 - 0.5)  # of a word
        x, y = frame.x(words + aside), top + 22 + 26 * down
        marks.append(dot(x, y, 4 if copied else 3, "dot copied" if copied else f"dot {kind}", hint))
    return marks


def _length_frame(scale: LengthScale, side: ModelResults, top: float) -> Frame:
    highest = max(*side.lengths.shares, *scale.data.shares)
    return Frame(top, _PANEL, 0, scale.width * len(scale.data.shares), 0, highest * 1.05)


def _length_panel(frame: Frame, scale: LengthScale, side: ModelResults, kind: str) -> list[Markup]:
    marks = [
        label(f"{kind} model", LEFT, frame.top - 6, kind="label"),
        label(f"distance {side.lengths.distance:.1f} tokens", RIGHT, frame.top - 6, anchor="end"),
        rule(frame.bottom),
    ]
    outline = [f"M{frame.x(0):.1f} {frame.bottom:.1f}"]
    for number, (share, real) in enumerate(zip(side.lengths.shares, scale.data.shares, strict=True)):
        left, right = frame.x(number * scale.width), frame.x((number + 1) * scale.width)
        hint = f"{_bin_name(scale, number)} tokens: {share:.0%} of the samples, {real:.0%} of the records"
        marks.append(rectangle(left + 1, right - 1, frame.y(share), frame.bottom, f"bar {kind}"))
        marks.append(hint_area(left, right, frame.top, frame.bottom, hint))
        outline.append(f"V{frame.y(real):.1f}H{right:.1f}")
    outline.append(f"V{frame.bottom:.1f}")
    return [*marks, element("path", d="".join(outline), class_="line unseen")]


def _bin_name(scale: LengthScale, number: int) -> str:
    first, last = number * scale.width, min((number + 1) * scale.width - 1, scale.limit)
    name = f"{first} to {last}" if first < last else f"{first}"
    return f"{name} or more" if last == scale.limit else name


def _kept(frame: Frame, step: int) -> list[Markup]:
    """A mark at the step whose weights the tuned model has."""
    x = frame.x(step)
    text = f"kept: step {step:,}"
    on_right = x > WIDTH / 2
    return [
        element("line", x1=x, x2=x, y1=frame.top, y2=frame.bottom, class_="kept"),
        label(
            text,
            x - 5 if on_right else x + 5,
            frame.top - 6,
            anchor="end" if on_right else "start",
            kind="label",
        ),
    ]
