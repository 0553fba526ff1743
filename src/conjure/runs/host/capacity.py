"""What this machine has for runs to share.

Main entry: `Capacity`. Invariant: only what this process may use is counted.
"""

import os
from dataclasses import dataclass

from conjure.core.machine_limits import cpu_limit, memory_limit_bytes, usable_processors
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
        cpus = min(len(usable_processors()), max(1, int(cpu_limit())))
        memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return cls(cpus, visible_gpus(), min(memory_bytes, memory_limit_bytes()))
