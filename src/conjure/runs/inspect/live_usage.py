"""What a run that goes on uses of the machine now, and the most it has used.

Main entry: `Sampler`. Invariant: only processes of the run are counted, and only on the machine it is on; the
supervisor keeps totals and peaks in the record, this adds the moment.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from conjure.core.home import Home
from conjure.runs.executors.local import find_supervisor
from conjure.runs.host.gpu_meter import GpuMeter, GpuReading, memory_of
from conjure.runs.host.process import Process, descendants
from conjure.runs.host.process_usage import Measurement, measure
from conjure.runs.lifecycle.abandoned_runs import is_other_supervisor
from conjure.runs.schema.record import RunRecord


@dataclass(frozen=True, slots=True)
class Sample:
    """A run at one moment.

    Attributes:
        processes: How many processes it has.
        cpu_percent: Processor time since the sample before, 100 for one whole core.
        memory_bytes: Resident memory of its processes.
        read_bytes_per_s: Read from disk since the sample before.
        written_bytes_per_s: Written to disk since the sample before.
        gpu_memory_bytes: GPU memory it holds, None without a GPU.
        gpus: The GPUs of this machine.
    """

    processes: int
    cpu_percent: float
    memory_bytes: int
    read_bytes_per_s: float
    written_bytes_per_s: float
    gpu_memory_bytes: int | None = None
    gpus: tuple[GpuReading, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The sample as plain JSON values."""
        return asdict(self)


class Sampler:
    """Looks at a run again and again; rates are over the time between two looks.

    Args:
        record: The run.
        timer: Seconds, by a clock that does not jump.
    """

    def __init__(self, home: Home, record: RunRecord, *, timer: Callable[[], float] = time.monotonic) -> None:
        self._home = home
        self._record = record
        self._timer = timer
        self._gpus = GpuMeter()
        self._measured = self._measure()

    def sample(self) -> Sample | None:
        """How the run is now; None where nothing of it can be seen from here."""
        earlier, self._measured = self._measured, self._measure()
        if earlier is None or self._measured is None:
            return None
        before, now = earlier.by_process, self._measured.by_process
        cpu_s = sum(one.cpu_s - before.get(key, _NOTHING).cpu_s for key, one in now.items())
        readings = tuple(self._gpus.read())
        seconds = max(self._measured.at - earlier.at, 1e-3)
        return Sample(
            processes=len(now),
            cpu_percent=round(100 * cpu_s / seconds, 1),
            memory_bytes=_sum("memory_bytes", now),
            read_bytes_per_s=_gain("read_bytes", before, now) / seconds,
            written_bytes_per_s=_gain("written_bytes", before, now) / seconds,
            gpu_memory_bytes=memory_of(readings, (pid for pid, _ in now), self._record.gpu_ids),
            gpus=readings,
        )

    def _measure(self) -> "_Measured | None":
        supervisor = find_supervisor(self._record.owner)
        if supervisor is None:
            return None
        found = descendants(supervisor.pid, exclude=self._is_other_runs)
        by_process = {process.identity: measure(process.pid) for process in found}
        return _Measured(self._timer(), by_process)

    def _is_other_runs(self, process: Process) -> bool:
        return is_other_supervisor(self._home, self._record.number, process)


_ByProcess = Mapping[tuple[int, str], Measurement]
_NOTHING = Measurement()


@dataclass(frozen=True, slots=True)
class _Measured:
    at: float
    by_process: _ByProcess


def _sum(what: str, measured: _ByProcess) -> int:
    return sum(getattr(one, what) for one in measured.values())


def _gain(what: str, before: _ByProcess, now: _ByProcess) -> int:
    """By how much the family's sum grew; a process takes over what its ended children had done."""
    return max(_sum(what, now) - _sum(what, before), 0)
