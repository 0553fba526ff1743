import pytest

from conjure.errors import UsageError
from conjure.lm.training.schedule import Schedule


def test_linear_rises_then_falls_to_zero():
    schedule = Schedule("linear", total_steps=10, warmup_steps=2)
    factors = [schedule.factor(step) for step in range(11)]
    assert factors == pytest.approx([1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0])


def test_cosine_is_half_way_down_in_the_middle():
    schedule = Schedule("cosine", total_steps=100)
    assert schedule.factor(0) == 1.0
    assert schedule.factor(50) == pytest.approx(0.5)
    assert schedule.factor(100) == pytest.approx(0.0)


def test_constant_stays_up_after_the_warmup():
    schedule = Schedule("constant", total_steps=10, warmup_steps=1)
    assert [schedule.factor(step) for step in (0, 1, 9)] == [0.5, 1.0, 1.0]


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 1, 3, 7])
def test_every_step_learns_something_and_none_more_than_the_peak(kind, warmup):
    schedule = Schedule(kind, total_steps=7, warmup_steps=warmup)
    assert all(0 < schedule.factor(step) <= 1 for step in range(7))


def test_an_unknown_shape_is_named():
    with pytest.raises(UsageError, match="schedule is 'cubic'; allowed: cosine, linear, constant"):
        Schedule("cubic", total_steps=1)
