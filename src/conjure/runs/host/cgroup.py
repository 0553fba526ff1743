"""Control groups (cgroup v2): the kernel's own account of which processes are a run's, where we may make one.

Main entries: `make_cgroup`, `leave_cgroup`, `processes_in`. Invariant: a process a run starts is in the run's
group whatever it does to its session, variables and parents; a supervisor is in none.
"""

import os
from contextlib import suppress
from pathlib import Path

from conjure.core.machine_limits import own_cgroup

_PREFIX = "conjure-"
_PROCESSES = "cgroup.procs"


def make_cgroup(name: str) -> Path | None:
    """A group below this process's own, empty; None where there are none or we may not make one."""
    own = own_cgroup()
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
    own = own_cgroup()
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
