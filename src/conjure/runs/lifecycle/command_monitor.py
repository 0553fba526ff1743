"""Watching a command while it runs: its output, its metrics, and whatever may end it early.

Main entry: `watch`. Invariant: limits are kept by a clock that does not jump; the first reason to end a
command is the one that counts, and a kill outranks them all.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from conjure.core.text import error_text
from conjure.core.units import format_duration
from conjure.runs.executors.command import GRACE_S, Execution, Exit
from conjure.runs.schema.process_facts import Usage
from conjure.runs.schema.status import EndReason
from conjure.runs.schema.stop_conditions import StopWatch
from conjure.runs.telemetry.logs import LogWriter
from conjure.runs.telemetry.metric_column_file import ColumnWriter
from conjure.runs.telemetry.metrics import MetricTail, Point, Summary, metric_summaries
from conjure.runs.telemetry.rungs import RungLadder

_TICK_S = 0.1
_INDEX_EVERY_S = 1.0
_FIRST_MEASURE_AFTER_S = 0.125
_MEASURE_EVERY_S = 2.0
_NOTE_USAGE_EVERY_S = 5.0


class RunControl(Protocol):
    """What a watch asks of and tells the outside."""

    def requested_end(self) -> EndReason | None:
        """Why somebody wants the run to end, or None."""
        ...

    def index(self, summaries: Iterable[Summary]) -> None:
        """Take note of how the metrics stand."""
        ...

    def note_usage(self, usage: Usage) -> None:
        """Take note of what the command has used so far."""
        ...

    def note_rung(self, rung: int, value: float) -> None:
        """Take note of the value with which a rung was reached."""
        ...


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What became of a watched command.

    Attributes:
        exit: How it ended.
        reason: Why it was ended, or None if it ended by itself.
        message: The reason in words, or None.
        command_s: How long it ran.
        usage: What it used of the machine.
    """

    exit: Exit
    reason: EndReason | None
    message: str | None
    command_s: float
    usage: Usage


@dataclass(slots=True)
class CommandMonitor:
    """One command's watch; call it once.

    Attributes:
        execution: The command.
        log: Where its output goes.
        metrics: Its metrics as they come.
        control: The outside.
        conditions: What metrics may end it.
        timeout_s: After how long it is stopped, or None.
        timer: Seconds, by a clock that does not jump.
        grace_s: How long after being asked to end it is made to.
        ladder: The rungs of the metric that others are compared with, if it is.
        look_every_s: How often `control` is asked for a reason to end the command, at most.
        columns: Where its metrics are kept for who draws their curves.
    """

    execution: Execution
    log: LogWriter
    metrics: MetricTail
    control: RunControl
    conditions: StopWatch = field(default_factory=lambda: StopWatch(()))
    timeout_s: float | None = None
    timer: Callable[[], float] = time.monotonic
    grace_s: float = GRACE_S
    ladder: RungLadder | None = None
    look_every_s: float = 0.0
    columns: ColumnWriter | None = None
    _summaries: dict[str, Summary] = field(default_factory=dict)
    _reason: EndReason | None = None
    _message: str | None = None
    _made_to_end_at: float | None = None
    _next_look: float = 0.0
    _unindexed: bool = False
    _metrics_failed: bool = False
    _next_index: float = 0.0
    _next_measure: float = 0.0
    _measure_wait_s: float = _FIRST_MEASURE_AFTER_S
    _next_note: float = 0.0

    def until_end(self) -> CommandResult:
        """Watch until nothing of the command is left."""
        started = self.timer()
        self._next_note = started + _MEASURE_EVERY_S  # a short command is only measured at its end
        while self.execution.exit is None:
            for stream, data in self.execution.read(_TICK_S):
                self.log.write(stream, data)
            self.log.flush_waiting()
            self._look_at_metrics()
            if self.execution.exit is None:
                self._look_for_reasons(self.timer() - started)
                self._look_at_the_clock()
        command_s = self.timer() - started
        self.log.flush()
        self._look_at_metrics()
        if self.columns is not None:
            self.columns.finish()
        for condition, name in self.conditions.unmet():
            self.log.note(f"stop condition {condition.text!r}: the run reported no metric {name!r}")
        self.control.index(self._summaries.values())
        ended = self.execution.exit
        if ended.message is not None:
            self.log.note(ended.message)
        message = self._message if self._reason is not None else ended.message
        return CommandResult(ended, self._reason, message, command_s, self.execution.usage())

    def _look_at_metrics(self) -> None:
        points = self._new_points()
        if self.columns is not None:
            self.columns.add(points, self.metrics.offset)
        finite = [point for point in points if math.isfinite(point.value)]
        if finite:
            self._summaries = metric_summaries(finite, self._summaries.values())
            self._unindexed = True
        for point in points:
            rung = self.ladder.reached(point.name, point.step) if self.ladder is not None else None
            if rung is not None:
                self.control.note_rung(rung, point.value)
            condition = self.conditions.see(point.name, point.step, point.value)
            what = f"{point.name} was {point.value:g} at step {point.step}"
            if condition is not None:
                self._end(EndReason.STOP_CONDITION, f"{condition.text}: {what}")
            elif math.isnan(point.value) and self.conditions.misses_nan(point.name):
                self.log.note(f"{what}, which no stop condition covers; '{point.name} == nan' would")

    def _new_points(self) -> list[Point]:
        points: list[Point] = []
        try:
            points.extend(self.metrics.read_all())
        except OSError as error:  # a failing disk, or the command replaced the file: it goes on without
            if not self._metrics_failed:
                self.log.note(f"the metrics cannot be read: {error_text(error)}")
            self._metrics_failed = True
        return points

    def _look_for_reasons(self, elapsed_s: float) -> None:
        if self.timeout_s is not None and elapsed_s >= self.timeout_s:
            self._end(EndReason.TIMEOUT, f"not finished after {format_duration(self.timeout_s)}")
        now = self.timer()
        if now >= self._next_look:
            self._next_look = now + self.look_every_s
            self._look_for_wishes()
        if self._made_to_end_at is not None and now >= self._made_to_end_at:
            self.execution.kill()

    def _look_for_wishes(self) -> None:
        wanted = self.control.requested_end()
        if wanted is EndReason.KILL_REQUESTED:
            self._reason, self._message = wanted, None
            self.execution.kill()
        elif wanted is not None:
            self._end(wanted, None)

    def _end(self, reason: EndReason, message: str | None) -> None:
        """Ask the command to end, once, and remember why."""
        if self._reason is not None:
            return
        self._reason, self._message = reason, message
        self._made_to_end_at = self.timer() + self.grace_s
        self.execution.terminate()

    def _look_at_the_clock(self) -> None:
        now = self.timer()
        if now >= self._next_measure:
            # Often at first: measuring also notes which sessions the command's processes are in.
            self._next_measure = now + self._measure_wait_s
            self._measure_wait_s = min(2 * self._measure_wait_s, _MEASURE_EVERY_S)
            usage = self.execution.usage()
            if now >= self._next_note:
                self._next_note = now + _NOTE_USAGE_EVERY_S
                self.control.note_usage(usage)
        if self._unindexed and now >= self._next_index:
            self._next_index = now + _INDEX_EVERY_S
            self._unindexed = False
            self.control.index(self._summaries.values())
