"""A process that hangs is told from one that works: real processes that sleep, compute or are stopped."""

import os
import signal
import subprocess
import sys

import pytest

from conjure.rank_protocol import (
    Activity,
    ProgressFile,
    ProgressReporter,
    RankProgress,
    inherited_descriptor,
)
from conjure.runs.host import hang_detector
from conjure.runs.host.hang_detector import Hang, HangDetector, RankObserver, RankState
from conjure.runs.host.process import descendants, find_process
from conjure.runs.host.process_usage import measure
from support.casting import wait_until

WORKING, WAITING = Activity.WORKING, Activity.WAITING
SLEEP = "import time; time.sleep(600)"
COMPUTE = "while True: pass"
HAVE_ONE_COMPUTE = "import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', 'while True: pass'])"
REPORT = "from conjure.rank_protocol import Activity, ProgressReporter; ProgressReporter({}, {})"


class Ranks:
    """Processes that report what they are told to, and then do something."""

    def __init__(self):
        self.progress = ProgressFile(2)
        self.observer, self.detector = RankObserver(self.progress), HangDetector()
        self.processes = []

    def start(self, then, activity=None, **limits):
        """Start the next rank, and wait until it has reported."""
        rank, lines = len(self.processes), then
        if activity is not None:
            given = "".join(f", {name}={value}" for name, value in limits.items())
            reporter = REPORT.format(rank, self.progress.descriptor)
            lines = f"{reporter}.report(Activity.{activity.name}{given})\n{then}"
        self.processes.append(
            subprocess.Popen(
                [sys.executable, "-c", lines],
                pass_fds=[self.progress.descriptor],
                start_new_session=True,
            )
        )
        if activity is not None:
            wait_until(lambda: self.progress.read(rank).activity is activity, "the report")

    def family(self, rank):
        pid = self.processes[rank].pid
        return [find_process(pid), *descendants(pid)]

    def look(self):
        families = {rank: self.family(rank) for rank in range(len(self.processes))}
        return self.detector.judge(self.observer.look(families))

    def found(self):
        """What the detector finds sooner or later."""
        seen = []
        wait_until(lambda: seen.append(self.look()) or seen[-1], "a hang")
        return seen[-1]

    def nothing_found(self):
        return [self.look() for _ in range(20)] == [None] * 20

    def compute(self, rank):
        """Wait until the rank, or its child, is in its loop."""
        wait_until(lambda: measure(self.family(rank)[-1].pid).cpu_s > 0.3, "some computing")


@pytest.fixture
def ranks(monkeypatch):
    monkeypatch.setattr(hang_detector, "_WAITED_S", 0.05)
    monkeypatch.setattr(hang_detector, "_STOPPED_S", 0.05)
    ranks = Ranks()
    yield ranks
    for process in ranks.processes:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    ranks.progress.close()


def test_reports_arrive_by_rank_and_the_latest_counts():
    progress = ProgressFile(3)
    reporter = ProgressReporter(1, progress.descriptor)
    reporter.report(WAITING)
    reporter.report(WORKING, idle_limit_s=2.0, cpu_limit_s=3.5)
    assert progress.read(1) == RankProgress(2, os.getpid(), WORKING, 2.0, 3.5)
    assert progress.read(0).activity is progress.read(2).activity is Activity.UNKNOWN
    progress.close()
    reporter.report(WAITING)  # nobody listens any more, which is no error


def test_a_descriptor_is_taken_once_and_kept_from_other_programs(monkeypatch):
    progress = ProgressFile(1)
    os.set_inheritable(progress.descriptor, True)
    monkeypatch.setenv("THE_FD", str(progress.descriptor))
    assert inherited_descriptor("THE_FD") == progress.descriptor
    assert not os.get_inheritable(progress.descriptor)
    assert inherited_descriptor("THE_FD") is None
    progress.close()
    monkeypatch.setenv("THE_FD", str(progress.descriptor))
    assert inherited_descriptor("THE_FD") is None  # it was closed on the way


def test_a_process_that_sleeps_while_another_waits_hangs(ranks):
    ranks.start(SLEEP, WAITING)
    ranks.start(SLEEP, WORKING, idle_limit_s=0.05)
    rank, words = ranks.found()
    assert rank == 1
    assert words.startswith("hangs: it has done nothing for")


def test_a_process_that_sleeps_within_its_limit_does_not_hang(ranks):
    ranks.start(SLEEP, WAITING)
    ranks.start(SLEEP, WORKING, idle_limit_s=600.0)
    assert ranks.nothing_found()


def test_a_process_that_sleeps_while_nobody_waits_does_not_hang(ranks):
    ranks.start(SLEEP, WORKING, idle_limit_s=1e-6)
    ranks.start(SLEEP, WORKING, idle_limit_s=1e-6)
    assert ranks.nothing_found()


