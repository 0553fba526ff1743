"""A sweep from Python.

Main entries: `Sweep`, `SweepOptions`. Invariant: a `Sweep` holds a number and nothing else; what it tells is
what the database says at that moment.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, get_args

from conjure.core.home import Home
from conjure.core.units import parse_duration
from conjure.errors import NotFoundError, RunFailedError, UsageError, option
from conjure.runs.database.sweep_rows import SweepState
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.spec import RunSpec
from conjure.sweeps.control import resume_sweep, stop_sweep
from conjure.sweeps.request import Aggregation, Direction, Method, Pruner, SweepRequest
from conjure.sweeps.space import Choice, Domain, Range
from conjure.sweeps.trials import Cell, Trial
from conjure.sweeps.view import SweepView, look_at_sweep

_LOOK_EVERY_S = 0.2
_NEXT_TRIAL_WITHIN_S = 60.0  # after a trial of a driver that may be on another machine
_WORDS = {"method": Method, "direction": Direction, "aggregation": Aggregation, "prune": Pruner}
_MAY_BE_NONE = ("direction", "prune")

Space = Mapping[str, Domain | Sequence[object]]


class SweepOptions(TypedDict, total=False):
    """How a sweep is made; the words of ``conjure sweep``."""

    method: Method
    """``grid``, ``random`` or ``tpe``; if not given, a grid without `trials`, and else tpe."""
    trials: int
    """How many different values to try; a grid has as many as it has."""
    metric: str
    """Metric to rank the trials by."""
    direction: Direction
    """``minimize`` or ``maximize``; needed with a metric."""
    aggregation: Aggregation
    """Which of the metric's values counts: ``last`` (the default), ``min``, ``max`` or ``mean``."""
    parallel: int
    """Maximum number of trials at a time."""
    seeds: int
    """Run each trial with so many seeds, which replace ``:seed:``."""
    seed: int
    """Of everything that is drawn."""
    prune: Pruner
    """``median`` or ``asha``: stop trials early that do worse than others."""
    time_limit: str
    """Stop the sweep after so long: ``2h``."""


def domains_of(space: Space) -> dict[str, Domain]:
    """Values by parameter as a request has them.

    Raises:
        UsageError: A list is empty, or has a value twice.
    """
    return {name: _domain(name, values) for name, values in space.items()}


def _domain(name: str, values: Domain | Sequence[object]) -> Domain:
    if isinstance(values, Choice | Range):
        return values
    if isinstance(values, str):
        raise UsageError(f"{name} must be a list of values, uniform or log_uniform, not a string")
    texts = tuple(map(str, values))
    if not texts or len(set(texts)) < len(texts):
        raise UsageError(f"{name} needs a list of different values, not {list(texts)}")
    return Choice(texts)


def request_of(spec: RunSpec, space: Mapping[str, Domain], options: SweepOptions) -> SweepRequest:
    """The sweep that the options ask for.

    Raises:
        UsageError: It cannot be.
    """
    _refuse_unknown_words(options)
    trials, time_limit = options.get("trials"), options.get("time_limit")
    return SweepRequest(
        spec=spec,
        space=space,
        method=options.get("method", "grid" if trials is None else "tpe"),
        cells=trials,
        seeds=options.get("seeds", 1),
        seed=options.get("seed", 0),
        parallel=options.get("parallel", 1),
        metric=options.get("metric"),
        direction=options.get("direction"),
        aggregation=options.get("aggregation", "last"),
        prune=options.get("prune"),
        time_limit_s=parse_duration(str(time_limit)) if time_limit is not None else None,
    )


def _refuse_unknown_words(options: SweepOptions) -> None:
    """Refuse what the type checker would: an unknown word would be taken for one of the others.

    Raises:
        UsageError: There is one.
    """
    faults = []
    for name, kind in _WORDS.items():
        value, words = options.get(name), get_args(kind)
        if name in options and value not in words and not (value is None and name in _MAY_BE_NONE):
            faults.append(f"{option(name)} must be {', '.join(words[:-1])} or {words[-1]}, not {value!r}")
    if faults:
        raise UsageError("; ".join(faults))


@dataclass(frozen=True, slots=True)
class Sweep:
    """One sweep, by its number; iterating over it gives its trials as they end.

    Attributes:
        number: The sweep's number.
    """

    home: Home
    number: int

    @property
    def view(self) -> SweepView:
        """Everything that is known of the sweep now."""
        with open_store(self.home) as store:
            return look_at_sweep(self.home, store, self.number)

    @property
    def state(self) -> SweepState:
        """What it is now: ``running``, ``complete``, ``stopped`` or ``failed``."""
        return self.view.row.state

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The trials that were started, in order."""
        return self.view.trials

    def __iter__(self) -> Iterator[Trial]:
        """The trials in the order in which they end; to the end of the sweep.

        Raises:
            RunFailedError: Nothing drives the sweep any more.
        """
        told: set[int] = set()
        with open_store(self.home) as store:
            patience = _NEXT_TRIAL_WITHIN_S if store.is_shared else 0.0
            driven_at = time.monotonic()
            while True:
                view = look_at_sweep(self.home, store, self.number)
                for trial in view.settled_trials:
                    if trial.run not in told:  # a trial may get another run
                        told.add(trial.run)
                        yield trial
                if not view.is_abandoned:
                    if view.is_over:
                        return
                    driven_at = time.monotonic()
                elif time.monotonic() - driven_at >= patience:
                    raise RunFailedError(
                        f"sweep {self.number} has no driver",
                        fix=f"conjure sweep resume {self.number}",
                    )
                time.sleep(_LOOK_EVERY_S)

    def wait(self, *, check: bool = False) -> "Sweep":
        """Wait until the sweep has ended.

        Args:
            check: Raise unless it is complete.

        Raises:
            RunFailedError: Nothing drives it any more; or, with `check`, it ended in another way.
        """
        for _ in self:
            pass
        row = self.view.row
        if check and row.state is not SweepState.COMPLETE:
            detail = f": {row.message}" if row.message is not None else ""
            raise RunFailedError(f"sweep {self.number} is {row.state}{detail}")
        return self

    def best(self) -> Cell:
        """The best values so far, with their trials.

        Raises:
            NotFoundError: No trial has a value yet.
        """
        best = self.view.best
        if best is None:
            raise NotFoundError(f"sweep {self.number} has no finished trial with a value")
        return best

    def stop(self) -> "Sweep":
        """End it and stop its trials; returns when they have ended."""
        stop_sweep(self.home, self.number)
        return self

    def resume(self, *, retry_failed: bool = False, more: int = 0) -> "Sweep":
        """Let it go on with the same proposals; trials that were stopped or interrupted run again.

        Args:
            retry_failed: Also run failed trials again.
            more: So many more different trials.

        Raises:
            UsageError: It cannot be, for example because its trials used a model that is another one now.
        """
        resume_sweep(self.home, self.number, retry_failed=retry_failed, more=more)
        return self
