"""Telling a process that hangs from one that works, among processes that wait for one another.

Main entry: `HangDetector`. Three things are seen: a process was stopped by a signal; it neither computes nor
waits for a disk although others wait for it; or it computes for longer than it may. The last two need the
processes' own reports (`conjure.rank_protocol`). Invariant: slow work is no hang. A process that is short of
processor, memory or disk is runnable or waits for the kernel, and only processor time that it got counts as
used; and only what was seen at many looks in a row counts, so that a pause of the whole machine does not.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from conjure.rank_protocol import Activity, ProgressFile, RankProgress
from conjure.runs.host.process import Process
from conjure.runs.host.process_usage import Measurement, measure

_STOPPED_S = 4.0
_WAITED_S = 5.0
_LONGEST_LOOK_S = 1.0
# A thread that wakes up now and then to look at a clock uses so much between two looks; who computes, more.
_IDLE_CPU_S = 0.015
_PROC = Path("/proc")
# Runnable; waiting for a disk, swapped memory or the like; or held by a debugger, so somebody looks after it.
_BUSY_STATES = (b"R", b"D", b"t")


class Hang(NamedTuple):
    """A process that hangs: its rank, or None if all wait for one another; and what was seen."""

    rank: int | None
    words: str


@dataclass(slots=True)
class _Observation:
    """How a rank was found at the last look, and for how long what followed has been so."""

    progress: RankProgress
    used: Mapping[int, Measurement]
    unchanged_s: float = 0.0
    idle_s: float = 0.0
    stopped_s: float = 0.0


class HangDetector:
    """Looks at processes time and again.

    Args:
        progress: What they report; None if they do not.
    """

    def __init__(self, progress: ProgressFile | None) -> None:
        self._progress = progress
        self._observed: dict[int, _Observation] = {}
        self._looked_at = time.monotonic()

    def look(self, families: Mapping[int, Sequence[Process]]) -> Hang | None:
        """The process that hangs, if one does.

        Args:
            families: By rank, the process and its descendants; only those that are to go on.
        """
        now = time.monotonic()
        passed_s = min(now - self._looked_at, _LONGEST_LOOK_S)
        self._looked_at = now
        stopped = {rank for rank, family in families.items() if any(each.is_stopped for each in family)}
        if len(stopped) == len(families):  # somebody has paused them
            self._observed.clear()
            return None
        self._observed = {
            rank: self._observe(rank, family, passed_s, is_stopped=rank in stopped)
            for rank, family in families.items()
        }
        return self._stopped() or self._waited_for() or self._deadlocked()

    def _observe(
        self, rank: int, family: Sequence[Process], passed_s: float, *, is_stopped: bool
    ) -> _Observation:
        progress, used = RankProgress(), {}
        if self._progress is not None:
            progress = self._progress.read(rank)
            used = {each.pid: measure(each.pid) for each in family}
        before = self._observed.get(rank)
        found = _Observation(progress, used)
        if before is None:
            return found
        if is_stopped:
            found.stopped_s = before.stopped_s + passed_s
        if progress == before.progress and self._progress is not None:
            found.unchanged_s = before.unchanged_s + passed_s
            if not _has_worked(before.used, used):
                found.idle_s = before.idle_s + passed_s
        return found

    def _stopped(self) -> Hang | None:
        for rank, seen in self._observed.items():
            if seen.stopped_s >= _STOPPED_S:
                return Hang(rank, "hangs: it was stopped by a signal")
        return None

    def _waited_for(self) -> Hang | None:
        """A rank that has others wait and does not get on."""
        for rank, seen in self._observed.items():
            others = [other for each, other in self._observed.items() if each != rank]
            if seen.progress.activity is not Activity.WORKING or not any(map(_has_waited, others)):
                continue
            if seen.idle_s >= seen.progress.idle_limit_s:
                return Hang(rank, f"hangs: it has done nothing for {seen.idle_s:.0f} s while others wait")
            own = seen.used.get(seen.progress.pid, Measurement())
            if own.cpu_s >= seen.progress.cpu_limit_s:
                return Hang(rank, "hangs: it has computed much longer than before while others wait")
        return None

    def _deadlocked(self) -> Hang | None:
        if all(_has_waited(seen) and seen.idle_s >= _WAITED_S for seen in self._observed.values()):
            return Hang(None, "hang: each waits for the others")
        return None


def _has_waited(seen: _Observation) -> bool:
    return seen.progress.activity is Activity.WAITING and seen.unchanged_s >= _WAITED_S


def _has_worked(before: Mapping[int, Measurement], after: Mapping[int, Measurement]) -> bool:
    """Whether processes have used the machine between two looks, or wait to be let."""
    if before.keys() != after.keys():
        return True
    for pid, now in after.items():
        then = before[pid]
        if now.cpu_s - then.cpu_s > _IDLE_CPU_S or now.read_bytes > then.read_bytes:
            return True
    return any(map(_has_busy_thread, after))


def _has_busy_thread(pid: int) -> bool:
    try:
        stats = [(each / "stat").read_bytes() for each in (_PROC / str(pid) / "task").iterdir()]
    except OSError:  # it has just ended
        return True
    return any(stat.rpartition(b")")[2].split()[0] in _BUSY_STATES for stat in stats)
