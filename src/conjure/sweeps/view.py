"""A sweep as whoever shows it sees it: plain values, read from the database at one moment.

Main entry: `look_at_sweep`. Invariant: what a table, a JSON answer and Python tell of a sweep is this.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from conjure.core.home import Home
from conjure.core.text import plural
from conjure.runs.database.base import Database
from conjure.runs.database.sweep_rows import SweepRow, SweepState
from conjure.sweeps.control import has_driver, has_settler
from conjure.sweeps.pruning import trial_progress, trials_before_pruning
from conjure.sweeps.request import SweepRequest
from conjure.sweeps.trials import PRUNED, Cell, Importance, Trial, best_cell, importance, rank


@dataclass(frozen=True, slots=True)
class SweepView:
    """A sweep at one moment.

    Attributes:
        row: What the database says of it.
        request: What was asked.
        trials: The trials that were started, in order.
        seconds: Running time of each trial that has ended, by trial.
        settled: The trials that have ended, and whose values are written down.
        driven: Whether it has a driver: on this machine, or, as its trials that go on show, on another.
        settles: Whether a process on this machine writes down what its trials come to.
        pruning_waits: What pruning waits for, in words, or None.
    """

    row: SweepRow
    request: SweepRequest
    trials: tuple[Trial, ...]
    seconds: Mapping[int, float]
    settled: frozenset[int]
    driven: bool
    settles: bool = False
    pruning_waits: str | None = None

    @property
    def is_running(self) -> bool:
        """Whether it is to go on."""
        return self.row.state is SweepState.RUNNING

    @property
    def is_abandoned(self) -> bool:
        """Whether it is to go on, and nobody drives it."""
        return self.is_running and not self.driven

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen: all have ended and all is settled, or nobody drives it."""
        all_ended = all(trial.has_ended for trial in self.trials)
        are_settled = not self.settles or len(self.settled) == len(self.trials)
        return self.is_abandoned or (not self.is_running and all_ended and are_settled)

    @property
    def settled_trials(self) -> list[Trial]:
        """The trials that have ended, and whose values are written down, in order."""
        return [trial for trial in self.trials if trial.has_ended and trial.trial in self.settled]

    @property
    def best(self) -> Cell | None:
        """The best values so far, or None."""
        return best_cell(self.request, self.trials)

    @property
    def ranked(self) -> list[Cell]:
        """The values that were tried: best first, or in order where there is no metric."""
        return rank(self.request, self.trials)

    @property
    def importance(self) -> list[Importance]:
        """How much each parameter matters; empty while too few trials have a value."""
        return importance(self.request, self.trials) if self.request.metric is not None else []

    @property
    def ended(self) -> int:
        """How many trials have ended."""
        return sum(trial.has_ended for trial in self.trials)

    @property
    def seconds_left(self) -> float | None:
        """How long it will take yet, judged by the trials that have ended; None before the first."""
        if not self.seconds or not self.is_running:
            return None
        mean = sum(self.seconds.values()) / len(self.seconds)
        return mean * (self.row.trials - self.ended) / self.row.parallel

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            **self.listed(),
            "importance": [asdict(one) for one in self.importance],
            "trials": [trial.to_dict() for trial in self.trials],
        }

    def listed(self) -> dict[str, Any]:
        """As JSON can hold it, without what is told of one sweep alone."""
        request, best = self.request, self.best
        return {
            "sweep": self.row.number,
            "state": str(self.row.state),
            "message": self.row.message,
            "driven": self.driven,
            "method": request.method,
            "metric": request.metric,
            "direction": request.direction,
            "aggregation": request.aggregation,
            "command": request.spec.stored().command_text,
            "space": {name: domain.to_dict() for name, domain in request.space.items()},
            "parallel": self.row.parallel,
            "wanted": self.row.trials,
            "created_at": self.row.created_at,
            "ended_at": self.row.ended_at,
            "best": None if best is None else _cell_to_dict(best),
        }


def _cell_to_dict(cell: Cell) -> dict[str, Any]:
    return {
        "trials": [trial.trial for trial in cell.trials],
        "runs": [trial.run for trial in cell.trials],
        "params": dict(cell.params),
        "value": cell.value,
        "spread": cell.spread,
    }


def look_at_sweep(home: Home, store: Database, number: int) -> SweepView:
    """A sweep as it is now.

    Raises:
        NotFoundError: There is none of that number.
    """
    driven = has_driver(home, number)  # first: a driver that ends its sweep goes away after that
    settles = driven or has_settler(home, number)
    row = store.sweep(number)
    rows = store.trials(number)
    request = SweepRequest.from_dict(row.request)
    waits = None
    if request.prune is not None and row.state is SweepState.RUNNING:
        progress = trial_progress(rows, {})
        more = trials_before_pruning(request, progress)
        if more:
            finished = sum(each.complete for each in progress)
            waits = (
                f"{request.prune} needs {plural(more + finished, 'finished trial')} first, and has {finished}"
            )
    seconds = {each.trial: each.command_s for each in rows if each.command_s is not None}
    trials = tuple(map(Trial.of, rows))
    if store.is_shared and not all(trial.has_ended for trial in trials):
        driven = True  # a driver on another machine cannot be seen, but its trials can
    settled = frozenset(each.trial for each in rows if each.settled)
    return SweepView(row, request, trials, seconds, settled, driven, settles, waits)


def pruned_count(view: SweepView) -> int:
    """How many trials were ended early."""
    return sum(trial.status == PRUNED for trial in view.trials)