def test_processes_that_report_nothing_are_not_judged(ranks):
    ranks.start(SLEEP, WAITING)
    ranks.start(SLEEP)
    assert ranks.nothing_found()


@pytest.mark.parametrize("command", [COMPUTE, HAVE_ONE_COMPUTE])
def test_a_process_that_computes_or_has_another_compute_does_not_hang(ranks, command):
    ranks.start(SLEEP, WAITING)
    ranks.start(command, WORKING, idle_limit_s=1e-6)
    ranks.compute(1)
    assert ranks.nothing_found()


def test_a_process_that_has_used_more_processor_time_than_it_may_hangs(ranks):
    ranks.start(SLEEP, WAITING)
    ranks.start(COMPUTE, WORKING, cpu_limit_s=0.2)
    words = "hangs: it has been computing much longer than in earlier steps while others wait"
    assert ranks.found() == Hang(1, words)


def test_processor_time_of_its_children_does_not_count_against_a_process(ranks):
    ranks.start(SLEEP, WAITING)
    ranks.start(HAVE_ONE_COMPUTE, WORKING, cpu_limit_s=30.0)
    ranks.compute(1)
    own = measure(ranks.processes[1].pid).cpu_s
    ranks.observer = RankObserver(ranks.progress)
    assert own < 30.0
    assert ranks.nothing_found()


def test_processes_that_all_wait_hang_without_one_to_blame(ranks):
    ranks.start(SLEEP, WAITING)
    ranks.start(SLEEP, WAITING)
    assert ranks.found() == Hang(None, "hang: each waits for the others")


def test_a_stopped_process_hangs_whatever_it_reports(ranks):
    ranks.start(SLEEP)
    ranks.start(SLEEP)
    os.kill(ranks.processes[1].pid, signal.SIGSTOP)
    assert ranks.found() == Hang(1, "hangs: it was stopped by a signal")


def test_processes_that_are_all_stopped_are_paused_and_start_anew(ranks, monkeypatch):
    ranks.start(SLEEP, WAITING)
    ranks.start(SLEEP, WORKING, idle_limit_s=0.3)
    ranks.look()
    for process in ranks.processes:
        os.kill(process.pid, signal.SIGSTOP)
    wait_until(lambda: all(ranks.family(rank)[0].is_stopped for rank in (0, 1)), "the pause")
    monkeypatch.setattr(hang_detector, "_STOPPED_S", 1e-6)
    assert ranks.nothing_found()
    for process in ranks.processes:
        os.kill(process.pid, signal.SIGCONT)
    wait_until(lambda: not any(ranks.family(rank)[0].is_stopped for rank in (0, 1)), "the end of the pause")
    assert ranks.look() is None


def test_a_pause_of_the_whole_machine_is_no_hang(ranks, monkeypatch):
    ranks.start(SLEEP, WAITING)
    ranks.start(SLEEP, WORKING, idle_limit_s=5.0)
    ranks.look()
    ranks.observer._looked_at -= 3600
    ranks.detector._looked_at -= 3600
    assert ranks.look() is None


def test_a_rank_that_waits_for_another_machine_is_judged_with_the_ranks_there():
    waiting = RankState(WAITING, unchanged_s=60.0, idle_s=60.0)
    idle = RankState(WORKING, idle_limit_s=5.0, idle_s=6.0)
    assert HangDetector().judge({0: waiting, 1: RankState(WORKING)}) is None
    assert HangDetector().judge({0: waiting, 1: idle}).rank == 1
    assert HangDetector().judge({0: waiting, 1: waiting}).rank is None


def test_between_machines_all_may_wait_for_a_minute_and_an_outage_counts_for_nothing():
    waiting = RankState(WAITING, unchanged_s=60.0, idle_s=60.0)
    detector = HangDetector(nodes=2)

    def look(ranks):
        detector._looked_at -= 3600  # the longest pause counts for a second
        return detector.judge(ranks)

    for between in (None, {0: waiting, 1: RankState(WORKING)}):
        assert [look({0: waiting, 1: waiting}) for _ in range(60)] == [None] * 60
        assert look(between) is None
    assert [look({0: waiting, 1: waiting}) for _ in range(60)] == [None] * 60
    assert look({0: waiting, 1: waiting}) == Hang(None, "hang: each waits for the others")


def test_a_machine_whose_ranks_are_all_stopped_hangs_if_others_go_on(monkeypatch):
    monkeypatch.setattr(hang_detector, "_STOPPED_S", 0.0)
    stopped = RankState(is_stopped=True)
    assert HangDetector().judge({0: RankState(), 1: stopped}) == Hang(1, "hangs: it was stopped by a signal")
    assert HangDetector().judge({0: stopped, 1: stopped}) is None
