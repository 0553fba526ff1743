"""Which trials to end early, by the rungs that they and others have reached.

Main entry: `runs_to_prune`. Invariant: a trial is only compared with values that others had at the same rung;
the best of those that go on is never ended.
"""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from conjure.runs.database.sweep_rows import Rungs, TrialRow
from conjure.runs.schema.status import RunStatus
from conjure.sweeps.request import SweepRequest
from conjure.sweeps.trials import Trial

MEDIAN_NEEDS = 5  # finished trials, before any is judged by the median
ASHA_NEEDS = 1  # which says how long a trial is
ASHA_KEEPS = 2  # one of so many goes on from each rung
_SHORTEST_SHARE = 16  # no trial is judged before this part of a whole one


@dataclass(frozen=True, slots=True)
class TrialProgress:
    """How far a trial has come.

    Attributes:
        run: Its run.
        rungs: Rung -> value; None for a value that is no number.
        complete: Whether it is finished.
        goes_on: Whether it can be ended.
    """

    run: int
    rungs: Mapping[int, float | None]
    complete: bool = False
    goes_on: bool = False


def trial_progress(rows: Iterable[TrialRow], rungs: Mapping[int, Rungs]) -> list[TrialProgress]:
    """How far the trials of a sweep have come, given the rungs that they reached, by run."""
    return [
        TrialProgress(
            row.run,
            rungs[row.run].values if row.run in rungs else {},
            complete=row.facts.status is RunStatus.COMPLETE or Trial.of(row).counts,
            goes_on=row.facts.status is RunStatus.RUNNING,
        )
        for row in rows
    ]


def trials_before_pruning(request: SweepRequest, trials: Iterable[TrialProgress]) -> int:
    """How many more trials have to finish before any is ended."""
    wanted = MEDIAN_NEEDS if request.prune == "median" else ASHA_NEEDS
    return max(0, wanted - sum(trial.complete for trial in trials))


def runs_to_prune(request: SweepRequest, trials: Iterable[TrialProgress]) -> list[int]:
    """The runs of the trials to end now."""
    trials = list(trials)
    if request.prune is None or trials_before_pruning(request, trials) > 0:
        return []
    whole = max(max(trial.rungs, default=0) for trial in trials if trial.complete)
    ended = []
    for trial in trials:
        highest = max(trial.rungs, default=0)
        is_judged = trial.goes_on and highest and highest * _SHORTEST_SHARE >= whole
        if is_judged and _does_badly(request, trial, highest, trials):
            ended.append(trial.run)
    return ended


def _does_badly(request: SweepRequest, trial: TrialProgress, rung: int, trials: list[TrialProgress]) -> bool:
    value = trial.rungs[rung]
    others = [other.rungs[rung] for other in trials if other.run != trial.run and rung in other.rungs]
    numbers = [other for other in others if other is not None]
    if not numbers:
        return False
    if value is None:
        return True
    worse = 1.0 if request.direction == "minimize" else -1.0
    if request.prune == "median":
        return worse * (value - statistics.median(numbers)) > 0
    better = sum(worse * (value - other) > 0 for other in numbers)
    return better >= max(1, (len(numbers) + 1) // ASHA_KEEPS)
