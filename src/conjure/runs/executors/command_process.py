"""Carrying out a command on this machine, as a family of processes that leaves nobody behind.

Main entry: `start_command`. Invariant: the command ends with its supervisor however that dies (the kernel
sees to the command, the guard in `supervisor` to whatever it started); and when the command itself has ended,
what it left running is ended too before the execution counts as over.
"""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from conjure.core.quoting import shell_words
from conjure.core.text import error_text
from conjure.runs.executors.command import GRACE_S, Exit, Job, NotStartedError
from conjure.runs.host.cgroup import join_cgroup
from conjure.runs.host.gpus import VISIBLE_GPUS_VARIABLE, gpus_named
from conjure.runs.host.orphan_detection import ProcessMarks
from conjure.runs.host.process import Process, descendants, process_group, reap_children, send_signal
from conjure.runs.host.process_control import die_with_parent
from conjure.runs.host.process_usage import UsageMeter
from conjure.runs.schema.process_facts import Usage
from conjure.runs.telemetry.logs import STDERR, STDOUT

_READ_BYTES = 1 << 16
_LEFTOVERS_GRACE_S = 5.0
_SWEEP_EVERY_S = 0.02
_POLL_EVERY_S = 0.05  # where the kernel cannot tell us that a child has ended


def start_command(
    job: Job, exclude: Callable[[Process], bool], marks: ProcessMarks | None = None
) -> "CommandProcess":
    """Start a command in a session of its own, with pipes for its output and nothing for its input.

    Args:
        job: The command.
        exclude: Descendants that are not this run's to end: the supervisors of runs it has started.
        marks: Where to note what the command's processes can be known by, should this process be killed.

    Raises:
        NotStartedError: There is no such program, or it cannot be run.
    """
    return CommandProcess([open_process(job, job.arguments, marks)], exclude, usage_meter(job), marks)


def open_process(
    job: Job,
    arguments: Sequence[str],
    marks: ProcessMarks | None,
    keep: Sequence[int] = (),
    output: tuple[int, int] = (subprocess.PIPE, subprocess.PIPE),
) -> subprocess.Popen[bytes]:
    """Start the process of a command.

    Args:
        job: The command.
        arguments: What carries it out: its own words, or others around them.
        marks: As for `start_command`.
        keep: Descriptors that it is given.
        output: What it writes to, as for `subprocess.Popen`: its standard output and error.

    Raises:
        NotStartedError: There is no such program, or it cannot be run.
    """
    supervisor = os.getpid()
    cgroup = None if marks is None else marks.cgroup

    def prepare() -> None:
        die_with_parent(supervisor)
        if cgroup is not None:
            join_cgroup(cgroup)

    try:
        return subprocess.Popen(
            arguments,
            cwd=job.folder,
            env=dict(job.variables),
            stdin=subprocess.DEVNULL,
            stdout=output[0],
            stderr=output[1],
            bufsize=0,
            start_new_session=True,
            preexec_fn=prepare,
            pass_fds=keep,
        )
    except FileNotFoundError as error:
        raise NotStartedError(f"{job.arguments[0]}: {why_not_found(job)}", 127) from error
    except OSError as error:
        raise NotStartedError(f"{job.arguments[0]}: {error_text(error)}", 126) from error


def usage_meter(job: Job) -> UsageMeter:
    """Measures what a command uses."""
    return UsageMeter(gpus_named(job.variables.get(VISIBLE_GPUS_VARIABLE, "")))


def why_not_found(job: Job) -> str:
    """What is missing: the program, or the interpreter that the first line of a script names."""
    try:
        with (job.folder / job.arguments[0]).open("rb") as file:
            first = file.readline(256)
    except OSError:
        return "command not found"
    if not first.startswith(b"#!"):
        return "command not found"
    interpreter = first[2:].decode(errors="replace").rstrip("\n")
    if interpreter.endswith("\r"):
        return (
            "its first line has a Windows line ending (CRLF); "
            f"`sed -i 's/\\r$//' {shell_words(job.arguments[0])}` removes it"
        )
    return f"its first line names {interpreter.strip()!r}, which does not exist"


