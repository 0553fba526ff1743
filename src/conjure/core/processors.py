"""The processors of this machine that this process may use.

Main entries: `usable_processors`, `physical_cores`. Invariant: only what this process may use is counted.
"""

import os
from pathlib import Path


def usable_processors() -> set[int]:
    """The numbers of the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def physical_cores() -> int:
    """Cores that may be used: one may be two processors, which compute no faster than one."""
    return len(set(map(_siblings, usable_processors())))


def _siblings(processor: int) -> str:
    """Names the core that a processor is a thread of."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(processor)
