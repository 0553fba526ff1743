"""What the supervisor of a distributed run and its processes tell one another: ranks, and progress.

Main entries: `ProgressFile`, which the supervisor makes, and `ProgressReporter` in each process. Without a
word from inside, a process that hangs looks like one that works, or waits for others. Invariant: reporting
never fails and never waits for anybody, and each report differs from the one before.
"""

import math
import os
import struct
from contextlib import suppress
from enum import IntEnum
from typing import NamedTuple

PROGRESS_VARIABLE = "CONJURE_PROGRESS_FD"
LISTEN_VARIABLE = "CONJURE_LISTEN_FD"  # of rank 0: a socket that is bound to ``MASTER_PORT``
_RECORD = struct.Struct("<QQQdd")


def inherited_descriptor(variable: str) -> int | None:
    """The descriptor that the supervisor gave this process, and no program that this process starts.

    Args:
        variable: Says which; it is removed.
    """
    value = os.environ.pop(variable, "")
    if not value.isdecimal():
        return None
    with suppress(OSError):
        os.set_inheritable(int(value), False)
        return int(value)
    return None


class Activity(IntEnum):
    """What a process does."""

    UNKNOWN = 0
    WORKING = 1
    WAITING = 2  # for the other processes


class RankProgress(NamedTuple):
    """The latest report of a process.

    Attributes:
        reports: How many it has made.
        pid: The process.
        activity: What it does.
        idle_limit_s: How long it may use no processor, while others wait for it, before it counts as hanging.
        cpu_limit_s: How much processor time it may have used in all when it next reports.
    """

    reports: int = 0
    pid: int = 0
    activity: Activity = Activity.UNKNOWN
    idle_limit_s: float = math.inf
    cpu_limit_s: float = math.inf


class ProgressFile:
    """The reports of all processes, in memory that they share with the supervisor.

    Args:
        processes: How many there will be.
    """

    def __init__(self, processes: int) -> None:
        self.descriptor = os.memfd_create("conjure-rank-progress")
        os.truncate(self.descriptor, processes * _RECORD.size)

    def read(self, rank: int) -> RankProgress:
        """The latest report of a process."""
        data = os.pread(self.descriptor, _RECORD.size, rank * _RECORD.size)
        reports, pid, activity, idle_limit_s, cpu_limit_s = _RECORD.unpack(data)
        known = Activity(activity) if activity in set(Activity) else Activity.UNKNOWN
        return RankProgress(reports, pid, known, idle_limit_s, cpu_limit_s)

    def close(self) -> None:
        """Give the memory back."""
        os.close(self.descriptor)


class ProgressReporter:
    """Reports how this process gets on; without a descriptor, to nobody.

    Args:
        rank: Number of this process.
        descriptor: That of the supervisor's `ProgressFile`.
    """

    def __init__(self, rank: int = 0, descriptor: int | None = None) -> None:
        self._offset, self._descriptor = rank * _RECORD.size, descriptor
        self._reports = 0

    def report(
        self, activity: Activity, *, idle_limit_s: float = math.inf, cpu_limit_s: float = math.inf
    ) -> None:
        """Tell what this process does from now on; see `RankProgress`."""
        if self._descriptor is None:
            return
        self._reports += 1
        record = _RECORD.pack(self._reports, os.getpid(), activity, idle_limit_s, cpu_limit_s)
        with suppress(OSError):
            os.pwrite(self._descriptor, record, self._offset)
