"""Processes of this machine: who is who across restarts, and ending whole families of them.

Main entries: `this_process`, `descendants`, `end_all`, `kill_descendants`, `all_processes`. Invariants: a
signal goes only to the process it was meant for (a pid is checked against its start time), so a reused pid is
never hit; children are taken in only by a process that has none but conjure's, as others may have a caller
who waits for them. Where /proc is missing (not Linux), only process groups are known.
"""

import os
import signal
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from conjure.core.files import sha256_bytes
from conjure.core.home import Home
from conjure.core.team_settings import read_team
from conjure.runs.schema.process_facts import Owner, machine_name

_SWEEP_EVERY_S = 0.02
_EXEC_LOOK_EVERY_S = 0.001
_EXEC_LOOKS = 200
_PROC = Path("/proc")
_LONGEST_STAT = 4096

# Asks a supervisor to end its run at once, where that cannot be written into the database.
KILL_SIGNAL = signal.SIGRTMIN + 9 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR1


class Process(NamedTuple):
    """A process as /proc shows it; `started` (ticks since boot) tells it from a later one with its pid."""

    pid: int
    parent: int
    name: str
    is_zombie: bool
    started: str
    session: int = 0
    is_stopped: bool = False

    @property
    def identity(self) -> tuple[int, str]:
        """What no other process has, not even a later one with its pid."""
        return self.pid, self.started


def this_process(home: Home | None = None) -> Owner:
    """The process this is called in, as an owner of runs of a home; without one, as one of this machine."""
    pid = os.getpid()
    seen = find_process(pid)
    machine = host_id() if home is None else machine_id(home)
    started = seen.started if seen is not None else ""
    return Owner(machine, boot_id(), pid, started, os.uname().nodename)


def machine_id(home: Home) -> str:
    """This machine, as the runs of a home name it: where each of a team has a home, that home on it."""
    team = read_team(home)
    return machine_name(host_id(), "" if team is None else team.member)


@cache
def host_id() -> str:
    """A name for this machine that stays the same and says nothing about it."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with suppress(OSError):
            text = Path(path).read_text().strip()
            if text:
                return sha256_bytes(f"conjure {text}".encode())[:16]
    return sha256_bytes(f"conjure {os.uname().nodename}".encode())[:16]


@cache
def boot_id() -> str:
    """A name for the time since this machine was started."""
    with suppress(OSError):
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return ""


def find_process(pid: int) -> Process | None:
    """The process with this pid, or None."""
    try:  # by descriptors, in a third of the time: this is asked of every process of the machine
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(descriptor, _LONGEST_STAT)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    before, _, after = text.rpartition(b")")  # the name before it may hold anything, brackets too
    state, parent, *rest = after.split()
    name = before.partition(b"(")[2].decode(errors="replace")
    return Process(
        pid,
        int(parent),
        name,
        is_zombie=state in (b"Z", b"X"),
        started=rest[17].decode(),
        session=int(rest[1]),
        is_stopped=state == b"T",
    )


def process_group(pid: int) -> int | None:
    """The process group of a process, or None if it is gone."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def namespace_pids(pid: int) -> tuple[int, ...]:
    """The numbers of a process: here, and in each process namespace below this one that it is in."""
    try:
        lines = (_PROC / str(pid) / "status").read_text(errors="replace").splitlines()
    except OSError:
        return ()
    found = next((line.split()[1:] for line in lines if line.startswith("NSpid:")), [])
    return tuple(map(int, found))


def user_namespace(pid: int) -> str | None:
    """What the user namespace of a process is called, or None if it is gone."""
    try:
        return str((_PROC / str(pid) / "ns" / "user").readlink())
    except OSError:
        return None


def descendants(root: int, *, exclude: Callable[[Process], bool] = lambda _: False) -> list[Process]:
    """Living descendants of a process, parents first; a spared one is left out with all of its own."""
    if root == os.getpid() and not _has_children():
        return []
    children: dict[int, list[Process]] = {}
    for process in all_processes():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    waiting = [root]
    while waiting:
        young = [child for child in children.get(waiting.pop(), ()) if not exclude(child)]
        found += [child for child in young if not child.is_zombie]
        waiting += [child.pid for child in young]
    return found


def _has_children() -> bool:
    """Whether this process has a child, be it one that has ended: found without looking at all processes."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def all_processes() -> list[Process]:
    """Every process of this machine that can be seen, ended but not waited for ones too."""
    try:
        pids = [int(name) for name in os.listdir(_PROC) if name.isdecimal()]  # noqa: PTH208 - 3 times as fast
    except OSError:
        return []
    return [process for process in map(find_process, pids) if process is not None]


def send_signal(process: Process, number: int) -> None:
    """Send a signal to exactly this process; if it is gone, nothing happens."""
    with suppress(ProcessLookupError, PermissionError):
        if not hasattr(os, "pidfd_open"):
            os.kill(process.pid, number)
            return
        handle = os.pidfd_open(process.pid)
        try:
            seen = find_process(process.pid)
            if seen is not None and seen.started == process.started:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def end_all(find: Callable[[], Iterable[Process]], *, patience_s: float = 10.0) -> bool:
    """SIGKILL what `find` finds until it finds nothing, for what is being killed may still be forking.

    Returns:
        False if something would not go in time (it hangs in the kernel, or is another user's).
    """
    deadline = time.monotonic() + patience_s
    while processes := list(find()):
        for process in processes:
            send_signal(process, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(_SWEEP_EVERY_S)
    return True


def kill_descendants(*, exclude: Callable[[Process], bool]) -> None:
    """SIGKILL the descendants of this process, which has no children but a run's, and take them in."""

    def find() -> list[Process]:
        reap_children()  # a command that keeps forking would use up all process numbers
        return descendants(os.getpid(), exclude=exclude)

    end_all(find)


class Reaped(NamedTuple):
    """A child that has ended: its exit code (negative: the signal) and the most memory it or its own held."""

    code: int
    peak_memory_bytes: int


def reap_children(wanted: Collection[int] = ()) -> dict[int, Reaped]:
    """Take in every child that has ended; tells of the `wanted` ones that were among them, by pid.

    Only for a process whose children are all conjure's: the exit status of any other child would be lost.
    """
    found = {}
    with suppress(ChildProcessError):
        while True:
            pid, status, used = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid in wanted:
                found[pid] = Reaped(os.waitstatus_to_exitcode(status), used.ru_maxrss * 1024)
    return found


def with_variables(wanted: Iterable[bytes]) -> list[Process]:
    """Living processes of this user whose environment holds all of these ``NAME=value`` entries."""
    wanted = set(wanted)
    me = os.getpid()
    return [
        process
        for process in all_processes()
        if process.pid != me and not process.is_zombie and wanted <= _variables(process.pid)
    ]


def _variables(pid: int) -> set[bytes]:
    """The environment a process was started with; one that is just starting a program is waited for."""
    folder = _PROC / str(pid)
    try:
        for _ in range(_EXEC_LOOKS):
            if (text := (folder / "environ").read_bytes()) or not _is_starting_a_program(folder):
                return set(text.split(b"\0"))
            time.sleep(_EXEC_LOOK_EVERY_S)
    except OSError:
        pass
    return set()


def _is_starting_a_program(folder: Path) -> bool:
    """Whether a process is inside of execve, where Linux shows for a moment no environment and no words.

    Every other process has at least one word, if an empty one; threads of the kernel have no program.
    """
    return not (folder / "cmdline").read_bytes() and bool((folder / "exe").readlink())
