"""What this process may use of its machine: processors and memory, as far as control groups allow.

Main entries: `usable_processors`, `physical_cores`, `cpu_limit`, `memory_limit_bytes`, `free_memory_bytes`,
`own_cgroup`. Invariants: only what this process may use is counted; a limit counts whether this process's own
group has it (a service's, a job's of Slurm) or one above (a container's), in both versions of control groups.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_MOUNTS, _OWN = Path("/proc/self/mountinfo"), Path("/proc/self/cgroup")
_VERSION_2 = ""  # has one hierarchy of groups for all controllers; version 1 one for each


class _MemoryFiles(NamedTuple):
    """What a group's files are called, and the line of ``memory.stat`` that counts inactive file cache."""

    limit: str
    used: str
    cache: str


_MEMORY_FILES = {  # by the hierarchy that they are in
    _VERSION_2: _MemoryFiles("memory.max", "memory.current", "inactive_file"),
    "memory": _MemoryFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


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


def cpu_limit() -> float:
    """How many processors' time this process's groups allow; very many without a limit."""
    return min((quota / period for quota, period in _cpu_quotas()), default=sys.maxsize)


def memory_limit_bytes() -> int:
    """How much memory this process's groups allow; very much without a limit."""
    return min((limit for _, _, limit in _memory_limits()), default=sys.maxsize)


def free_memory_bytes() -> int:
    """How much of that is left. Inactive file cache is: the kernel drops it where memory is short."""
    return min(
        (max(0, limit - _used(group, files)) for files, group, limit in _memory_limits()), default=sys.maxsize
    )


def own_cgroup() -> Path | None:
    """The folder of this process's own group, of version 2; None where there is none."""
    return next((own for _, _, own in _mounted(_VERSION_2)), None)


def _cpu_quotas() -> Iterator[tuple[int, int]]:
    """Microseconds that the groups' processes may compute in each period, and the period."""
    for controller, group in _groups(_VERSION_2, "cpu"):
        if controller == _VERSION_2:
            quota, _, period = _text(group / "cpu.max").partition(" ")
        else:
            quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal():  # else "max" or -1; the topmost has none
            yield int(quota), int(period)


def _memory_limits() -> Iterator[tuple[_MemoryFiles, Path, int]]:
    for controller, group in _groups(*_MEMORY_FILES):
        files = _MEMORY_FILES[controller]
        limit = _text(group / files.limit)
        if limit.isdecimal():
            yield files, group, int(limit)


def _used(group: Path, files: _MemoryFiles) -> int:
    used = _text(group / files.used)
    counts = dict(line.split() for line in _text(group / "memory.stat").splitlines())
    return int(used or 0) - int(counts.get(files.cache, 0))


def _text(path: Path) -> str:
    """A small file's content; empty where it cannot be read."""
    with suppress(OSError):
        return path.read_text().strip()
    return ""


def _groups(*controllers: str) -> Iterator[tuple[str, Path]]:
    """This process's groups in hierarchies, and those above as far as they can be seen."""
    for controller, mount, own in _mounted(*controllers):
        group = own if own is not None else mount
        yield controller, group
        while group != mount:
            group = group.parent
            yield controller, group


def _mounted(*controllers: str) -> Iterator[tuple[str, Path, Path | None]]:
    """Where hierarchies are mounted, and where this process's group is there, if it is."""
    paths = _own_paths()
    for line in _text(_MOUNTS).splitlines():
        place, _, kind = line.partition(" - ")
        system, *_, options = kind.split(" ")
        if not system.startswith("cgroup"):
            continue
        names = {_VERSION_2} if system == "cgroup2" else set(options.split(","))
        for controller in names.intersection(controllers, paths):
            root, mount = place.split()[3:5]
            inside = os.path.relpath(paths[controller], root)
            yield controller, Path(mount), None if inside.startswith("..") else Path(mount, inside)


def _own_paths() -> dict[str, str]:
    """The path of this process's group in the hierarchy of each controller."""
    lines = (line.split(":", 2) for line in _text(_OWN).splitlines())
    return {controller: path for _, controllers, path in lines for controller in controllers.split(",")}
