"""What a family of processes uses of the machine.

Main entries: `UsageMeter`, `measure`. Invariant: totals never go down when a process ends, because what each
one had used when it was last seen is kept.
"""

import os
import resource
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from conjure.runs.process import Process
from conjure.runs.record import Usage

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One process at one moment."""

    cpu_s: float = 0.0
    memory_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


def measure(pid: int) -> Measurement:
    """What a process has used so far and holds now; nothing if it is gone or not ours to look at."""
    cpu_s, memory_bytes, disk = 0.0, 0, {}
    with suppress(OSError, ValueError):
        after_name = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        cpu_s = (int(after_name[11]) + int(after_name[12])) / _TICKS_PER_S
        memory_bytes = int(after_name[21]) * _PAGE_BYTES
    with suppress(OSError, ValueError):
        text = (_PROC / str(pid) / "io").read_text()
        disk = dict(line.split(": ") for line in text.splitlines())
    return Measurement(cpu_s, memory_bytes, int(disk.get("read_bytes", 0)), int(disk.get("write_bytes", 0)))


class UsageMeter:
    """Adds up what a run's processes use while it goes on."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, str], Measurement] = {}
        self._peak_memory_bytes = 0
        self._cpu_before_s = _children_cpu_s()

    def look_at(self, processes: Iterable[Process]) -> None:
        """Take in how they stand now."""
        now = {(process.pid, process.started): measure(process.pid) for process in processes}
        self._seen.update(now)
        self.note_peak(sum(measurement.memory_bytes for measurement in now.values()))

    def note_peak(self, memory_bytes: int) -> None:
        """Take in a peak that somebody else saw."""
        self._peak_memory_bytes = max(self._peak_memory_bytes, memory_bytes)

    def usage(self) -> Usage:
        """The totals and peaks so far.

        Processor time is the larger of what was seen while they ran and what the kernel charged for those
        that have ended, so short commands count too.
        """
        seen = self._seen.values()
        return Usage(
            cpu_s=round(max(sum(one.cpu_s for one in seen), _children_cpu_s() - self._cpu_before_s), 3),
            peak_memory_bytes=self._peak_memory_bytes,
            read_bytes=sum(one.read_bytes for one in seen),
            written_bytes=sum(one.written_bytes for one in seen),
        )


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
