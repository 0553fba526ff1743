"""Carrying out a command in the run's container, as any other but for which processes are its own.

Main entry: `start_contained`. Invariant: podman's processes beside the container, and the container's first
one, are sent no signal that is meant for the command.
"""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from conjure.runs.environments.podman_container import exec_arguments
from conjure.runs.executors.command import Exit, Job, NotStartedError
from conjure.runs.executors.command_process import CommandProcess, open_process, send_to_all, usage_meter
from conjure.runs.host.process import Process, namespace_pids, process_group
from conjure.runs.host.process_marks import ProcessMarks
from conjure.runs.telemetry.logs import STDERR

_TAIL_BYTES = 4096
_ERROR = "Error: "  # how podman's own words begin
ENGINE_FAILED = 125  # what podman ends with if the fault is its own
_NOT_FOUND = 127
_RUNTIMES = ("runc", "crun")  # names of a process in a container before it becomes the command


def start_contained(
    job: Job, exclude: Callable[[Process], bool], marks: ProcessMarks | None = None
) -> CommandProcess:
    """As `start_command`, in the job's container, which was started before.

    Raises:
        NotStartedError: Podman cannot be run.
    """
    assert job.container is not None
    outside = replace(job, folder=Path("/"), variables=os.environ)
    process = open_process(outside, exec_arguments(job.container, job.folder, job.arguments), marks)
    return ContainedProcess([process], exclude, usage_meter(outside), marks)


class ContainedProcess(CommandProcess):
    """A command in a container; the process started is podman, which waits for it."""

    _tail = b""
    _is_to_end = False

    def read(self, timeout_s: float) -> list[tuple[str, bytes]]:
        """What the command wrote, waiting at most `timeout_s` for something to happen."""
        found = super().read(timeout_s)
        errors = b"".join(data for stream, data in found if stream == STDERR)
        self._tail = (self._tail + errors)[-_TAIL_BYTES:]
        if self._is_to_end and self._main_exit is None:
            self._signal_group(signal.SIGTERM)
        return found

    def _close(self) -> None:
        super()._close()
        code = None if self._main_exit is None else self._main_exit.code
        last = self._tail.decode(errors="replace").rstrip("\n").rpartition("\n")[2]
        if not last.startswith(_ERROR):
            return
        if code == ENGINE_FAILED:
            raise NotStartedError(f"podman failed: {last.removeprefix(_ERROR)}", code)
        if code == _NOT_FOUND and "OCI runtime" in last:
            raise NotStartedError("the image has no /bin/sh, which starts the command", code)

    def _exit_from(self, code: int) -> Exit:
        """How the command ended: podman ends with its exit code, or with 128 and the signal's number."""
        if code - 128 in signal.valid_signals():
            return Exit(signal=code - 128)
        return super()._exit_from(code)

    def _descendants(self) -> list[Process]:
        """The processes in the container, but for the first, which is podman's."""
        return [process for process in super()._descendants() if _is_of_command(process)]

    def _signal_group(self, number: int) -> None:
        """As for other commands, but podman is spared what the command may take its time for.

        A command that podman has not started yet gets it once it is there.
        """
        if number == signal.SIGKILL or self._main_exit is not None:
            super()._signal_group(number)
            return
        found = self._descendants()
        groups = {process_group(process.pid) for process in found if _was_started_outside(process)}
        send_to_all([process for process in found if process_group(process.pid) in groups], number)
        self._is_to_end = not groups


def _is_of_command(process: Process) -> bool:
    """Whether a process of a run's family is in a container, and neither its first nor still podman's."""
    pids = namespace_pids(process.pid)
    return len(pids) > 1 and pids[-1] != 1 and not process.name.startswith(_RUNTIMES)


def _was_started_outside(process: Process) -> bool:
    """Whether a process in a container has its parent outside: it is the command, and no orphan of it."""
    return len(namespace_pids(process.parent)) < len(namespace_pids(process.pid))
