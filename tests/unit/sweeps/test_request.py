import pytest

from conjure.errors import UsageError
from conjure.sweeps.request import SweepRequest
from conjure.sweeps.space import Choice, Range
from conjure.sweeps.sweep import request_of
from support.sweeps import grid, searched

RANGE = {"x": Range(0.0, 1.0)}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: grid(2, ("echo", ":y:")), ":x: is not in the command.*:y: is in the command"),
        (lambda: grid(2, ("echo", ":x:", ":xx:")), "there is no parameter .xx"),
        (lambda: SweepRequest(searched(RANGE).spec, RANGE, "grid"), "a grid needs a list of values; x has a"),
        (lambda: searched(RANGE, cells=None), "random needs the number of trials, as in trials=20"),
        (lambda: searched(RANGE, "tpe"), "tpe needs metric, and a direction"),
        (lambda: grid(2, prune="asha"), "prune needs metric, and a direction"),
        (lambda: grid(2, metric="loss"), "metric=.loss. needs a direction"),
        (lambda: grid(2, direction="minimize"), "a direction, minimize, needs metric"),
        (lambda: grid(2, cells=5), "a grid runs every combination once; it takes no trials"),
        (lambda: grid(100_001), "the grid has 100,001 trials; at most 100,000 are allowed"),
        (lambda: grid(2, parallel=0), "parallel must be from 1 to 100,000, not 0"),
        (lambda: grid(2, seeds=3), ":seed: is not in the command"),
        (lambda: searched({}), "a sweep needs a parameter"),
    ],
)
def test_every_fault_is_told_before_anything_starts(make, said):
    with pytest.raises(UsageError, match=said):
        make()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "bayes", "trials": 3}, "^method must be grid, random or tpe, not 'bayes'$"),
        ({"method": None}, "^method must be grid, random or tpe, not None$"),
        (
            {"metric": "loss", "direction": "min", "prune": "x"},
            "^direction must be minimize or maximize, not 'min'; prune must be median or asha, not 'x'$",
        ),
        ({"aggregation": "x"}, "^aggregation must be last, min, max or mean, not 'x'$"),
    ],
)
def test_an_unknown_word_is_not_taken_for_another(options, said):
    with pytest.raises(UsageError, match=said):
        request_of(grid(2).spec, grid(2).space, options)


def test_none_is_as_good_as_not_given():
    asked = grid(2)
    assert request_of(asked.spec, asked.space, {"direction": None, "prune": None}) == asked


def test_it_is_stored_and_read_back():
    request = searched(
        {"x": Range(1.0, 8.0, log=True, whole=True), "y": Choice(("08", "1e-3"))},
        "tpe",
        metric="loss",
        direction="maximize",
        prune="median",
        parallel=3,
    )
    assert SweepRequest.from_dict(request.to_dict(secrets=True)) == request


def test_a_metric_of_the_end_is_watched_by_one_on_the_way():
    def watched(metric):
        return grid(2, metric=metric, direction="minimize", prune="asha").rung_metric

    assert (watched("held_out_loss"), watched("loss")) == ("eval_loss", "loss")
    assert grid(2, metric="loss", direction="minimize").rung_metric is None


def test_a_trial_has_its_values_and_a_label_to_find_it_by():
    request = grid(2)
    spec = request.trial_spec({"x": "08"}, 7)
    assert (spec.params, spec.labels) == ({"x": "08"}, ("sweep-7",))
    assert request.command_of({"x": "08"}) == "true 08"
