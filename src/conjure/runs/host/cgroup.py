"""Control groups (cgroup v2): the kernel's own account of which processes are a run's, where we may make one.

Main entries: `make_cgroup`, `leave_cgroup`, `processes_in`. Invariant: a process a run starts is in the run's
group whatever it does to its session, variables and parents; a supervisor is in none.
"""

import os
from contextlib import suppress
from pathlib import Path

_PREFIX = "conjure-"
_PROCESSES = "cgroup.procs"
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
