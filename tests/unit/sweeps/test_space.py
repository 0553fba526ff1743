import pytest

from conjure.errors import UsageError
from conjure.sweeps.space import (
    Choice,
    Range,
    checked_trials,
    domain_from_dict,
    log_uniform,
    parse_parameter,
    uniform,
)


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("x=1e-3,08,1.0", Choice(("1e-3", "08", "1.0"))),
        ('x="a,b",c', Choice(("a,b", "c"))),
        ('x="a\nb",c', Choice(("a\nb", "c"))),
        ("x=http://h:80", Choice(("http://h:80",))),
        ("x=a=b", Choice(("a=b",))),
        ("x=0.1:0.5", Range(0.1, 0.5)),
        ("x=-1:1", Range(-1.0, 1.0)),
        ("x=1e-4:1e-1:log", Range(1e-4, 0.1, log=True)),
        ("x=16:64:linear:int", Range(16.0, 64.0, whole=True)),
        ("x=16:64:int", Range(16.0, 64.0, whole=True)),
        ("x=1:64:log:int", Range(1.0, 64.0, log=True, whole=True)),
        ("x=1:2:float", Range(1.0, 2.0)),
    ],
)
def test_what_is_typed_is_what_is_meant(text, domain):
    assert parse_parameter(text) == ("x", domain)
    assert domain_from_dict(domain.to_dict()) == domain


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x", "is not NAME=VALUES"),
        ("0x=1", "is not NAME=VALUES"),
        ("x=", "empty value"),
        ("x=1,,2", "empty value"),
        ("x=1,2,1", "the value '1' twice"),
        ("x=first line\nsecond line", "x has several lines that are not quoted"),
        ("x=2:1", "from a smaller to a larger"),
        ("x=-1e308:1.7e308:int", "the range -1e\\+308:1.7e\\+308 is too wide"),
        ("x=0:1:log", "must be above 0"),
        ("x=0.5:2:int", "both bounds must be integers"),
        ("x=1:2:reverse_log", "after MIN:MAX come linear or log"),
        ("x=1:2:log:linear", "after MIN:MAX come linear or log"),
    ],
)
def test_what_cannot_be_is_said(text, said):
    with pytest.raises(UsageError, match=said):
        parse_parameter(text)


def test_every_whole_number_of_a_range_is_drawn_alike():
    drawn = [Range(1.0, 3.0, whole=True).at(share / 300) for share in range(300)]
    assert {text: drawn.count(text) for text in drawn} == {"1": 100, "2": 100, "3": 100}


def test_ranges_from_python():
    assert uniform(1, 3) == Range(1.0, 3.0, whole=True)
    assert log_uniform(1e-4, 1) == Range(1e-4, 1.0, log=True)


def test_trials_to_check_have_every_value_of_a_list_and_both_ends_of_a_range():
    space = {"a": Choice(("x", "y")), "b": Range(1.0, 2.0, whole=True)}
    assert checked_trials(space, {"seed": "1"}) == [
        {"a": "x", "b": "1", "seed": "1"},
        {"a": "y", "b": "1", "seed": "1"},
        {"a": "x", "b": "2", "seed": "1"},
    ]


def test_of_a_range_that_is_not_whole_a_number_that_is_not_is_checked():
    for domain in (Range(0.0, 8.0), Range(1.0, 100.0), Range(1.0, 64.0, log=True)):
        assert not all(float(trial["a"]).is_integer() for trial in checked_trials({"a": domain}, {}))
