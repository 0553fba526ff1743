"""What is recorded of processes: which one supervises a run, and what a run used.

Main entries: `Owner`, `Usage`. Invariant: plain values, the same after a restart of the machine.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that carries a run: enough to tell it from any other, on any machine, after any restart."""

    host_id: str
    boot_id: str
    pid: int
    started: str


@dataclass(frozen=True, slots=True)
class Usage:
    """The most a run used of the machine, and what it used in all.

    Attributes:
        cpu_s: Processor time, seconds.
        peak_memory_bytes: Largest sum of the resident memory of its processes.
        read_bytes: Bytes its processes read from disk, as far as the system tells.
        written_bytes: Bytes its processes wrote to disk, as far as the system tells.
        peak_gpu_memory_bytes: Largest GPU memory in use by its processes, or None without a GPU.
    """

    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    peak_gpu_memory_bytes: int | None = None
