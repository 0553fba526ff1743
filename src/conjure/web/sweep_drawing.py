"""Pictures of a sweep: its metric against each parameter, and all parameters beside each other.

Main entries: `against_parameter`, `parallel_coordinates`. Invariant: every trial in a picture is a link to
its run, and the pictures need no script.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from conjure.core.units import format_number
from conjure.sweeps.request import SweepRequest
from conjure.sweeps.space import Range
from conjure.sweeps.trials import Trial
from conjure.web.rendering import shown

_WIDTH, _HEIGHT = 420, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 404, 14, 200
_COLUMN = 150
_MOST_NAMES = 12  # of a choice that are written at its axis


@dataclass(frozen=True, slots=True)
class _Axis:
    """Where values stand between 0 and 1, and what is written there."""

    places: Mapping[str, float]
    ticks: Sequence[tuple[float, str]]


def against_parameter(request: SweepRequest, trials: Sequence[Trial], name: str) -> Markup:
    """The metric of each trial that counts over its value of one parameter."""
    valued = [trial for trial in trials if trial.counts and name in trial.params]
    axis = _axis(request, name, [trial.params[name] for trial in valued])
    low, high = _bounds(valued)
    parts = [_opening(_WIDTH, _HEIGHT, f"{request.metric} over {name}")]
    for value in (low, (low + high) / 2, high):
        y = _BOTTOM - (_BOTTOM - _TOP) * _share(value, low, high)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_RIGHT}"/>')
        parts.append(_text(format_number(value), _LEFT - 6, y + 4, "end"))
    for share, text in axis.ticks:
        parts.append(_text(text, _LEFT + (_RIGHT - _LEFT) * share, _BOTTOM + 18, "middle"))
    for trial in valued:
        x = _LEFT + (_RIGHT - _LEFT) * axis.places[trial.params[name]]
        y = _BOTTOM - (_BOTTOM - _TOP) * _share(trial.value or 0.0, low, high)
        parts.append(_link(trial, request, f'<circle class="trial" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'))
    parts.append(_text(name, _RIGHT, _BOTTOM + 36, "end"))
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704 - every text in it is escaped


def parallel_coordinates(request: SweepRequest, trials: Sequence[Trial]) -> Markup:
    """A line for each trial that counts through its values to its metric; the best third stands out."""
    valued = [trial for trial in trials if trial.counts]
    names = list(request.space)
    axes = [_axis(request, name, [trial.params.get(name, "") for trial in valued]) for name in names]
    low, high = _bounds(valued)
    width = 2 * _LEFT + _COLUMN * len(names)
    texts: list[str] = []
    parts = [_opening(width, _BOTTOM + 20, f"Parameters and {request.metric} of every trial")]
    for place, name in enumerate([*names, str(request.metric)]):
        x = _LEFT + _COLUMN * place
        parts.append(f'<path class="axis" d="M{x} {_TOP + 16}V{_BOTTOM}"/>')
        texts.append(_text(name, x, _TOP, "middle"))
        ticks = (
            axes[place].ticks
            if place < len(names)
            else [(0.0, format_number(low)), (1.0, format_number(high))]
        )
        texts += [_text(text, x - 6, _height(share) + 4, "end") for share, text in ticks]
    ordered = sorted(valued, key=lambda trial: trial.value or 0.0, reverse=request.direction == "maximize")
    best = {trial.trial for trial in ordered[: max(len(ordered) // 3, 1)]}
    for trial in sorted(valued, key=lambda trial: trial.trial in best):
        shares = [axis.places[trial.params.get(name, "")] for axis, name in zip(axes, names, strict=True)]
        shares.append(_share(trial.value or 0.0, low, high))
        line = "L".join(
            f"{_LEFT + _COLUMN * place} {_height(share):.1f}" for place, share in enumerate(shares)
        )
        kind = "way good" if trial.trial in best else "way"
        parts.append(_link(trial, request, f'<path class="{kind}" d="M{line}"/>'))
    return Markup("".join([*parts, *texts, "</svg>"]))  # noqa: S704 - every text in it is escaped


def _axis(request: SweepRequest, name: str, texts: Sequence[str]) -> _Axis:
    domain = request.space[name]
    if not isinstance(domain, Range):
        kinds = list(dict.fromkeys(texts))
        places = {text: (place + 0.5) / len(kinds) for place, text in enumerate(kinds)}
        named = list(places.items()) if len(kinds) <= _MOST_NAMES else []
        return _Axis(places, [(share, text) for text, share in named])
    scale = math.log if domain.log else float
    low, high = scale(domain.low), scale(domain.high)
    places = {text: _share(scale(float(text)), low, high) for text in texts}
    return _Axis(places, [(0.0, format_number(domain.low)), (1.0, format_number(domain.high))])


def _bounds(trials: Sequence[Trial]) -> tuple[float, float]:
    values = [trial.value for trial in trials if trial.value is not None] or [0.0, 1.0]
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _share(value: float, low: float, high: float) -> float:
    return min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5


def _height(share: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP - 16) * share


def _opening(width: int, height: int, title: str) -> str:
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg class="sweep" {size} role="group" aria-label="{escape(shown(title))}">'


def _text(text: str, x: float, y: float, anchor: str) -> str:
    cut = text if len(text) <= 18 else f"{text[:17]}…"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(shown(cut))}</text>'


def _link(trial: Trial, request: SweepRequest, mark: str) -> str:
    params = ", ".join(f"{name} {value}" for name, value in trial.params.items())
    told = f"run {trial.run}: {request.metric} {format_number(trial.value or 0.0)}; {params}"
    return f'<a href="/runs/{trial.run}">{mark}<title>{escape(shown(told))}</title></a>'
