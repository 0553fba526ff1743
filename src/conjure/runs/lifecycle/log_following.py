"""Following a run from anywhere: its statuses and its output, in order, until it has ended.

Main entry: `follow`. Invariant: what is given is a record's truth in its order: a phase's output comes before
the next phase, and the last event is the end. A run whose carrier is gone is closed, not waited for.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

from conjure.core.config import heartbeat_interval_s
from conjure.core.home import Home
from conjure.errors import StoreError
from conjure.runs.artifacts.team_transfer import StreamFollower
from conjure.runs.database.base import Database
from conjure.runs.executors.base import Executor
from conjure.runs.host.capacity import Capacity
from conjure.runs.lifecycle.abandoned_runs import mark_interrupted
from conjure.runs.lifecycle.heartbeat import GIVE_UP_AFTER, when_reachable
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.scheduling.scheduler import shortage
from conjure.runs.scheduling.scheduler_start import ensure_scheduler
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import PHASES, RunProgress, RunStatus
from conjure.runs.telemetry.logs import NOTE, LogEntry, LogTail

_SHORTEST_WAIT_S = 0.005
_LONGEST_WAIT_S = 0.1
_WAIT_GROWTH = 1.3
_CARRIER_EVERY_S = 0.5
_LONGEST_QUEUED_WAIT_S = 0.25  # there may be hundreds of those who wait
_QUEUE_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Found:
    """The run as it stands when following begins."""

    record: RunRecord


@dataclass(frozen=True, slots=True)
class Queued:
    """The run waits in the queue; for what, in words."""

    needs: str


@dataclass(frozen=True, slots=True)
class Entered:
    """The run entered a phase."""

    phase: RunStatus


@dataclass(frozen=True, slots=True)
class Printed:
    """The run's command, or its supervisor, printed something."""

    entry: LogEntry


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing new for the moment: time to turn a spinner."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The run has ended; nothing follows."""

    record: RunRecord


Event = Found | Queued | Entered | Printed | Waiting | Ended


def follow(
    home: Home,
    number: int,
    *,
    sleep: Callable[[float], None] = time.sleep,
    executor: Executor | None = None,
) -> Iterator[Event]:
    """Everything that happens to a run, from its beginning, until it has ended.

    Args:
        number: The run.
        sleep: Waits between two looks.
        executor: One beside this machine that may have the run.

    Raises:
        NotFoundError: There is no such run.
        StoreError: The home or its database cannot be used.
    """
    with open_store(home) as store:
        yield Found(store.get(number))
        yield from _events(store, number, sleep, executor)


def wait_for_end(home: Home, number: int, executor: Executor | None = None) -> RunRecord:
    """The record of a run once it has ended."""
    for event in follow(home, number, executor=executor):
        if isinstance(event, Ended):
            return event.record
    raise AssertionError("a followed run ends")


def _events(
    store: Database, number: int, sleep: Callable[[float], None], executor: Executor | None
) -> Iterator[Event]:
    with StreamFollower(store.home, number) as streams:
        yield from _events_of(store, number, sleep, executor, streams)


def _events_of(
    store: Database,
    number: int,
    sleep: Callable[[float], None],
    executor: Executor | None,
    streams: StreamFollower,
) -> Iterator[Event]:
    streams.bring()
    tail = LogTail(RunFolder.of(store.home, number).log)
    merge = _Merge(tail)
    wait_s, next_look_at_carrier = _SHORTEST_WAIT_S, 0.0
    patience_s = GIVE_UP_AFTER * heartbeat_interval_s(store.home)  # as supervisors have it
    while True:
        # Before the log: what was printed in a phase is there when it is over.
        facts = when_reachable(lambda: store.facts(number), patience_s)
        _bring(streams, facts, patience_s)
        tail.move_to(RunFolder.of(store.home, number).log)  # the next attempt may be elsewhere, or here
        quiet = True
        for event in merge.news(facts):
            quiet = False
            yield event
        if facts.ending is not None:
            yield Ended(when_reachable(lambda: store.get(number), patience_s))
            return
        queued = facts.status is RunStatus.QUEUED
        if time.monotonic() >= next_look_at_carrier:
            next_look_at_carrier = time.monotonic() + (_QUEUE_EVERY_S if queued else _CARRIER_EVERY_S)
            yield from when_reachable(
                lambda: list(_look_after(store, store.get(number), executor)), patience_s
            )
        yield Waiting()
        longest = _LONGEST_QUEUED_WAIT_S if queued or streams.may_bring else _LONGEST_WAIT_S
        wait_s = min(wait_s * _WAIT_GROWTH, longest) if quiet else _SHORTEST_WAIT_S
        sleep(wait_s)


def _bring(streams: StreamFollower, facts: RunProgress, patience_s: float) -> None:
    """What the run printed on another machine; while it goes on, a store that is away is asked again."""
    if facts.ending is not None:
        when_reachable(streams.bring, patience_s)
        return
    with suppress(StoreError):
        streams.bring()


def _look_after(store: Database, record: RunRecord, executor: Executor | None) -> Iterator[Queued]:
    """See to it that the run goes on or ends; of one that waits, tell for what."""
    if not record.waits_in_queue:
        mark_interrupted(store, [record], executor)
        return
    ensure_scheduler(store)
    claims = store.claims()
    own = next((claim for claim in claims if claim.number == record.number), None)
    if record.spec.on is not None and own is not None and own.may_start:
        yield Queued(f"room on {record.spec.on}")
    else:
        yield Queued(shortage(record.number, claims, Capacity.of_this_machine()))


class _Merge:
    """Puts phases and output into one order: a phase comes before what was printed in it."""

    def __init__(self, tail: LogTail) -> None:
        self._tail = tail
        self._entered: set[RunStatus] = set()
        self._early: list[LogEntry] = []

    def news(self, facts: RunProgress) -> Iterator[Entered | Printed]:
        if self._entered - facts.entered.keys():  # an attempt ended, and the run waits for the next
            yield from map(Printed, chain(self._early, self._tail.read()))
            self._early, self._entered = [], {RunStatus.REQUESTED}
        phases = [phase for phase in PHASES if phase in facts.entered and phase not in self._entered]
        early, self._early = self._early, []
        for entry in chain(early, self._tail.read()):
            while phases and self._precedes(phases[0], entry, facts):
                yield self._enter(phases.pop(0))
            if entry.stream == NOTE or RunStatus.RUNNING in self._entered:
                yield Printed(entry)
            else:
                self._early.append(entry)  # printed since the facts were read
        for phase in phases:
            yield self._enter(phase)

    @staticmethod
    def _precedes(phase: RunStatus, entry: LogEntry, facts: RunProgress) -> bool:
        if entry.stream != NOTE:
            return phase is not RunStatus.SAVING
        return facts.entered[phase] <= entry.time

    def _enter(self, phase: RunStatus) -> Entered:
        self._entered.add(phase)
        return Entered(phase)
