"""Control groups (cgroup v2): the kernel's own account of which processes are a run's, where we may make one.

Main entries: `make_cgroup`, `leave_cgroup`, `processes_in`, `cpu_limit`, `memory_limit_bytes`. Invariant: a
process a run starts is in the run's group whatever it does to its session, variables and parents; a
supervisor is in none.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PREFIX = "conjure-"
_PROCESSES = "cgroup.procs"
_MEMORY_OF_V1 = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")
_MOUNTS, _OWN = Path("/proc/self/mountinfo"), Path("/proc/self/cgroup")


def make_cgroup(name: str) -> Path | None:
    """A group below this process's own, empty; None where there are none or we may not make one."""
    own = _own_cgroup()
    if own is None:
        return None
    group = own / f"{_PREFIX}{name}"
    try:
        group.mkdir(exist_ok=True)
    except OSError:
        return None
    return group if os.access(group / _PROCESSES, os.W_OK) else None


def join_cgroup(group: Path) -> None:
    """Put this process, with whatever it starts from now on, into a group."""
    with suppress(OSError):
        (group / _PROCESSES).write_text("0")


def leave_cgroup() -> None:
    """Go back to the group above, if this is a run's: a run that it starts is no part of it."""
    own = _own_cgroup()
    if own is not None and own.name.startswith(_PREFIX):
        join_cgroup(own.parent)


def processes_in(group: Path) -> set[int]:
    """The pids in a group; none if it is not there."""
    try:
        return set(map(int, (group / _PROCESSES).read_text().split()))
    except (OSError, ValueError):
        return set()


def remove_cgroup(group: Path) -> None:
    """Remove a group that nothing is in any more; another is left."""
    with suppress(OSError):
        group.rmdir()


def cpu_limit() -> float:
    """How many processors' time this process's groups allow, as of a container; very many without a limit."""
    found = [text.split() for text in _own_and_above("cpu.max")]
    return min((int(quota) / int(period) for quota, period in found if quota != "max"), default=sys.maxsize)


def memory_limit_bytes() -> int:
    """How much memory this process's groups allow; very much without a limit."""
    found = [text.strip() for text in _own_and_above("memory.max")]
    with suppress(OSError):  # cgroup v1, as a container sees it
        found.append(_MEMORY_OF_V1.read_text().strip())
    return min((int(text) for text in found if text != "max"), default=sys.maxsize)


def _own_and_above(name: str) -> Iterator[str]:
    """The content of a file of this process's own group and of those that this is part of."""
    own = _own_cgroup()
    for group in () if own is None else (own, *own.parents):
        if not (group / _PROCESSES).exists():
            return
        with suppress(OSError):  # the topmost has no limits
            yield (group / name).read_text()


def _own_cgroup() -> Path | None:
    try:
        mounts, groups = _MOUNTS.read_text(), _OWN.read_text()
    except OSError:
        return None
    path = next((line[3:] for line in groups.splitlines() if line.startswith("0::/")), None)
    for line in mounts.splitlines():
        place, _, kind = line.partition(" - ")
        if path is not None and kind.startswith("cgroup2 "):
            root, mounted_at = place.split()[3:5]
            inside = os.path.relpath(path, root)
            return None if inside.startswith("..") else Path(mounted_at, inside)
    return None
