"""What is asked of a sweep.

Main entry: `SweepRequest`. Invariant: one that exists is valid, and every fault is told before anything
starts; what is stored of it holds no secret.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from conjure.core.text import did_you_mean
from conjure.errors import UsageError, option
from conjure.recipes.run_specs import command_to_type
from conjure.runs.schema.argv import fill_in, placeholders
from conjure.runs.schema.spec import RunSpec
from conjure.sweeps.space import Choice, Domain, domain_from_dict

Method = Literal["grid", "random", "tpe"]
Direction = Literal["minimize", "maximize"]
Aggregation = Literal["last", "min", "max", "mean"]
Pruner = Literal["median", "asha"]

SEED_PARAMETER = "seed"
_LATE_METRICS = {"held_out_loss": "eval_loss"}  # one that comes at the end only -> what shows it on the way
MOST_TRIALS = 100_000


@dataclass(frozen=True, slots=True)
class SweepRequest:
    """A sweep as it was asked for.

    Attributes:
        spec: The run of each trial; ``:NAME:`` in its command stands for the trial's value.
        space: What to try, by parameter.
        method: How trials are chosen.
        cells: How many different trials; None for a grid, which has as many as it has.
        seeds: How often each is repeated, with other values of the parameter ``seed``.
        seed: Of everything that is drawn.
        parallel: Most trials that go on at a time.
        metric: What the trials are ranked by, or None.
        direction: Which end of the metric is best; needed with a metric.
        aggregation: Which of the metric's values counts.
        prune: How trials that do badly are ended early, or None.
        time_limit_s: Seconds after which the sweep ends, or None.
    """

    spec: RunSpec
    space: Mapping[str, Domain]
    method: Method
    cells: int | None = None
    seeds: int = 1
    seed: int = 0
    parallel: int = 1
    metric: str | None = None
    direction: Direction | None = None
    aggregation: Aggregation = "last"
    prune: Pruner | None = None
    time_limit_s: float | None = None

    def __post_init__(self) -> None:
        """Find every fault and report them together.

        Raises:
            UsageError: Anything is wrong.
        """
        faults = [*self._parameter_faults(), *self._method_faults(), *self._metric_faults()]
        if faults:
            raise UsageError("; ".join(faults))

    def _parameter_faults(self) -> list[str]:
        known = [*self.space, *([SEED_PARAMETER] if self.seeds > 1 else [])]
        faults = [] if self.space else ["a sweep needs a parameter"]
        faults += [
            f":{name}: is not in the command, so the parameter {name!r} would do nothing"
            for name in known
            if not any(f":{name}:" in word for word in self.spec.command)
        ]
        for name in placeholders(self.spec.command):
            if name not in known:
                near = did_you_mean(name, known)
                faults.append(f":{name}: is in the command, but there is no parameter {name!r}")
                faults[-1] += f"; {near}" if near is not None else ""
        if self.seeds > 1 and SEED_PARAMETER in self.space:
            faults.append(f"{option('seeds')} fills the parameter 'seed', which is given too")
        return faults

    def _method_faults(self) -> list[str]:
        faults = []
        ranges = [name for name, domain in self.space.items() if not isinstance(domain, Choice)]
        if self.method == "grid" and ranges:
            faults.append(f"a grid needs a list of values; {', '.join(ranges)} has a range")
        if self.method == "grid" and self.cells is not None:
            faults.append(f"a grid runs every combination once; it takes no {option('trials')}")
        if self.method == "grid" and not ranges and self.trial_count > MOST_TRIALS:
            faults.append(f"the grid has {self.trial_count:,} trials; at most {MOST_TRIALS:,} are allowed")
        if self.method != "grid" and self.cells is None:
            faults.append(f"{self.method} needs the number of trials, as in {option('trials', 20)}")
        for name, value in (("trials", self.cells), ("seeds", self.seeds), ("parallel", self.parallel)):
            if value is not None and not 1 <= value <= MOST_TRIALS:
                faults.append(f"{option(name)} must be from 1 to {MOST_TRIALS:,}, not {value}")
        if self.time_limit_s is not None and not self.time_limit_s > 0:
            faults.append(f"{option('time_limit')} must be above 0")
        return faults

    def _metric_faults(self) -> list[str]:
        faults = []
        if self.metric is None and (self.method == "tpe" or self.prune is not None):
            what = "tpe" if self.method == "tpe" else option("prune")
            faults.append(f"{what} needs {option('metric')}, and a direction: minimize or maximize")
        if self.metric is not None and self.direction is None:
            faults.append(f"{option('metric', self.metric)} needs a direction: minimize or maximize")
        if self.metric is None and self.direction is not None:
            faults.append(f"a direction, {self.direction}, needs {option('metric')}")
        return faults

    @property
    def cell_count(self) -> int:
        """How many different trials there are."""
        if self.cells is not None:
            return self.cells
        return math.prod(len(domain.values) for domain in self.space.values() if isinstance(domain, Choice))

    @property
    def trial_count(self) -> int:
        """How many trials there are, repetitions included."""
        return self.cell_count * self.seeds

    @property
    def rung_metric(self) -> str | None:
        """The metric by which trials are compared while they run, or None."""
        if self.prune is None or self.metric is None:
            return None
        return _LATE_METRICS.get(self.metric, self.metric)

    def trial_spec(self, params: Mapping[str, str], sweep: int) -> RunSpec:
        """The run of a trial.

        Args:
            params: Values of its parameters.
            sweep: Number of the sweep, for the run's label.
        """
        labels = dict.fromkeys([*self.spec.labels, f"sweep-{sweep}"])
        return replace(self.spec, params=dict(params), labels=tuple(labels))

    def command_of(self, params: Mapping[str, str]) -> str:
        """The command of a trial as one line to type."""
        return command_to_type(replace(self.spec, command=fill_in(self.spec.command, params)))

    def to_dict(self, *, secrets: bool = False) -> dict[str, Any]:
        """As JSON can hold it; to be stored only without `secrets`."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        space = {name: domain.to_dict() for name, domain in self.space.items()}
        return {**plain, "space": space, "spec": self.spec.to_dict(secrets=secrets)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "SweepRequest":
        """The request that `to_dict` gave; unknown keys are passed over."""
        return cls(
            spec=RunSpec.from_dict(stored["spec"]),
            space={name: domain_from_dict(domain) for name, domain in stored["space"].items()},
            **{name: stored[name] for name in _PLAIN if name in stored},
        )


_PLAIN = (
    *("method", "cells", "seeds", "seed", "parallel", "metric", "direction", "aggregation", "prune"),
    "time_limit_s",
)
