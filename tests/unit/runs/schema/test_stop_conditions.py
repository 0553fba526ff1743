import math

import pytest

from conjure.errors import UsageError
from conjure.runs.schema.stop_conditions import Clause, StopWatch, parse_stop_condition


def watch(*texts):
    return StopWatch(map(parse_stop_condition, texts))


def test_grammar():
    parsed = parse_stop_condition("keras/val_acc >= 0.99:5 && loss<1e-3&& step > 100")
    assert parsed.clauses == (
        Clause("keras/val_acc", ">=", 0.99, 5),
        Clause("loss", "<", 0.001),
        Clause("step", ">", 100.0),
    )
    assert parsed.metrics == {"keras/val_acc", "loss"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not NAME OP VALUE"),
        ("loss", "is not NAME OP VALUE"),
        ("loss > ", "is not NAME OP VALUE"),
        ("loss == 3", "== can only be used with nan"),
        ("loss > inf", "infinity cannot be a bound"),
        ("loss > 9:99999999999999999999", "is not NAME OP VALUE"),
        ("a < 1 b > 2", "is not NAME OP VALUE"),
        ('"loss > 9', "is not NAME OP VALUE"),
        ("loss > nine", "'nine' is not a number"),
        ("loss > nan", "== can only be used with nan"),
        ("loss > 9 &&", "is not NAME OP VALUE"),
        ("loss > 9:x", "is not NAME OP VALUE"),
        ("step > 9", "names no metric"),
    ],
)
def test_what_is_refused(text, why):
    with pytest.raises(UsageError, match=why):
        parse_stop_condition(text)


def test_it_holds_when_all_of_its_clauses_do():
    watching = watch("loss > 9 && step > 100")
    assert watching.see("loss", 100, 10.0) is None
    assert watching.see("loss", 101, 8.0) is None
    assert watching.see("other", 102, 10.0) is None
    held = watching.see("loss", 103, 9.5)
    assert held is not None
    assert held.text == "loss > 9 && step > 100"


def test_any_of_several_ends_the_run():
    watching = watch("loss > 9", "accuracy >= 1")
    assert watching.see("accuracy", 1, 0.5) is None
    assert watching.see("accuracy", 2, 1.0).text == "accuracy >= 1"


def test_two_metrics_are_compared_by_their_newest_values():
    watching = watch("loss < 1 && accuracy > 0.5")
    assert watching.see("loss", 1, 0.5) is None
    assert watching.see("accuracy", 1, 0.1) is None
    assert watching.see("loss", 2, 2.0) is None
    assert watching.see("accuracy", 2, 0.9) is None
    assert watching.see("loss", 3, 0.5) is not None


def test_earlier_points_can_be_left_out():
    watching = watch("loss > 9:100")
    assert watching.see("loss", 99, 1000.0) is None
    assert watching.see("loss", 100, 10.0) is not None


@pytest.mark.parametrize(
    ("operator", "below", "at", "above"),
    [
        ("<", True, False, False),
        ("<=", True, True, False),
        (">", False, False, True),
        (">=", False, True, True),
    ],
)
def test_operators_at_their_bounds(operator, below, at, above):
    clause = Clause("x", operator, 1.0)
    assert [clause.holds(number) for number in (0.5, 1.0, 1.5)] == [below, at, above]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("MAP@k > 0.5", "MAP@k"),
        ("val loss > 0.5", "val loss"),
        ("eval:loss > 0.5", "eval:loss"),
        ("  recall @ 10%  > 0.5", "recall @ 10%"),
        ('"a && b" > 0.5', "a && b"),
        ("'p<0.05' > 0.5", "p<0.05"),
        ("потеря > 0.5", "потеря"),
    ],
)
def test_any_metric_can_be_named(text, name):
    (clause,) = parse_stop_condition(text).clauses
    assert clause == Clause(name, ">", 0.5)
    assert watch(text).see(name, 1, 0.6).text == text
    assert len(parse_stop_condition(f"{text}:7 && {text}").clauses) == 2


def test_a_value_that_is_not_a_number_meets_its_own_condition():
    watching = watch("loss > 9", "loss == nan")
    assert watching.see("loss", 1, 8.0) is None
    assert watching.see("loss", 2, math.nan).text == "loss == nan"
    assert watch("loss > 9").see("loss", 2, math.inf).text == "loss > 9"


def test_a_value_that_is_not_a_number_and_meets_no_condition_is_told_once():
    watching = watch("loss > 9")
    assert watching.see("loss", 1, math.nan) is None
    assert watching.misses_nan("loss")
    assert not watching.misses_nan("loss")
    assert not watching.misses_nan("other")
    assert not watch("loss == nan").misses_nan("loss")


def test_metrics_that_never_came_are_told():
    watching = watch("los > 9 && step > 3", "accuracy > 1")
    watching.see("accuracy", 1, 0.5)
    assert [(condition.text, name) for condition, name in watching.unmet()] == [
        ("los > 9 && step > 3", "los")
    ]
