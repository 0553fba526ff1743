import pytest

from conjure.runs.database.sweep_rows import TrialRow
from conjure.runs.schema.status import Ending, EndReason, RunProgress
from conjure.sweeps.pruning import TrialProgress, runs_to_prune, trial_progress, trials_before_pruning
from support.sweeps import grid


def trial(run, *values, complete=False):
    rungs = {2**place: value for place, value in enumerate(values)}
    return TrialProgress(run, rungs, complete=complete, goes_on=not complete)


def request(how, direction="minimize"):
    return grid(2, metric="loss", direction=direction, prune=how)


FINISHED = [trial(run, 4.0, 3.0, 1.0 + run / 10, complete=True) for run in range(5)]


def ended(how, trials, direction="minimize"):
    return runs_to_prune(request(how, direction), trials)


@pytest.mark.parametrize(("value", "is_finished"), [(0.5, True), (None, False)])
def test_a_trial_that_reached_its_time_limit_with_a_value_is_a_finished_one(value, is_finished):
    facts = RunProgress(ending=Ending(EndReason.TIMEOUT))
    (one,) = trial_progress([TrialRow(0, 7, 1, {}, facts, value=value)], {})
    assert one.complete is is_finished


@pytest.mark.parametrize(("how", "first"), [("median", 5), ("asha", 1)])
def test_nothing_is_ended_before_enough_have_finished(how, first):
    assert trials_before_pruning(request(how), FINISHED[: first - 1]) == 1
    assert ended(how, [*FINISHED[: first - 1], trial(9, 99.0, 99.0, 99.0)]) == []
    assert ended(how, [*FINISHED, trial(9, 99.0, 99.0, 99.0)]) == [9]


def test_the_median_decides_at_the_newest_rung():
    assert ended("median", [*FINISHED, trial(9, 99.0, 3.0)]) == []
    assert ended("median", [*FINISHED, trial(9, 1.0, 3.1)]) == [9]
    assert ended("median", [*FINISHED, trial(9, 1.0, 3.1)], "maximize") == []


def test_asha_keeps_the_better_half_of_each_rung():
    assert ended("asha", [*FINISHED, trial(9, 4.0, 3.0, 1.05)]) == []
    assert ended("asha", [*FINISHED, trial(9, 4.0, 3.0, 1.35)]) == [9]


@pytest.mark.parametrize("how", ["median", "asha"])
def test_a_value_that_is_no_number_is_ended_and_no_reason_to_end_others(how):
    assert ended(how, [*FINISHED, trial(9, None)]) == [9]
    assert ended(how, [trial(0, None, complete=True), *FINISHED[1:], trial(9, 4.0)]) == []


def test_a_trial_is_not_judged_by_its_first_steps():
    long = [trial(run, *([1.0] * 8), complete=True) for run in range(5)]  # to step 128
    assert ended("median", [*long, trial(9, 5.0, 5.0, 5.0)]) == []  # step 4
    assert ended("median", [*long, trial(9, 5.0, 5.0, 5.0, 5.0)]) == [9]  # step 8
