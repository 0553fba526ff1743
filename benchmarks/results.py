"""From single readings to one figure for each contender, beside the others' and the physical limit.

Main entry: `summarise`. Invariant: a figure is the median of its rounds, and a ratio above 1 always means
that conjure is ahead.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from contenders import Contender
from limits import Limit, Shape, decoding_limit, prefill_limit, scoring_limit, training_limit

MEASURES = ("train", "train_short", "decode_1", "decode_16", "decode_64", "prefill", "score", "cold_start")
# The group of each measure; the others are of "decode".
_GROUP = {name: name for name in ("train", "train_short", "score", "cold_start")}
_DIGITS = 4
_SAME_WORK = 0.01  # of the score; bfloat16 is within


@dataclass(frozen=True)
class Reading:
    """What one worker measured in one round.

    Attributes:
        figures: By measure, and further facts.
        peak_bytes: The most memory its process held.
    """

    figures: Mapping[str, float]
    peak_bytes: int


@dataclass
class Readings:
    """All that was measured.

    Attributes:
        contenders: Who took part, or was to.
        taken: By group and name, one reading a round.
        left_out: By group and name, why.
        ceilings: One set a round.
    """

    contenders: list[Contender]
    taken: dict[tuple[str, str], list[Reading]] = field(default_factory=lambda: defaultdict(list))
    left_out: dict[tuple[str, str], str] = field(default_factory=dict)
    ceilings: list[Mapping[str, float]] = field(default_factory=list)

    def values(self, contender: Contender, figure: str) -> list[float]:
        """One figure of a contender in every round that has it."""
        taken = self.taken.get((contender.group, contender.name), [])
        return [reading.figures[figure] for reading in taken if figure in reading.figures]


def summarise(
    readings: Readings,
    *,
    shape: Mapping[str, Any],
    work: Mapping[str, Any],
    machine: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything, as results-KIND.json holds it.

    Args:
        readings: What was measured.
        shape: The model's config.json.
        work: What every worker was told.
        machine: Facts about the machine.
        settings: How it was measured.
    """
    # A ceiling is what the machine can do at best, so the best round counts.
    names = readings.ceilings[0]
    ceilings = {name: max(found[name] for found in readings.ceilings) for name in names}
    limits = _limits(Shape.of(shape), ceilings, work, settings)
    measured = {}
    _leave_out_other_results(readings)
    for measure in MEASURES:
        group = _GROUP.get(measure, "decode")
        found = [contender for contender in readings.contenders if readings.values(contender, measure)]
        if any(contender.role == "ours" for contender in found):
            measured[measure] = _measure(measure, group, found, readings, limits.get(measure))
    if "train" in measured:
        measured["train"] |= _training_facts(readings)
    return {
        "machine": dict(machine),
        "settings": dict(settings),
        "ceilings": {name: _rounded(value) for name, value in ceilings.items()},
        **measured,
    }


def _leave_out_other_results(readings: Readings) -> None:
    """Scores are only compared where the sums agree: whoever is faster at other work is not faster."""
    scoring = [one for one in readings.contenders if one.group == "score" and readings.values(one, "nats")]
    ours = [readings.values(one, "nats")[0] for one in scoring if one.role == "ours"]
    for one in scoring:
        nats = readings.values(one, "nats")[0]
        if ours and abs(nats / ours[0] - 1) > _SAME_WORK:
            key = (one.group, one.name)
            readings.left_out[key] = f"its score is {nats:.4f} nats per token, not {ours[0]:.4f}"
            del readings.taken[key]


def _limits(
    shape: Shape, ceilings: Mapping[str, float], work: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Limit]:
    record_tokens = settings["scored_tokens"] / settings["scored_records"]
    limits = {
        "train": training_limit(shape, ceilings, work["block"]),
        "train_short": training_limit(shape, ceilings, work["short_block"]),
        "score": scoring_limit(shape, ceilings, record_tokens),
    }
    for name, asked in work["measures"].items():
        if name == "prefill":
            limits[name] = prefill_limit(shape, ceilings, asked)
        else:
            limits[name] = decoding_limit(shape, ceilings, asked, ceilings[f"memory_bandwidth_{name}"])
    return limits


def _measure(
    measure: str, group: str, found: list[Contender], readings: Readings, limit: Limit | None
) -> dict[str, Any]:
    lower_is_better = measure == "cold_start"
    median = {one.name: statistics.median(readings.values(one, measure)) for one in found}

    def named(role: str) -> dict[str, float]:
        return {one.name: _rounded(median[one.name]) for one in found if one.role == role}

    headline = next(one for one in found if one.role == "ours")
    ours, peers = median[headline.name], {one.name: median[one.name] for one in found if one.role == "peer"}
    best = (min if lower_is_better else max)(peers, key=peers.__getitem__) if peers else None
    if lower_is_better:
        floor = next((one for one in found if one.role == "limit"), None)
        limit = Limit(median[floor.name], "Python starts and reads the file once") if floor else None
    return {
        "ours": _rounded(ours),
        "peers": named("peer"),
        "ratio_to_best_peer": _rounded(_ratio(ours, peers[best], lower_is_better)) if best else None,
        "best_peer": best,
        "limit": _rounded(limit.value) if limit else None,
        "limit_is": limit.reason if limit else None,
        "share_of_limit": _rounded(_ratio(ours, limit.value, lower_is_better)) if limit else None,
        "unit": "s" if lower_is_better else "tokens/s",
        "lower_is_better": lower_is_better,
        "variants": named("variant"),
        "details": {one.name: _details(one, measure, readings) for one in found if one.role != "limit"},
        "left_out": {name: why for (place, name), why in readings.left_out.items() if place == group},
    }


def _ratio(ours: float, other: float, lower_is_better: bool) -> float:
    return other / ours if lower_is_better else ours / other


def _details(contender: Contender, measure: str, readings: Readings) -> dict[str, Any]:
    taken = readings.taken[contender.group, contender.name]
    further = {
        name: _rounded(statistics.median(readings.values(contender, name)))
        for name in taken[0].figures
        if name not in MEASURES
    }
    return {
        "rounds": [_rounded(value) for value in readings.values(contender, measure)],
        "peak_bytes": max(reading.peak_bytes for reading in taken),
        **further,
    }


def _training_facts(readings: Readings) -> dict[str, Any]:
    """What each gain is worth, and how long a user waits for the first step."""
    gains = {
        one.name: _rounded(statistics.median(values))
        for one in readings.contenders
        if one.role == "gain" and (values := readings.values(one, "train"))
    }
    waits = [
        value
        for one in readings.contenders
        if one.role == "first_step"
        for value in readings.values(one, "first_step")
    ]
    return {"without": gains, "first_step_s": _rounded(waits[0]) if waits else None}


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
