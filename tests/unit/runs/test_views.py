import pytest

from conjure.runs.schema.status import Ending, EndReason, Facts, RunStatus
from conjure.runs.views import elapsed, key_metric, status_text


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (None, "running"),
        (Ending(EndReason.COMPLETED, 0), "complete"),
        (Ending(EndReason.NONZERO_EXIT, 3), "failed (exit 3)"),
        (Ending(EndReason.SIGNALLED, None, 11), "failed (signal 11)"),
        (Ending(EndReason.SAVE_FAILED, 0), "failed (not saved)"),
        (Ending(EndReason.TIMEOUT, None, 15), "stopped"),
        (Ending(EndReason.BUILD_FAILED), "build_failed"),
    ],
)
def test_status(ending, text):
    assert status_text(Facts({RunStatus.RUNNING: 1.0}, None, ending)) == text


@pytest.mark.parametrize(
    ("facts", "total_s", "text"),
    [
        (Facts({RunStatus.REQUESTED: 100.0}, 200.0, Ending(EndReason.COMPLETED, 0)), 61.0, "1m 1s"),
        (Facts({RunStatus.REQUESTED: 100.0}, 200.0, Ending(EndReason.SUPERVISOR_DIED)), None, "-"),
        (Facts({RunStatus.REQUESTED: 100.0}), None, "20.0s"),
        (Facts({RunStatus.REQUESTED: 900.0}), None, "0.0s"),  # the clock was set back
        (Facts(), None, "-"),
    ],
)
def test_elapsed(facts, total_s, text):
    assert elapsed(facts, total_s, now=120.0) == text


@pytest.mark.parametrize(
    ("names", "key"),
    [
        ([], None),
        (["speed", "acc"], "acc"),
        (["acc", "train/loss"], "train/loss"),
        (["acc", "loss", "eval/loss"], "eval/loss"),
        (["loss", "Held-out loss"], "Held-out loss"),
    ],
)
def test_key_metric(names, key):
    assert key_metric(dict.fromkeys(names, 1.0)) == key
