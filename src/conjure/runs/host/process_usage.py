"""What a family of processes uses of the machine.

Main entries: `UsageMeter`, `measure`. Invariant: totals never go down when a process ends, and nothing is
counted twice, though a process takes over what its ended children read and wrote.
"""

import os
import resource
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from conjure.runs.host.gpu_meter import GpuMeter, memory_of
from conjure.runs.host.process import Process
from conjure.runs.schema.process_facts import Usage

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
    cpu_s, memory_bytes = 0.0, 0
    with suppress(OSError, ValueError):
        after_name = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        cpu_s = (int(after_name[11]) + int(after_name[12])) / _TICKS_PER_S
        memory_bytes = int(after_name[21]) * _PAGE_BYTES
    disk = _disk(_PROC / str(pid) / "io")
    return Measurement(cpu_s, memory_bytes, disk.read_bytes, disk.written_bytes)


class UsageMeter:
    """Adds up what a run's processes use while it goes on.

    Args:
        gpu_ids: GPUs that are the run's alone.
    """

    def __init__(self, gpu_ids: Iterable[int] = ()) -> None:
        self._gpu_ids = tuple(gpu_ids)
        self._gpus: GpuMeter | None = None
        self._looks = 0
        self._seen: dict[tuple[int, str], Measurement] = {}
        self._peak_memory_bytes = 0
        self._peak_gpu_memory_bytes: int | None = None
        self._disk = _Disk()
        self._cpu_before_s = _children_cpu_s()
        self._disk_before = _children_disk()

    def look_at(self, processes: Iterable[Process]) -> None:
        """Take in how they stand now."""
        now = {process.identity: measure(process.pid) for process in processes}
        self._seen.update(now)
        self.note_peak(sum(measurement.memory_bytes for measurement in now.values()))
        disk = self._ended_disk()
        for one in now.values():
            disk += _Disk(one.read_bytes, one.written_bytes)
        self._disk = self._disk.at_least(disk)
        self._look_at_gpus(pid for pid, _ in now)
        self._looks += 1

    def note_peak(self, memory_bytes: int) -> None:
        """Take in a peak that somebody else saw."""
        self._peak_memory_bytes = max(self._peak_memory_bytes, memory_bytes)

    def usage(self) -> Usage:
        """The totals and peaks so far.

        They are the larger of what was seen while the processes ran and what the kernel charged for those
        that have ended, so short commands count too.
        """
        cpu_s = max(sum(one.cpu_s for one in self._seen.values()), _children_cpu_s() - self._cpu_before_s)
        disk = self._disk.at_least(self._ended_disk())
        return Usage(
            cpu_s=round(cpu_s, 3),
            peak_memory_bytes=self._peak_memory_bytes,
            read_bytes=disk.read_bytes,
            written_bytes=disk.written_bytes,
            peak_gpu_memory_bytes=self._peak_gpu_memory_bytes,
        )

    def _look_at_gpus(self, pids: Iterable[int]) -> None:
        if self._looks == 0:
            return  # finding the GPUs takes time, which a short command is not to wait for
        if self._gpus is None:
            self._gpus = GpuMeter()
        held = memory_of(self._gpus.read(), pids, self._gpu_ids)
        if held is not None:
            self._peak_gpu_memory_bytes = max(self._peak_gpu_memory_bytes or 0, held)

    def _ended_disk(self) -> "_Disk":
        now, before = _children_disk(), self._disk_before
        return _Disk(now.read_bytes - before.read_bytes, now.written_bytes - before.written_bytes)


@dataclass(frozen=True, slots=True)
class _Disk:
    """Bytes read and written."""

    read_bytes: int = 0
    written_bytes: int = 0

    def __add__(self, other: "_Disk") -> "_Disk":
        return _Disk(self.read_bytes + other.read_bytes, self.written_bytes + other.written_bytes)

    def at_least(self, other: "_Disk") -> "_Disk":
        """The larger of both, each way."""
        return _Disk(max(self.read_bytes, other.read_bytes), max(self.written_bytes, other.written_bytes))


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _children_disk() -> _Disk:
    """What ended children, and theirs, read and wrote: the kernel adds it to their parent's account."""
    me = _PROC / "self"
    own = [_disk(thread / "io") for thread in (me / "task").glob("*")]
    whole = _disk(me / "io")
    return _Disk(
        whole.read_bytes - sum(one.read_bytes for one in own),
        whole.written_bytes - sum(one.written_bytes for one in own),
    )


def _disk(account: Path) -> _Disk:
    with suppress(OSError, ValueError):
        numbers = dict(line.split(": ") for line in account.read_text().splitlines())
        return _Disk(int(numbers.get("read_bytes", 0)), int(numbers.get("write_bytes", 0)))
    return _Disk()
