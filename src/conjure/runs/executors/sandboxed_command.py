"""Carrying out a command in a sandbox (see `sandbox`), as any other but for how it is signalled and ends.

Main entry: `start_sandboxed`. Invariant: a stop reaches the command and not bubblewrap, which would take the
command with it at once.
"""

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from conjure.runs.executors.command import Exit, Job, NotStartedError
from conjure.runs.executors.command_process import (
    CommandProcess,
    exit_by_signal,
    open_process,
    send_to_all,
    usage_meter,
    why_not_found,
)
from conjure.runs.executors.sandbox import Sandbox, bwrap_arguments, sandbox_fault
from conjure.runs.host.orphan_detection import ProcessMarks
from conjure.runs.host.process import Process, process_group
from conjure.runs.host.process_usage import UsageMeter


def start_sandboxed(
    job: Job, exclude: Callable[[Process], bool], marks: ProcessMarks | None = None
) -> CommandProcess:
    """As `start_command`, in the job's sandbox.

    Raises:
        NotStartedError: There is no such program, or it cannot be run, or not be seen in the sandbox.
    """
    assert job.sandbox is not None
    _refuse_program(job, job.sandbox)
    status, descriptor = os.pipe()
    try:
        arguments = bwrap_arguments(job.sandbox, job.arguments, job.folder, descriptor)
        process = open_process(job, arguments, marks, keep=(descriptor,))
    except BaseException:
        os.close(status)
        raise
    finally:
        os.close(descriptor)
    return SandboxedProcess(process, exclude, usage_meter(job), marks, status)


def _refuse_program(job: Job, sandbox: Sandbox) -> None:
    """Say what a shell would of a program that cannot be run: bubblewrap's own words name neither.

    Raises:
        NotStartedError: There is no such program, or it cannot be run, or not be seen in the sandbox.
    """
    name = job.arguments[0]
    search = job.variables.get("PATH", os.defpath)
    path = str(job.folder / name) if "/" in name else shutil.which(name, os.F_OK, search)
    if path is None or not os.path.exists(path):  # noqa: PTH110 - as it was typed
        raise NotStartedError(f"{name}: {why_not_found(job)}", 127)
    if os.path.isdir(path) or not os.access(path, os.X_OK):  # noqa: PTH112
        raise NotStartedError(f"{name}: {os.strerror(errno.EACCES)}", 126)
    if not sandbox.shows(Path(path)):
        raise NotStartedError(f"{name}: {path} cannot be seen in the sandbox", 127)


class SandboxedProcess(CommandProcess):
    """A command in a sandbox; the process started is bubblewrap, with its init below it, then the command.

    Args:
        status: Read end of the pipe for bubblewrap's status.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        exclude: Callable[[Process], bool],
        meter: UsageMeter,
        marks: ProcessMarks | None,
        status: int,
    ) -> None:
        super().__init__([process], exclude, meter, marks)
        os.set_blocking(status, False)
        self._status = status
        self._was_started = False

    def _exit_from(self, code: int) -> Exit:
        """How the command ended: bubblewrap ends with its exit code, or with 128 and the signal's number."""
        with os.fdopen(self._status, "rb") as pipe:
            self._was_started = b'"exit-code"' in (pipe.read() or b"")
        return exit_by_signal(code) or super()._exit_from(code)

    def _close(self) -> None:
        super()._close()
        if not self._was_started and self._main_exit is not None and self._main_exit.signal is None:
            fault = sandbox_fault() or "bubblewrap could not start the command; its message is in the log"
            raise NotStartedError(fault, 127)

    def _signal_group(self, number: int) -> None:
        """As for other commands, but bubblewrap is spared what the command may take its time for."""
        if number != signal.SIGKILL and self._main_exit is None:
            own = self._command_processes()
            if own:
                send_to_all(own, number)
                return
        super()._signal_group(number)

    def _command_processes(self) -> list[Process]:
        """The processes of the command's own group; none before it has been started."""
        bubblewrap = self._processes[0].pid
        found = self._descendants()
        init = {process.pid for process in found if process.parent == bubblewrap}
        return [
            process
            for process in found
            if process.pid not in {bubblewrap, *init} and process_group(process.pid) == bubblewrap
        ]
