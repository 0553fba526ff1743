"""The processors that this process may use, and how many cores they are.

Main entries: `processors`, `physical_cores`. Invariant: they only look.
"""

import os
from pathlib import Path


def processors() -> set[int]:
    """Numbers of the processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def physical_cores() -> int:
    """Cores that they are: a core may be two processors, which compute no faster than one."""
    return len(set(map(_siblings, processors())))


def _siblings(processor: int) -> str:
    """Names the core that a processor is a thread of."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(processor)
