"""Which ends are followed by another attempt, and after how long."""

from pathlib import Path

import pytest

from conjure.runs.scheduling.retries import may_retry
from conjure.runs.schema.record import AttemptFacts, RunRecord
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import Ending, EndReason, RunProgress, RunStatus

DIED = Ending(EndReason.SUPERVISOR_DIED)
FAILED = Ending(EndReason.NONZERO_EXIT, 1)
SIGNALLED = Ending(EndReason.SIGNALLED, signal=9)
STARTED = {RunStatus.REQUESTED: 1.0, RunStatus.QUEUED: 2.0, RunStatus.RUNNING: 3.0}
QUEUED = {RunStatus.REQUESTED: 1.0, RunStatus.QUEUED: 2.0}


def record_of(*running_at, entered=STARTED, retry=2, **given):
    attempts = tuple(
        AttemptFacts(place + 1, "host", at, 9.0, "supervisor_died") for place, at in enumerate(running_at)
    )
    request = given.pop("end_request", None)
    spec = RunSpec(("true",), Path("/code"), retry=retry, **given)
    return RunRecord(1, spec, RunProgress(entered), attempts=attempts, end_request=request)


@pytest.mark.parametrize(
    ("record", "ending", "wanted"),
    [
        (record_of(), DIED, True),
        (record_of(retry=0), DIED, False),
        (record_of(), FAILED, False),
        (record_of(retry_on="failed"), FAILED, True),
        (record_of(retry_on="failed"), SIGNALLED, True),
        (record_of(retry_on="failed"), DIED, True),
        (record_of(retry_on="failed"), Ending(EndReason.TIMEOUT), False),
        (record_of(retry_on="failed"), Ending(EndReason.STOP_REQUESTED), False),
        (record_of(retry_on="failed"), Ending(EndReason.BUILD_FAILED), False),
        (record_of(retry_on="failed"), Ending(EndReason.SAVE_FAILED, 0), False),
        (record_of(end_request="stop"), DIED, False),
        (record_of(end_request="kill"), DIED, False),
        (record_of(3.0), DIED, True),
        (record_of(3.0, 4.0), DIED, False),
        (record_of(3.0, None, None, 4.0), DIED, False),  # confirmed starts are counted alone
        (record_of(3.0, None, None), DIED, True),
        (record_of(None, None, None, entered=QUEUED), DIED, True),
        (record_of(None, None, None, None, entered=QUEUED), DIED, False),
        (record_of(None, None, None, 3.0, entered=QUEUED), DIED, True),
        (record_of(entered={RunStatus.REQUESTED: 1.0}), DIED, False),
    ],
)
def test_what_is_followed_by_another_attempt(record, ending, wanted):
    assert may_retry(record, ending) is wanted
