import json
import math
import os

import pytest

from conjure.runs.executors.command import Exit
from conjure.runs.lifecycle.command_monitor import CommandMonitor
from conjure.runs.schema.process_facts import Usage
from conjure.runs.schema.status import EndReason
from conjure.runs.schema.stop_conditions import StopWatch, parse_stop_condition
from conjure.runs.telemetry.logs import NOTE, STDOUT, LogTail, LogWriter
from conjure.runs.telemetry.metric_column_file import ColumnWriter, read_column, read_index
from conjure.runs.telemetry.metrics import MetricTail
from conjure.runs.telemetry.rungs import RungLadder


class Machine:
    """A clock, a command that follows a script, and a desk to ask: one second per look."""

    def __init__(self, script=(), *, ignores_sigterm=False):
        self.now = 1000.0
        self.script = dict(script)
        self.ignores_sigterm = ignores_sigterm
        self.signals = []
        self.wanted = {}
        self.asked = []
        self.indexed = []
        self.noted = []
        self.measured = []
        self.rungs = []
        self.exit = None

    def timer(self):
        return self.now

    # the execution
    def read(self, _timeout_s):
        self.now += 1.0
        step = self.script.get(self.now - 1000.0)
        if isinstance(step, Exit):
            self.exit = step
        return [(STDOUT, step)] if isinstance(step, bytes) else []

    def terminate(self):
        self.signals.append(("term", self.now - 1000.0))
        if not self.ignores_sigterm:
            self.exit = Exit(signal=15)

    def kill(self):
        self.signals.append(("kill", self.now - 1000.0))
        self.exit = Exit(signal=9)

    def usage(self):
        self.measured.append(self.now - 1000.0)
        return Usage(cpu_s=self.now - 1000.0)

    # the desk
    def requested_end(self):
        self.asked.append(self.now - 1000.0)
        return self.wanted.get(self.now - 1000.0)

    def note_usage(self, usage):
        self.noted.append(usage.cpu_s)

    def note_rung(self, rung, value):
        self.rungs.append((rung, value))

    def index(self, summaries):
        self.indexed.append({summary.name: summary.points for summary in summaries})


def watch(machine, tmp_path, *, conditions=(), **given):
    log = LogWriter(tmp_path / "log.jsonl", timer=machine.timer)
    return CommandMonitor(
        machine,
        log,
        MetricTail(tmp_path / "metrics.jsonl"),
        machine,
        StopWatch(map(parse_stop_condition, conditions)),
        timer=machine.timer,
        **given,
    ).until_end()


def report(tmp_path, *points):
    with (tmp_path / "metrics.jsonl").open("a") as file:
        for name, step, value in points:
            file.write(json.dumps({"name": name, "step": step, "value": value, "time": 0}) + "\n")


def test_a_command_that_ends_by_itself(tmp_path):
    machine = Machine({1: b"hello\n", 3: Exit(code=7)})
    result = watch(machine, tmp_path)
    assert (result.exit, result.reason, result.command_s) == (Exit(code=7), None, 3.0)
    assert [entry.text for entry in LogTail(tmp_path / "log.jsonl").read()] == ["hello\n"]
    assert result.usage == Usage(cpu_s=3.0)


def test_a_line_without_end_is_in_the_log_when_the_command_has_ended(tmp_path):
    watch(Machine({1: b"no end", 2: Exit(code=0)}), tmp_path)
    assert [entry.text for entry in LogTail(tmp_path / "log.jsonl").read()] == ["no end"]


def test_the_metrics_are_kept_as_columns_when_the_command_has_ended(tmp_path):
    report(tmp_path, *(("loss", step, step / 2) for step in range(3000)))
    watch(Machine({2: Exit(code=0)}), tmp_path, columns=ColumnWriter(tmp_path))
    with (tmp_path / "metrics.jsonl").open("rb") as metrics:
        size = (tmp_path / "metrics.jsonl").stat().st_size
        index = read_index(tmp_path / "metrics.columns", metrics, size)
    assert index.source_bytes == size
    column = read_column(tmp_path / "metrics.columns", index.identity, index.metrics["loss"])
    assert list(column.values) == [step / 2 for step in range(3000)]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_of_metrics_is_told_of_once_and_ends_nothing(tmp_path, make):
    make(tmp_path / "metrics.jsonl")
    assert watch(Machine({3: Exit(code=0)}), tmp_path).exit == Exit(code=0)
    (note,) = notes(tmp_path)
    assert note.startswith("the metrics cannot be read: ")


def test_a_timeout_stops_it(tmp_path):
    machine = Machine()
    result = watch(machine, tmp_path, timeout_s=90.0)
    assert (result.reason, result.exit) == (EndReason.TIMEOUT, Exit(signal=15))
    assert machine.signals == [("term", 90.0)]
    assert result.message == "not finished after 1m 30s"


def test_one_that_ignores_sigterm_is_killed_after_its_grace(tmp_path):
    machine = Machine(ignores_sigterm=True)
    result = watch(machine, tmp_path, timeout_s=10.0)
    assert machine.signals == [("term", 10.0), ("kill", 40.0)]
    assert (result.reason, result.exit) == (EndReason.TIMEOUT, Exit(signal=9))


def test_a_wish_to_stop_is_heard(tmp_path):
    machine = Machine()
    machine.wanted = {5.0: EndReason.STOP_REQUESTED}
    result = watch(machine, tmp_path)
    assert machine.signals == [("term", 5.0)]
    assert result.reason is EndReason.STOP_REQUESTED


