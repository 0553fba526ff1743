"""Telling a process that hangs from one that works, among processes that wait for one another.

Main entry: `HangDetector`, which judges by what a `RankObserver` sees on each machine. Three things are seen:
a process was stopped by a signal; it neither computes nor waits for a disk although others wait for it; or it
computes for longer than it may. The last two need the processes' own reports (`conjure.rank_protocol`).
Invariant: slow work is no hang. A process that is short of processor, memory or disk is runnable or waits for
the kernel, and only processor time that it got counts as used; and only what was seen at many looks in a row
counts, so that a pause of the whole machine does not.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from conjure.core.units import format_duration
from conjure.rank_protocol import Activity, ProgressFile, RankProgress
from conjure.runs.host.process import Process
from conjure.runs.host.process_usage import Measurement, measure

_STOPPED_S = 4.0
_WAITED_S = 5.0
# Between machines, an exchange takes as long as the network lets it, and uses next to no processor time.
_DEADLOCKED_S = 60.0
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


class RankState(NamedTuple):
    """How a rank was found at a look, and for how long it has been so.

    Attributes:
        activity: What it says that it does.
        idle_limit_s: See `RankProgress`.
        cpu_limit_s: See `RankProgress`.
        cpu_s: Processor time of the process that said so.
        unchanged_s: For how long it has said nothing else.
        idle_s: For how long it has neither computed nor waited for a disk.
        is_stopped: Whether it, or a descendant, was stopped by a signal.
    """

    activity: Activity = Activity.UNKNOWN
    idle_limit_s: float = math.inf
    cpu_limit_s: float = math.inf
    cpu_s: float = 0.0
    unchanged_s: float = 0.0
    idle_s: float = 0.0
    is_stopped: bool = False

    @property
    def has_waited(self) -> bool:
        """Whether it has long waited for others."""
        return self.activity is Activity.WAITING and self.unchanged_s >= _WAITED_S


@dataclass(slots=True)
class _Observation:
    """What was seen of a rank at the last look."""

    progress: RankProgress
    used: Mapping[int, Measurement]
    state: RankState


class RankObserver:
    """Looks at the processes of one machine time and again.

    Args:
        progress: What they report; None if they do not.
    """

    def __init__(self, progress: ProgressFile | None) -> None:
        self._progress = progress
        self._observed: dict[int, _Observation] = {}
        self._looked_at = time.monotonic()

    def look(self, families: Mapping[int, Sequence[Process]]) -> dict[int, RankState]:
        """How the ranks are now.

        Args:
            families: By rank, the process and its descendants; only those that are to go on.
        """
        now = time.monotonic()
        passed_s = min(now - self._looked_at, _LONGEST_LOOK_S)
        self._looked_at = now
        stopped = {rank for rank, family in families.items() if any(each.is_stopped for each in family)}
        if len(stopped) == len(families):  # somebody may have paused them: that time counts for nothing
            self._observed.clear()
            return dict.fromkeys(families, RankState(is_stopped=True))
        self._observed = {
            rank: self._observe(rank, family, passed_s, is_stopped=rank in stopped)
            for rank, family in families.items()
        }
        return {rank: seen.state for rank, seen in self._observed.items()}

    def _observe(
        self, rank: int, family: Sequence[Process], passed_s: float, *, is_stopped: bool
    ) -> _Observation:
        progress, used = RankProgress(), {}
        if self._progress is not None:
            progress = self._progress.read(rank)
            used = {each.pid: measure(each.pid) for each in family}
        unchanged_s = idle_s = 0.0
        before = self._observed.get(rank)
        if before is not None and progress == before.progress and self._progress is not None:
            unchanged_s = before.state.unchanged_s + passed_s
            if not _has_worked(before.used, used):
                idle_s = before.state.idle_s + passed_s
        state = RankState(
            progress.activity,
            progress.idle_limit_s,
            progress.cpu_limit_s,
            used.get(progress.pid, Measurement()).cpu_s,
            unchanged_s,
            idle_s,
            is_stopped,
        )
        return _Observation(progress, used, state)


class HangDetector:
    """Judges by what is seen of all ranks, time and again.

    Args:
        nodes: On how many machines they are.
    """

    def __init__(self, nodes: int = 1) -> None:
        self._stopped_s: dict[int, float] = {}
        self._deadlocked_s: float | None = None
        self._deadlock_limit_s = _DEADLOCKED_S if nodes > 1 else 0.0
        self._looked_at = time.monotonic()

    def judge(self, ranks: Mapping[int, RankState] | None) -> Hang | None:
        """The process that hangs, if one does.

        Args:
            ranks: How all are that are to go on; None where that is not known now.
        """
        now = time.monotonic()
        passed_s = min(now - self._looked_at, _LONGEST_LOOK_S)
        self._looked_at = now
        if ranks is None:
            self._deadlocked_s = None  # what comes after an outage was seen during it
            return None
        stopped = [rank for rank, state in ranks.items() if state.is_stopped]
        if len(stopped) == len(ranks):  # somebody has paused them
            self._stopped_s.clear()
            self._deadlocked_s = None
            return None
        self._stopped_s = {
            rank: self._stopped_s[rank] + passed_s if rank in self._stopped_s else 0.0 for rank in stopped
        }
        return self._stopped() or _waited_for(ranks) or self._deadlock(ranks, passed_s)

    def _stopped(self) -> Hang | None:
        for rank, stopped_s in self._stopped_s.items():
            if stopped_s >= _STOPPED_S:
                return Hang(rank, "hangs: it was stopped by a signal")
        return None

    def _deadlock(self, ranks: Mapping[int, RankState], passed_s: float) -> Hang | None:
        if not all(state.has_waited and state.idle_s >= _WAITED_S for state in ranks.values()):
            self._deadlocked_s = None
            return None
        self._deadlocked_s = 0.0 if self._deadlocked_s is None else self._deadlocked_s + passed_s
        is_over = self._deadlocked_s >= self._deadlock_limit_s
        return Hang(None, "hang: each waits for the others") if is_over else None


def _waited_for(ranks: Mapping[int, RankState]) -> Hang | None:
    """A rank that has others wait and does not get on."""
    for rank, state in ranks.items():
        others_wait = any(other.has_waited for each, other in ranks.items() if each != rank)
        if state.activity is not Activity.WORKING or not others_wait:
            continue
        if state.idle_s >= state.idle_limit_s:
            idle = format_duration(state.idle_s)
            return Hang(rank, f"hangs: it has done nothing for {idle} while others wait")
        if state.cpu_s >= state.cpu_limit_s:
            longer = "much longer than in earlier steps"
            return Hang(rank, f"hangs: it has been computing {longer} while others wait")
    return None


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
