"""Proposals by Optuna's tree-structured Parzen estimator; the only module that imports Optuna.

Main entry: `tpe_cell`. Invariant: each call fills a new study, in memory, from the history it is given; so
nothing of Optuna's is kept anywhere, and the same history gives the same proposal.
"""

from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from conjure.sweeps.proposals import PastCell, unit_draw
from conjure.sweeps.request import SweepRequest
from conjure.sweeps.space import Choice, Domain

_SEEDS = 2**32  # as large as the sampler takes
_STATES = {
    "running": TrialState.RUNNING,
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


def tpe_cell(request: SweepRequest, cell: int, history: Sequence[PastCell]) -> dict[str, str]:
    """The values of a cell, given what came of those before it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seed = int(unit_draw(request.seed, "tpe", cell) * _SEEDS)
    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(direction=request.direction, sampler=sampler)
    distributions = {name: _distribution(domain) for name, domain in request.space.items()}
    study.add_trials([_trial(request, past, distributions) for past in history])
    asked = study.ask(distributions)
    return {name: _text(domain, asked.params[name]) for name, domain in request.space.items()}


def _distribution(domain: Domain) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    if domain.whole:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def _trial(
    request: SweepRequest, past: PastCell, distributions: Mapping[str, BaseDistribution]
) -> FrozenTrial:
    params = {name: _value(domain, past.params[name]) for name, domain in request.space.items()}
    rungs = {past.rung: past.value} if past.state == "pruned" and past.value is not None else None
    return create_trial(
        state=_STATES[past.state],
        params=params,
        distributions=dict(distributions),
        value=past.value if past.state == "complete" else None,
        intermediate_values=rungs,
    )


def _value(domain: Domain, text: str) -> str | int | float:
    if isinstance(domain, Choice):
        return text
    return int(text) if domain.whole else float(text)


def _text(domain: Domain, value: str | float) -> str:
    return value if isinstance(domain, Choice) else domain.text(float(value))  # type: ignore[return-value]
