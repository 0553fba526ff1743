"""What a database knows of sweeps: the part of the seam that is about them.

Main entries: `Sweeps`, `SweepRow`, `TrialRow`, `TrialClaim`. Invariant: a sweep has at most one row for each
trial, whose run is the newest that was started for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from conjure.errors import ConjureError
from conjure.runs.schema.status import RunProgress


class TrialRefusedError(ConjureError):
    """A trial must not be started now: another process has it, enough go on, or the sweep was stopped."""

    code = "trial_refused"


class SweepState(StrEnum):
    """What a sweep can be."""

    RUNNING = "running"
    COMPLETE = "complete"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SweepRow:
    """A sweep.

    Attributes:
        number: Its number.
        state: What it is now.
        request: What was asked, as JSON values.
        parallel: Most trials that go on at a time.
        trials: Trials wanted.
        created_at: When it was made, ISO 8601.
        ended_at: When it ended, or None.
        message: Why it ended, where the state does not say it all.
    """

    number: int
    state: SweepState
    request: Mapping[str, Any]
    parallel: int
    trials: int
    created_at: str
    ended_at: str | None = None
    message: str | None = None


class TrialClaim(NamedTuple):
    """The right to start a trial, which only one process can get.

    Attributes:
        sweep: The sweep.
        trial: The trial's number in it, from 0.
        attempt: 1 for its first run; one more where an earlier run of it has ended.
        params: Values of its parameters, as text.
    """

    sweep: int
    trial: int
    attempt: int
    params: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A trial that was started.

    Attributes:
        trial: Its number in the sweep.
        run: Its newest run.
        attempt: How many runs it has had.
        params: Values of its parameters.
        facts: How far the run is.
        command_s: Seconds the run's command took, once it has ended.
        settled: Whether what the run came to is written down.
        value: The metric, aggregated; None if there is none, or it is no number.
        step: The step of the value; None if the metric was never reported.
    """

    trial: int
    run: int
    attempt: int
    params: Mapping[str, str]
    facts: RunProgress
    command_s: float | None = None
    settled: bool = False
    value: float | None = None
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Rungs:
    """The values of a trial on its way: rung (a number of steps) -> value; None for one that is no number."""

    run: int
    values: Mapping[int, float | None] = field(default_factory=dict)


class Sweeps(Protocol):
    """Sweeps and their trials."""

    def create_sweep(
        self, request: Mapping[str, Any], *, trials: int, parallel: int, rung_metric: str | None
    ) -> int:
        """Give a sweep its number.

        Args:
            request: What is asked, as JSON values, without secrets.
            trials: How many are wanted.
            parallel: Most that go on at a time.
            rung_metric: The metric whose values are written down while a trial runs, or None.
        """
        ...

    def sweep(self, number: int) -> SweepRow:
        """One sweep.

        Raises:
            NotFoundError: There is none of that number.
        """
        ...

    def sweeps(self) -> list[SweepRow]:
        """All sweeps, newest first."""
        ...

    def trials(self, sweep: int) -> list[TrialRow]:
        """The trials of a sweep that were started, in order."""
        ...

    def end_sweep(
        self, number: int, state: SweepState, message: str | None = None, *, trials: int | None = None
    ) -> bool:
        """End a sweep; False if it has ended already, or has another number of trials than a given one."""
        ...

    def continue_sweep(self, number: int, *, trials: int) -> None:
        """Let a sweep go on, to so many trials in all."""
        ...

    def settle_trial(self, sweep: int, trial: int, run: int, value: float | None, step: int | None) -> None:
        """Write down what a trial's run came to, unless it has a newer one."""
        ...

    def rung_metric(self, run: int) -> str | None:
        """The metric whose rungs are to be written down for a run; None if it is in no sweep that asks."""
        ...

    def set_rung(self, run: int, rung: int, value: float | None) -> None:
        """Write down the value with which a run reached a rung."""
        ...

    def rungs(self, sweep: int) -> dict[int, Rungs]:
        """The rungs of a sweep's trials, by run."""
        ...