class CommandProcess:
    """A command running on this machine (see `command.Execution`): the process that was started for it.

    Args:
        processes: That process, or several where a class of its own says how they end together.
        exclude: As for `start_command`.
        meter: Measures what they use.
        marks: As for `start_command`.
    """

    def __init__(
        self,
        processes: Sequence[subprocess.Popen[bytes]],
        exclude: Callable[[Process], bool],
        meter: UsageMeter,
        marks: ProcessMarks | None,
    ) -> None:
        self._processes = tuple(processes)
        self._running = {process.pid: process for process in processes}
        self._exclude = exclude
        self._marks = marks
        self._selector = selectors.DefaultSelector()
        for process in processes:
            for stream, pipe in ((STDOUT, process.stdout), (STDERR, process.stderr)):
                assert pipe is not None
                os.set_blocking(pipe.fileno(), False)
                self._selector.register(pipe.fileno(), selectors.EVENT_READ, stream)
        if marks is not None:
            marks.note_pipes(key.fd for key in list(self._selector.get_map().values()))
        self._end_signals = {pid: _register_end(self._selector, pid) for pid in self._running}
        self._main_exit: Exit | None = None
        self._asked_leftovers_at: float | None = None
        self._terminated: set[tuple[int, str]] = set()
        self._terminated_at: float | None = None
        self._alone = False
        self._meter = meter
        self.exit: Exit | None = None

    def read(self, timeout_s: float) -> list[tuple[str, bytes]]:
        """What the command wrote, waiting at most `timeout_s` for something to happen."""
        found = self._read_pipes(self._patience(timeout_s))
        if self._alone:
            if not found:
                self._close()
        elif self._main_exit is not None:
            self._alone = self._nobody_left()
        else:
            self._look_for_end()
        return found

    def terminate(self) -> None:
        """SIGTERM to the command's process group; whoever of it goes on has `GRACE_S` to end."""
        if self._terminated_at is None:
            self._terminated_at = time.monotonic()
        there = self._descendants()  # before: who is forked while it is sent may miss it
        self._signal_group(signal.SIGTERM)
        self._terminated |= {
            process.identity for process in there if process_group(process.pid) in self._running
        }

    def kill(self) -> None:
        """SIGKILL to the command and all its descendants, whatever group they are in."""
        self._signal_group(signal.SIGKILL)
        send_to_all(self._descendants(), signal.SIGKILL)

    def usage(self) -> Usage:
        """What the family has used so far."""
        if self._main_exit is None:
            found = self._descendants()
            self._meter.look_at(found)
            if self._marks is not None:
                self._marks.note_sessions(found)
        return self._meter.usage()

    def _patience(self, timeout_s: float) -> float:
        if self._main_exit is not None:
            return min(timeout_s, _SWEEP_EVERY_S if self._asked_leftovers_at and not self._alone else 0.0)
        return min(timeout_s, _POLL_EVERY_S) if None in self._end_signals.values() else timeout_s

    def _read_pipes(self, timeout_s: float) -> list[tuple[str, bytes]]:
        found = []
        for key, _ in self._selector.select(timeout_s):
            data = self._read_pipe(key.fd) if key.data is not None else b""
            if data:
                found.append((key.data, data))
        return found

    def _read_pipe(self, pipe: int) -> bytes:
        try:
            data = os.read(pipe, _READ_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            self._selector.unregister(pipe)
        return data

    def _look_for_end(self) -> None:
        for code in self._take_ended().values():
            self._main_exit = self._exit_from(code)

    def _take_ended(self) -> dict[int, int]:
        """The exit codes of the processes that have ended since the last time, by pid."""
        ended = reap_children(self._running)
        for pid, reaped in ended.items():
            self._running.pop(pid).returncode = reaped.code  # it has been waited for: Popen must not try
            self._meter.note_peak(reaped.peak_memory_bytes)
            handle = self._end_signals.pop(pid)
            if handle is not None:
                self._selector.unregister(handle)
                os.close(handle)
        return {pid: reaped.code for pid, reaped in ended.items()}

    def _is_open(self, pipe: int) -> bool:
        """Whether more can come from a pipe."""
        return pipe in self._selector.get_map()

    def _exit_from(self, code: int) -> Exit:
        return Exit(code=code) if code >= 0 else Exit(signal=-code)

    def _nobody_left(self) -> bool:
        """Whether the command's descendants are gone; those that are not are asked to go, then made to."""
        reap_children()
        left = self._descendants()
        if not left:
            return True
        now = time.monotonic()
        if self._asked_leftovers_at is None:
            self._asked_leftovers_at = now
            # Once each: a handler that is at work would be interrupted by another.
            new = [process for process in left if process.identity not in self._terminated]
            send_to_all(new, signal.SIGTERM)
        until = self._asked_leftovers_at + _LEFTOVERS_GRACE_S
        if self._terminated_at is not None:  # a shell ends at once, and what it has started may be saving
            until = max(until, self._terminated_at + GRACE_S)
        if now > until:
            send_to_all(left, signal.SIGKILL)
        # What even SIGKILL does not end hangs in the kernel; waiting on would hang us too.
        return now > until + 2 * _LEFTOVERS_GRACE_S

    def _close(self) -> None:
        self._selector.close()
        for pipe in (pipe for process in self._processes for pipe in (process.stdout, process.stderr)):
            if pipe is not None:
                pipe.close()
        self.exit = self._main_exit

    def _descendants(self) -> list[Process]:
        return descendants(os.getpid(), exclude=self._exclude)

    def _signal_group(self, number: int) -> None:
        for pid in self._running:  # not waited for yet, so the number is still its own
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)
        if not self._running:
            send_to_all(self._descendants(), number)


def exit_by_signal(code: int) -> Exit | None:
    """The signal that ended a command, if the program that carried it out ended with 128 and that number."""
    return Exit(signal=code - 128) if code - 128 in signal.valid_signals() else None


def send_to_all(processes: list[Process], number: int) -> None:
    """Send a signal to each of the processes."""
    for process in processes:
        send_signal(process, number)


def _register_end(selector: selectors.BaseSelector, pid: int) -> int | None:
    """Have the selector wake up when the process ends; None where the system has no such handle."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return None
    selector.register(handle, selectors.EVENT_READ, None)
    return handle
