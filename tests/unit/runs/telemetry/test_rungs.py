import pytest

from conjure.runs.telemetry.rungs import RungLadder


@pytest.mark.parametrize(
    ("steps", "rungs"),
    [
        ([0, 1, 2, 3, 4, 5], [None, 1, 2, None, 4, None]),
        ([13, 26, 39, 52, 65], [8, 16, 32, None, 64]),  # nothing at 1, 2 and 4: step 13 is none of these
        ([4, 8, 12, 16, 9, 20], [4, 8, None, 16, None, None]),
        ([7, 4], [4, None]),
    ],
)
def test_a_value_stands_for_the_highest_rung_at_or_below_its_step(steps, rungs):
    ladder = RungLadder("loss")
    assert [ladder.reached("loss", step) for step in steps] == rungs


def test_another_metric_reaches_no_rung():
    ladder = RungLadder("loss")
    assert (ladder.reached("accuracy", 1), ladder.reached("loss", 1)) == (None, 1)
