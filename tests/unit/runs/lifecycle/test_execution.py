"""How a run is closed that never came to its command."""

import time

import pytest

from conjure.runs.artifacts.team_upload import RunUploader
from conjure.runs.host.process import this_process
from conjure.runs.lifecycle.execution import RunContext, close
from conjure.runs.lifecycle.heartbeat import Heartbeat
from conjure.runs.scheduling.scheduler_start import this_queue
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from support.casting import add_run, advance

FAILED = Ending(EndReason.BUILD_FAILED, message="no such package")


@pytest.mark.parametrize("attempts", [0, 1])
def test_a_working_folder_without_a_command_stays_only_for_what_earlier_attempts_left(store, attempts):
    record = add_run(store, retry=1)
    number = record.number
    for _ in range(attempts):
        store.begin_attempt(number, this_process())
        advance(store, number, RunStatus.RUNNING)
        died = Ending(EndReason.SUPERVISOR_DIED)
        store.retry_run(number, died, this_queue(store.home), host="here", delay_s=0.0)
    attempt = store.begin_attempt(number, this_process())
    if attempts:
        store.move(number, RunStatus.BUILDING)
    else:
        advance(store, number, RunStatus.BUILDING)
    run = RunContext(
        *(store.home, store, number, record.spec, time.monotonic(), lambda _: True),
        Heartbeat(number, attempt),
        RunUploader(store, number, attempt),
    )
    with run.folders:
        run.folders.make_work()
        close(run, FAILED, None)
    assert store.get(number).ending == FAILED
    assert RunFolder.of(store.home, number).work.exists() == bool(attempts)
