"""Limits are strict for work that a process has done before, and for no other."""

import math
import time

import pytest

from conjure.lm.training.distributed.progress_reports import ProgressReports
from conjure.rank_protocol import Activity


class Recorder:
    """Takes down what is reported."""

    def report(self, activity, *, idle_limit_s=math.inf, cpu_limit_s=math.inf):
        self.latest = (activity, idle_limit_s, cpu_limit_s)


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def reports(recorder):
    return ProgressReports(recorder)


def test_work_is_limited_by_the_longest_of_its_kind(reports, recorder, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "process_time", lambda: clock[0])
    for seconds in (2.0, 1.0):
        with reports.working("step"):
            clock[0] += seconds
    with reports.working("step"):
        assert recorder.latest == (Activity.WORKING, 5.0, 103.0 + 20.0)
    with reports.working("evaluation"):
        assert recorder.latest == (Activity.WORKING, 120.0, math.inf)


def test_short_work_may_take_some_seconds(reports, recorder, monkeypatch):
    monkeypatch.setattr(time, "process_time", lambda: 100.0)
    for _ in range(2):
        with reports.working("step"):
            pass
    with reports.working("step"):
        assert recorder.latest == (Activity.WORKING, 5.0, 108.0)
        with reports.waiting():
            assert recorder.latest[0] is Activity.WAITING
        assert recorder.latest == (Activity.WORKING, 5.0, 108.0)
    assert recorder.latest == (Activity.WORKING, 120.0, math.inf)


def test_a_failed_attempt_is_no_measure(reports, recorder):
    with pytest.raises(ValueError, match="no"), reports.working("step"):
        raise ValueError("no")
    with reports.working("step"):
        assert recorder.latest == (Activity.WORKING, 120.0, math.inf)


def test_nothing_is_expected_before_the_work_and_after_it(reports, recorder):
    with reports.waiting():
        assert recorder.latest == (Activity.WAITING, math.inf, math.inf)
    assert recorder.latest[0] is Activity.UNKNOWN
    with reports.working("step"):
        pass
    reports.end()
    assert recorder.latest[0] is Activity.UNKNOWN
