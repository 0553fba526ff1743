"""What this machine has for runs to share.

Main entries: `Capacity`, `physical_cores`. Invariant: only what this process may use is counted.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from conjure.runs.host.gpus import visible_gpus


@dataclass(frozen=True, slots=True)
class Capacity:
    """What there is to share: processor cores, the numbers of the GPUs, main memory."""

    cpus: int
    gpu_ids: tuple[int, ...]
    memory_bytes: int

    @classmethod
    def of_this_machine(cls) -> "Capacity":
        """What this machine has, as far as this process may use it."""
        cpus = len(_processors())
        memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return cls(cpus, visible_gpus(), memory_bytes)


def physical_cores() -> int:
    """Cores that may be used: one may be two processors, which compute no faster than one."""
    return len(set(map(_siblings, _processors())))


def _processors() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _siblings(processor: int) -> str:
    """Names the core that a processor is a thread of."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(processor)
