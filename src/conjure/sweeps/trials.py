"""A sweep's trials as everybody sees them: states, ranking, the best, what matters.

Main entries: `Trial`, `rank`, `best_cell`, `importance`. Invariant: plain values, made from database rows
alone; nothing here reads a run's files.
"""

import math
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from conjure.runs.database.sweep_rows import Rungs, TrialRow
from conjure.runs.schema.status import EndReason, RunStatus
from conjure.sweeps.metric_aggregation import mean
from conjure.sweeps.proposals import PastCell
from conjure.sweeps.request import SEED_PARAMETER, SweepRequest
from conjure.sweeps.space import Range

PRUNED = "pruned"
_FEWEST_FOR_IMPORTANCE = 6
_RESAMPLINGS = 200
_PARTS_OF_A_RANGE = 3
_INFRASTRUCTURE = {
    EndReason.SUPERVISOR_DIED,
    EndReason.MACHINE_RESTARTED,
    EndReason.SUBMISSION_FAILED,
}
_LIMITS = {EndReason.TIMEOUT, EndReason.STOP_CONDITION}


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial.

    Attributes:
        trial: Its number in the sweep, from 0.
        run: Its newest run.
        params: Values of its parameters.
        status: The run's status, or ``pruned``.
        value: The metric, aggregated; None if there is none, or it is no number.
        step: The step of the value, or None.
        reached_limit: Whether it ended by its own time limit or stop condition, as it was told to.
    """

    trial: int
    run: int
    params: Mapping[str, str]
    status: str
    value: float | None = None
    step: int | None = None
    reached_limit: bool = False

    @classmethod
    def of(cls, row: TrialRow) -> "Trial":
        """The trial of a row."""
        reason = row.facts.ending.reason if row.facts.ending is not None else None
        status = PRUNED if reason is EndReason.PRUNED else str(row.facts.status)
        return cls(row.trial, row.run, row.params, status, row.value, row.step, reason in _LIMITS)

    @property
    def is_finished(self) -> bool:
        """Whether it did what it was told to, to its end."""
        return self.status == RunStatus.COMPLETE or self.reached_limit

    @property
    def counts(self) -> bool:
        """Whether it is finished and has a value."""
        return self.is_finished and self.value is not None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status == PRUNED or RunStatus(self.status).is_final

    def to_dict(self) -> dict[str, object]:
        """As JSON can hold it."""
        return {
            "trial": self.trial,
            "run": self.run,
            "params": dict(self.params),
            "status": self.status,
            "value": self.value,
            "step": self.step,
        }


@dataclass(frozen=True, slots=True)
class Cell:
    """The repetitions of one set of values, taken together.

    Attributes:
        params: The values, without the seed.
        trials: The repetitions, in order.
        value: Mean over those that count; None if none does.
        spread: Standard deviation of these; None unless two or more count.
    """

    params: Mapping[str, str]
    trials: tuple[Trial, ...]
    value: float | None = None
    spread: float | None = None

    @property
    def has_ended(self) -> bool:
        """Whether no repetition goes on."""
        return all(trial.has_ended for trial in self.trials)

    @property
    def is_partial(self) -> bool:
        """Whether all repetitions have ended, but some without a value that counts.

        The mean of the others would favour values with which only some repetitions succeed.
        """
        return self.has_ended and not all(trial.counts and trial.value is not None for trial in self.trials)


def is_infrastructure_failure(row: TrialRow) -> bool:
    """Whether a trial's run ended through no fault of its command."""
    ending = row.facts.ending
    return ending is not None and ending.reason in _INFRASTRUCTURE


