"""Whether a run whose attempt has ended gets another one.

Main entries: `may_retry`, `queue_next_attempt`. Invariant: what its user ended is never started again; only
attempts whose command started are counted, and those that never did have a limit of their own.
"""

import random

from conjure.runs.database.base import LONGEST_RETRY_DELAY_S, Database
from conjure.runs.host.process import machine_id
from conjure.runs.scheduling.scheduler_start import this_queue
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.spec import FAILED
from conjure.runs.schema.status import Ending, EndReason, IllegalMoveError, RunStatus

_FIRST_DELAY_S = 1.0
_MOST_FALSE_STARTS = 5
_OF_THE_MACHINE = {EndReason.SUPERVISOR_DIED, EndReason.MACHINE_RESTARTED}
_OF_THE_COMMAND = {EndReason.NONZERO_EXIT, EndReason.SIGNALLED}


def may_retry(record: RunRecord, ending: Ending) -> bool:
    """Whether a run gets another attempt after one that ended so."""
    spec, phase = record.spec, record.facts.phase
    if not spec.retry or record.end_request is not None or phase is RunStatus.REQUESTED:
        return False
    wanted = _OF_THE_MACHINE | (_OF_THE_COMMAND if spec.retry_on == FAILED else set())
    if ending.reason not in wanted:
        return False
    if RunStatus.RUNNING not in record.facts.entered:
        return _false_starts(record) + 1 < _MOST_FALSE_STARTS
    return sum(each.running_at is not None for each in record.attempts) < spec.retry


def ending_words(ending: Ending) -> str:
    """How an attempt ended: ``exit status 1``, ``signal 9`` or the reason."""
    if ending.exit_code is not None:
        return f"exit status {ending.exit_code}"
    return f"signal {ending.signal}" if ending.signal is not None else str(ending.reason)


def _false_starts(record: RunRecord) -> int:
    """How many attempts in a row, up to the last, never started their command."""
    count = 0
    for attempt in reversed(record.attempts):
        if attempt.running_at is not None:
            break
        count += 1
    return count


def queue_next_attempt(store: Database, number: int, ending: Ending) -> bool:
    """Leave a run to the queue that it came from for another attempt, if it gets one.

    Args:
        store: Where the run is recorded.
        number: The run.
        ending: How its attempt ended.

    Returns:
        Whether it does: what it takes may be gone, or somebody may have asked for its end meanwhile.
    """
    record = store.get(number)
    queue = _queue_of(store, record)
    if queue is None or not may_retry(record, ending):
        return False
    longest = min(_FIRST_DELAY_S * 2 ** len(record.attempts), LONGEST_RETRY_DELAY_S)
    delay_s = longest * random.uniform(0.75, 1.0)
    host = record.owner.host_name if record.owner is not None and record.owner.host_name else None
    try:
        store.retry_run(record.number, ending, queue, host=host, delay_s=delay_s)
    except IllegalMoveError:
        return False
    return True


def _queue_of(store: Database, record: RunRecord) -> Owner | None:
    """Where a run can wait for its next attempt: what a supervisor will need must be there."""
    if record.spec.on is not None:
        return None if store.request(record.number) is None else Owner.queue_of_executor(record.spec.on)
    is_here = record.owner is not None and record.owner.host_id == machine_id(store.home)
    return this_queue(store.home) if is_here and store.home.queued_request(record.number).exists() else None
