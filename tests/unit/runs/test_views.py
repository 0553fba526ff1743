import pytest

from conjure.runs.database.base import ListedRun
from conjure.runs.schema.status import Ending, EndReason, RunProgress, RunStatus
from conjure.runs.views import PORT_METRIC, RunRow, elapsed, key_metric, status_text


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
    assert status_text(RunProgress({RunStatus.RUNNING: 1.0}, None, ending)) == text


@pytest.mark.parametrize(
    ("facts", "total_s", "text"),
    [
        (RunProgress({RunStatus.REQUESTED: 100.0}, 200.0, Ending(EndReason.COMPLETED, 0)), 61.0, "1m 1s"),
        (RunProgress({RunStatus.REQUESTED: 100.0}, 200.0, Ending(EndReason.SUPERVISOR_DIED)), None, "-"),
        (RunProgress({RunStatus.REQUESTED: 100.0}), None, "20.0s"),
        (RunProgress({RunStatus.REQUESTED: 900.0}), None, "0.0s"),  # the clock was set back
        (RunProgress(), None, "-"),
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


@pytest.mark.parametrize(
    ("option", "address"),
    [
        ("", "http://127.0.0.1:8123"),
        ("--host=192.0.2.7", "http://192.0.2.7:8123"),
        ("--host=::1", "http://[::1]:8123"),
        ("--host=0.0.0.0", "http://127.0.0.1:8123"),
        ("--host=::", "http://[::1]:8123"),
    ],
)
def test_the_address_of_a_server(option, address):
    facts = RunProgress({RunStatus.RUNNING: 1.0})
    run = ListedRun(
        1, "serve", f"conjure serve sprite {option}", "", (), None, {}, facts, None, None, archived=False
    )
    assert RunRow(run, {PORT_METRIC: 8123.0}).address == address
