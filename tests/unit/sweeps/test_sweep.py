"""A sweep from Python; what it tells of real trials is tried in `tests/story/test_sweep.py`."""

from types import SimpleNamespace

import conjure.sweeps.sweep
from conjure.sweeps.sweep import Sweep
from conjure.sweeps.trials import Trial


def test_a_trial_that_was_stopped_and_runs_again_is_told_of_again(home, monkeypatch):
    stopped, again = (Trial(0, run, {}, status) for run, status in ((1, "stopped"), (2, "complete")))
    moments = [([stopped], False), ([stopped], False), ([again], True)]
    views = (
        SimpleNamespace(settled_trials=settled, is_abandoned=False, is_over=is_over)
        for settled, is_over in moments
    )
    monkeypatch.setattr(conjure.sweeps.sweep, "look_at_sweep", lambda *_: next(views))
    monkeypatch.setattr(conjure.sweeps.sweep, "_LOOK_EVERY_S", 0.0)
    assert list(Sweep(home, 1)) == [stopped, again]