def cells_of(request: SweepRequest, trials: Iterable[Trial]) -> list[Cell]:
    """The trials by cell, in order."""
    found: dict[int, list[Trial]] = {}
    for trial in trials:
        found.setdefault(trial.trial // request.seeds, []).append(trial)
    return [_cell(request, some) for _, some in sorted(found.items())]


def _cell(request: SweepRequest, trials: list[Trial]) -> Cell:
    params = trials[0].params
    if request.seeds > 1:
        params = {name: value for name, value in params.items() if name != SEED_PARAMETER}
    values = [trial.value for trial in trials if trial.counts and trial.value is not None]
    return Cell(
        params,
        tuple(trials),
        mean(values) if values else None,
        _deviation(values),
    )


def _deviation(values: list[float]) -> float | None:
    """The standard deviation; None of fewer than two values, and where it is no finite number."""
    try:
        return statistics.stdev(values) if len(values) > 1 else None
    except OverflowError:
        return None


def rank(request: SweepRequest, trials: Iterable[Trial]) -> list[Cell]:
    """The cells, best first, then partial ones; without a value last: going on, no number, pruned, failed."""
    return sorted(cells_of(request, trials), key=lambda cell: _order(request, cell))


def _order(request: SweepRequest, cell: Cell) -> tuple[int, float, int]:
    first = cell.trials[0].trial
    if cell.value is not None:
        return int(cell.is_partial), cell.value if request.direction == "minimize" else -cell.value, first
    statuses = {trial.status for trial in cell.trials}
    if not cell.has_ended:
        return 2, 0.0, first
    return (3 if RunStatus.COMPLETE in statuses else 4 if PRUNED in statuses else 5), 0.0, first


def best_cell(request: SweepRequest, trials: Iterable[Trial]) -> Cell | None:
    """The cell with the best value, or None while there is none."""
    if request.metric is None:
        return None
    best = next(iter(rank(request, trials)), None)
    return best if best is not None and best.value is not None else None


def history(
    request: SweepRequest, trials: Iterable[Trial], before: int, rungs: Mapping[int, Rungs]
) -> list[PastCell]:
    """What is known of the cells before one, for its proposal.

    Args:
        request: The sweep.
        trials: Its trials.
        before: The cell's number.
        rungs: The rungs that trials reached, by run.
    """
    cells = cells_of(request, trials)
    return [_past(cell, rungs) for cell in cells if cell.trials[0].trial // request.seeds < before]


def _past(cell: Cell, rungs: Mapping[int, Rungs]) -> PastCell:
    params = dict(cell.params)
    if not cell.has_ended:
        return PastCell(params, "running")
    if cell.value is not None and not cell.is_partial:
        return PastCell(params, "complete", cell.value)
    pruned = next((trial for trial in cell.trials if trial.status == PRUNED and trial.run in rungs), None)
    if pruned is None:
        return PastCell(params, "failed")
    highest = max(rungs[pruned.run].values)
    return PastCell(params, "pruned", rungs[pruned.run].values[highest], highest)


@dataclass(frozen=True, slots=True)
class Importance:
    """How much of the differences in the metric one parameter explains by itself.

    Attributes:
        parameter: Its name.
        share: From 0 to 1; what chance alone would explain is taken off.
        low: With `high`, where the share is in nine of ten resamplings of the trials.
        high: See `low`.
    """

    parameter: str
    share: float
    low: float
    high: float


def importance(request: SweepRequest, trials: Iterable[Trial]) -> list[Importance]:
    """How much each parameter matters, most first; empty where too few trials have a value.

    The values are ranked, so that one extreme does not decide. For each parameter the trials are put into
    groups, by value or by thirds of a range, and the share of the variance that lies between the groups is
    the answer (epsilon squared).
    """
    counted = [cell for cell in cells_of(request, trials) if cell.value is not None]
    if len(counted) < _FEWEST_FOR_IMPORTANCE:
        return []
    ranks = _ranks([cell.value or 0.0 for cell in counted])
    found = []
    for name, domain in request.space.items():
        texts = [cell.params[name] for cell in counted]
        groups = _thirds(texts) if isinstance(domain, Range) else texts
        if len(set(groups)) > 1:
            low, high = _interval(request.seed, ranks, groups)
            found.append(Importance(name, _explained(ranks, groups), low, high))
    return sorted(found, key=lambda one: -one.share)


def _ranks(values: Sequence[float]) -> list[float]:
    """Places in order of size, from 0; equal values share the mean of theirs."""
    ordered = sorted(values)
    first = {value: place for place, value in reversed(list(enumerate(ordered)))}
    last = {value: place for place, value in enumerate(ordered)}
    return [(first[value] + last[value]) / 2 for value in values]


def _thirds(texts: Sequence[str]) -> list[str]:
    ranks = _ranks([float(text) for text in texts])
    return [str(int(rank * _PARTS_OF_A_RANGE / len(texts))) for rank in ranks]


def _explained(values: Sequence[float], groups: Sequence[str]) -> float:
    total = _squares(values)
    members: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(value)
    within = sum(map(_squares, members.values()))
    free = len(values) - len(members)
    if total == 0 or free <= 0:
        return 0.0
    return max(0.0, 1.0 - within / free * (len(values) - 1) / total)


def _squares(values: Sequence[float]) -> float:
    """Of the differences from their mean, added up."""
    middle = statistics.fmean(values)
    return sum((value - middle) ** 2 for value in values)


def _interval(seed: int, values: Sequence[float], groups: Sequence[str]) -> tuple[float, float]:
    drawn = random.Random(seed)
    shares = []
    for _ in range(_RESAMPLINGS):
        places = drawn.choices(range(len(values)), k=len(values))
        shares.append(_explained([values[p] for p in places], [groups[p] for p in places]))
    shares.sort()
    edge = math.floor(0.05 * _RESAMPLINGS)
    return shares[edge], shares[-edge - 1]
