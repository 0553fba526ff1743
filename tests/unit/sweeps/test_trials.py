import pytest

from conjure.runs.database.sweep_rows import TrialRow
from conjure.runs.schema.status import Ending, EndReason, RunProgress
from conjure.sweeps.space import Choice, Range
from conjure.sweeps.trials import Trial, best_cell, history, importance, rank
from support.sweeps import grid, searched


def trial(number, value=None, status="complete", step=1, **params):
    return Trial(number, 10 + number, params or {"x": str(number)}, status, value, step)


def order(request, trials):
    return [cell.trials[0].trial for cell in rank(request, trials)]


@pytest.mark.parametrize(("direction", "expected"), [("minimize", [2, 0]), ("maximize", [0, 2])])
def test_the_best_come_first_and_what_has_no_value_last(direction, expected):
    trials = [
        trial(0, 3.0),
        trial(1, 0.1, "pruned"),
        trial(2, 1.0),
        trial(3, None, "failed", None),
        trial(4, None),  # reported, and no number
        trial(5, None, "running", None),
    ]
    request = grid(6, metric="loss", direction=direction)
    assert order(request, trials) == [*expected, 5, 4, 1, 3]
    best = best_cell(request, trials)
    assert best is not None
    assert best.trials[0].trial == expected[0]


def test_repetitions_are_ranked_by_their_mean():
    request = grid(2, ("true", ":x:", ":seed:"), seeds=2, metric="loss", direction="minimize")
    trials = [
        trial(n, value, x=str(n // 2), seed=str(n % 2 + 1)) for n, value in enumerate([1.0, 3.0, 1.5, 1.6])
    ]
    first, second = rank(request, trials)
    assert (first.params, first.value, second.spread) == ({"x": "1"}, 1.55, pytest.approx(2**0.5))


def test_values_with_which_a_repetition_failed_follow_those_with_which_all_succeeded():
    request = grid(3, ("true", ":x:", ":seed:"), seeds=2, metric="loss", direction="minimize")
    lucky = [trial(0, 0.1, x="lucky", seed="1"), trial(1, None, "failed", None, x="lucky", seed="2")]
    whole = [trial(n, 0.2, x="whole", seed=str(n - 1)) for n in (2, 3)]
    begun = [trial(4, 0.3, x="begun", seed="1"), trial(5, None, "running", None, x="begun", seed="2")]
    assert [cell.params["x"] for cell in rank(request, [*lucky, *whole, *begun])] == [
        "whole",
        "begun",
        "lucky",
    ]
    states = [one.state for one in history(request, [*lucky, *whole, *begun], before=3, rungs={})]
    assert states == ["failed", "complete", "running"]
    best = best_cell(request, lucky)
    assert best is not None  # where there is no other


def test_values_whose_sum_is_infinite_have_a_mean():
    request = grid(1, ("true", ":x:", ":seed:"), seeds=2, metric="loss", direction="minimize")
    (cell,) = rank(request, [trial(n, value, x="1", seed=str(n)) for n, value in enumerate([1e308, 1.2e308])])
    assert cell.value == pytest.approx(1.1e308)
    (cell,) = rank(
        request, [trial(n, value, x="1", seed=str(n)) for n, value in enumerate([-1.7e308, 1.7e308])]
    )
    assert cell.value == pytest.approx(0.0)
    assert cell.spread is None


def test_history_tells_what_goes_on_what_failed_and_what_came_of_the_rest():
    request = grid(4, metric="loss", direction="minimize")
    trials = [trial(0, 2.0), trial(1, None, "failed", None), trial(2, None, "running", None), trial(3, 1.0)]
    past = history(request, trials, before=3, rungs={})
    assert [(one.state, one.value) for one in past] == [
        ("complete", 2.0),
        ("failed", None),
        ("running", None),
    ]


def ended_by(reason, value):
    return Trial.of(TrialRow(0, 10, 1, {"x": "0"}, RunProgress(ending=Ending(reason)), 9.0, True, value, 5))


@pytest.mark.parametrize(
    ("reason", "counts"),
    [
        (EndReason.TIMEOUT, True),
        (EndReason.STOP_CONDITION, True),
        (EndReason.STOP_REQUESTED, False),
        (EndReason.PRUNED, False),
    ],
)
def test_a_trial_that_ended_as_it_was_told_to_counts_if_it_has_a_value(reason, counts):
    request = grid(2, metric="loss", direction="minimize")
    cut, whole = ended_by(reason, 0.5), trial(1, 2.0)
    best = best_cell(request, [cut, whole])
    assert best is not None
    assert best.trials == ((cut,) if counts else (whole,))
    assert (history(request, [cut], before=1, rungs={})[0].state == "complete") is counts
    assert not ended_by(reason, None).counts


def test_the_parameter_that_decides_matters_and_the_other_does_not():
    space = {"a": Range(0.0, 1.0), "b": Choice(("1", "2"))}
    request = searched(space, metric="loss", direction="minimize")
    trials = [trial(n, n * 1.0, a=f"{n / 24:.3f}", b=str(n % 2 + 1)) for n in range(24)]
    first, second = importance(request, trials)
    assert (first.parameter, second.parameter) == ("a", "b")
    assert first.share > 0.8
    assert first.low <= first.share <= first.high
    assert second.share < 0.1
    assert importance(request, trials[:5]) == []


def test_where_all_trials_came_to_the_same_no_parameter_matters():
    space = {"a": Choice(("1", "2")), "b": Range(1.0, 2.0, whole=True)}
    request = searched(space, metric="accuracy", direction="maximize")
    trials = [trial(n, 0.5, a=str(n // 6 + 1), b=str(n % 2 + 1)) for n in range(12)]
    assert [(one.share, one.high) for one in importance(request, trials)] == [(0.0, 0.0)] * 2


def test_equal_values_of_a_range_are_in_one_group():
    request = searched({"n": Range(1.0, 2.0, whole=True)}, metric="loss", direction="minimize")
    trials = [trial(n, n % 2 + 1.0, n=str(n % 2 + 1)) for n in range(12)]
    (one,) = importance(request, trials)
    assert one.share == 1.0
