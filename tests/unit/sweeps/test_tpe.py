"""Proposals of tpe against Optuna itself, given the same history."""

import pytest

from conjure.sweeps.proposals import PastCell, propose, unit_draw
from conjure.sweeps.space import Choice, Range
from support.sweeps import searched

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
SPACE = {"lr": Range(1e-4, 1e-1, log=True), "n": Range(1.0, 9.0, whole=True), "o": Choice(("sgd", "adam"))}
REQUEST = searched(SPACE, "tpe", metric="loss", direction="minimize")


def past(count):
    found = []
    for cell in range(count):
        params = propose(searched(SPACE, seed=5), cell)
        found.append(PastCell(params, "complete", abs(float(params["lr"]) - 0.01) + int(params["n"]) / 100))
    return found


def test_the_same_history_gives_the_same_proposal_and_another_seed_another():
    assert propose(REQUEST, 15, past(15)) == propose(REQUEST, 15, past(15))
    other = searched(SPACE, "tpe", metric="loss", direction="minimize", seed=1)
    assert propose(other, 15, past(15)) != propose(REQUEST, 15, past(15))


def test_it_is_what_optuna_proposes_for_that_history():
    import optuna  # takes seconds, in each process that collects tests

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = {
        "lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
        "n": optuna.distributions.IntDistribution(1, 9),
        "o": optuna.distributions.CategoricalDistribution(("sgd", "adam")),
    }
    sampler = optuna.samplers.TPESampler(seed=int(unit_draw(REQUEST.seed, "tpe", 15) * 2**32))
    study = optuna.create_study(direction="minimize", sampler=sampler)
    for one in past(15):
        params = {"lr": float(one.params["lr"]), "n": int(one.params["n"]), "o": one.params["o"]}
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=distributions, value=one.value)
        )
    asked = study.ask(distributions).params
    ours = propose(REQUEST, 15, past(15))
    assert float(ours["lr"]) == pytest.approx(asked["lr"], rel=1e-5)
    assert (int(ours["n"]), ours["o"]) == (asked["n"], asked["o"])


def test_what_goes_on_failed_or_was_pruned_is_taken_in():
    known = past(12)
    mixed = [
        *known,
        PastCell(known[0].params, "running"),
        PastCell(known[1].params, "failed"),
        PastCell(known[2].params, "pruned", 5.0, 4),
        PastCell(known[3].params, "pruned", None, 4),
    ]
    params = propose(REQUEST, 16, mixed)
    assert 1e-4 <= float(params["lr"]) <= 1e-1