def test_a_wish_that_costs_others_time_to_look_for_is_looked_for_seldom(tmp_path):
    machine = Machine(ignores_sigterm=True)
    machine.wanted = {9.0: EndReason.STOP_REQUESTED}
    result = watch(machine, tmp_path, look_every_s=4.0, grace_s=2.0)
    assert machine.asked == [1.0, 5.0, 9.0]
    assert machine.signals == [("term", 9.0), ("kill", 11.0)]
    assert result.reason is EndReason.STOP_REQUESTED


def test_a_kill_outranks_a_stop_that_is_under_way(tmp_path):
    machine = Machine(ignores_sigterm=True)
    machine.wanted = {5.0: EndReason.STOP_REQUESTED, 8.0: EndReason.KILL_REQUESTED}
    result = watch(machine, tmp_path)
    assert machine.signals == [("term", 5.0), ("kill", 8.0)]
    assert result.reason is EndReason.KILL_REQUESTED


def test_the_first_reason_counts(tmp_path):
    machine = Machine(ignores_sigterm=True)
    machine.wanted = {12.0: EndReason.STOP_REQUESTED}
    result = watch(machine, tmp_path, timeout_s=10.0)
    assert result.reason is EndReason.TIMEOUT


def test_a_command_that_ends_by_itself_is_not_stopped_afterwards(tmp_path):
    machine = Machine({5: Exit(code=0)})
    machine.wanted = {5.0: EndReason.STOP_REQUESTED}
    result = watch(machine, tmp_path, timeout_s=5.0)
    assert result.reason is None
    assert machine.signals == []


def test_a_stop_condition_stops_it_and_says_which(tmp_path):
    report(tmp_path, ("loss", 0, 1.0), ("loss", 1, 9.5))
    machine = Machine()
    result = watch(machine, tmp_path, conditions=["loss > 9"])
    assert result.reason is EndReason.STOP_CONDITION
    assert result.message == "loss > 9: loss was 9.5 at step 1"


def test_the_last_points_are_indexed_even_of_a_short_command(tmp_path):
    report(tmp_path, ("loss", 0, 1.0), ("loss", 1, 2.0))
    machine = Machine({1: Exit(code=0)})
    watch(machine, tmp_path)
    assert machine.indexed[-1] == {"loss": 2}


def test_the_index_is_kept_up_to_date_while_points_come_and_no_longer(tmp_path):
    machine = Machine({6: Exit(code=0)})
    read = machine.read

    def reporting(timeout_s):
        if machine.now < 1003.0:
            report(tmp_path, ("loss", int(machine.now - 1000.0), 1.0))
        return read(timeout_s)

    machine.read = reporting
    watch(machine, tmp_path)
    assert machine.indexed == [{"loss": 1}, {"loss": 2}, {"loss": 3}, {"loss": 3}]


def test_a_command_is_measured_often_at_first_and_then_every_two_seconds(tmp_path):
    machine = Machine({12: Exit(code=0)})
    watch(machine, tmp_path)
    assert machine.measured == [1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 9.0, 11.0, 12.0]
    assert machine.noted == [2.0, 7.0]  # for who looks at it meanwhile


def test_what_ends_at_once_is_measured_and_noted_at_its_end_alone(tmp_path):
    machine = Machine({1: Exit(code=0)})
    assert watch(machine, tmp_path).usage == Usage(cpu_s=1.0)
    assert (machine.measured, machine.noted) == ([1.0], [])


def test_of_a_command_that_others_ended_its_log_says_so(tmp_path):
    machine = Machine({1: Exit(code=5, message="rank 1 of 2 failed with exit status 5")})
    assert watch(machine, tmp_path).message == "rank 1 of 2 failed with exit status 5"
    assert notes(tmp_path) == ["rank 1 of 2 failed with exit status 5\n"]


def test_a_stop_condition_of_a_metric_that_never_came_is_told_of(tmp_path):
    report(tmp_path, ("loss", 0, 1.0))
    watch(Machine({1: Exit(code=0)}), tmp_path, conditions=["loss > 9", "los > 9"])
    assert notes(tmp_path) == ["stop condition 'los > 9': the run reported no metric 'los'\n"]


def test_the_steps_at_which_trials_are_compared_are_noted(tmp_path):
    report(tmp_path, *(("loss", step, float(step)) for step in range(5)), ("other", 9, 0.5))
    machine = Machine({1: Exit(code=0)})
    watch(machine, tmp_path, ladder=RungLadder("loss"))
    assert machine.rungs == [(1, 1.0), (2, 2.0), (4, 4.0)]


def notes(tmp_path):
    return [entry.text for entry in LogTail(tmp_path / "log.jsonl").read() if entry.stream == NOTE]


def test_a_nan_that_no_stop_condition_asks_for_is_told_of_once(tmp_path):
    points = [("loss", 0, 1.0), ("other", 0, math.nan), ("loss", 1, math.nan), ("loss", 2, math.nan)]
    report(tmp_path, *points)
    watch(Machine({1: Exit(code=0)}), tmp_path, conditions=["loss > 9"])
    assert notes(tmp_path) == [
        "loss was nan at step 1, which no stop condition covers; 'loss == nan' would\n"
    ]


def test_a_clock_that_jumps_is_not_looked_at(tmp_path):
    # The log's clock is the day's; limits go by the timer alone.
    machine = Machine({3: Exit(code=0)})
    log = LogWriter(tmp_path / "log.jsonl", clock=iter([1e9, -1e9, 5.0]).__next__, timer=machine.timer)
    result = CommandMonitor(
        machine, log, MetricTail(tmp_path / "metrics.jsonl"), machine, timeout_s=60.0, timer=machine.timer
    ).until_end()
    assert (result.reason, result.command_s) == (None, pytest.approx(3.0))
