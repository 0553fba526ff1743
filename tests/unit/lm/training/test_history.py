from conjure.lm.report.report_schema import CurvePoint
from conjure.lm.training.events import Evaluated, StepDone
from conjure.lm.training.history import History


def test_both_curves_meet_at_their_steps():
    history = History()
    for event in (
        Evaluated(0, 5.0, improved=True),
        StepDone(1, 4.5, 1.0, 1.0, targets=100, tokens=120, seconds=0.5),
        StepDone(2, 4.0, 1.0, 1.0, targets=60, tokens=80, seconds=0.25),
        StepDone(3, None, 1.0, 0.0, targets=0, tokens=80, seconds=0.25),
        Evaluated(2, 4.2, improved=True),
    ):
        history.note(event)
    assert history.points() == [
        CurvePoint(0, None, 5.0),
        CurvePoint(1, 4.5, None),
        CurvePoint(2, 4.0, 4.2),
    ]
    assert (history.tokens, history.seconds) == (280, 1.0)
    assert History.from_dict(history.to_dict()) == history
