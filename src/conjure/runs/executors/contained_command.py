"""Carrying out a command in the run's container, as any other but for which processes are its own.

Main entry: `start_contained`. Invariant: the engine's processes beside the container, and the container's
first one, are sent no signal that is meant for the command.
"""

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from conjure.errors import BuildError
from conjure.runs.environments.container_engine import ENGINE_ERROR, explain_failure
from conjure.runs.environments.containers import OutputPipes, container_parent, exec_arguments
from conjure.runs.executors.command import Exit, Job, NotStartedError
from conjure.runs.executors.command_process import (
    CommandProcess,
    exit_by_signal,
    open_process,
    send_to_all,
    usage_meter,
)
from conjure.runs.host.orphan_detection import ProcessMarks
from conjure.runs.host.process import Process, descendants, namespace_pids, process_group
from conjure.runs.host.process_usage import UsageMeter

_TAIL_BYTES = 4096
ENGINE_FAILED = 125  # what an engine ends with if the fault is its own
_CANNOT_START = (126, 127)  # and if the command, or its shell, cannot be started
_OF_RUNTIME = "OCI runtime"
_RUNTIMES = ("runc", "crun")  # names of a process in a container before it becomes the command


def start_contained(
    job: Job, exclude: Callable[[Process], bool], marks: ProcessMarks | None = None
) -> CommandProcess:
    """As `start_command`, in the job's container, which was started before.

    Raises:
        NotStartedError: The engine cannot be run.
    """
    assert job.container is not None
    outside = replace(job, folder=Path("/"), variables=os.environ)
    arguments = exec_arguments(job.container.name, job.folder, job.arguments, job.variables)
    try:
        parent = container_parent(job.container.name)
    except BuildError as error:
        raise NotStartedError(str(error), ENGINE_FAILED) from error
    process = _open_with_pipes(outside, arguments, marks, job.container.pipes)
    return ContainedProcess(process, exclude, usage_meter(outside), marks, parent)


def _open_with_pipes(
    job: Job, arguments: list[str], marks: ProcessMarks | None, pipes: OutputPipes
) -> subprocess.Popen[bytes]:
    """As `open_process`; the process has the named pipes to write to, and is there to be read from them."""
    with ExitStack() as on_failure, ExitStack() as started:
        readers = [os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", 0) for path in pipes]
        for reader in readers:
            on_failure.enter_context(reader)
        writers = [started.enter_context(path.open("wb", 0)) for path in pipes]
        process = open_process(job, arguments, marks, output=(writers[0].fileno(), writers[1].fileno()))
        on_failure.pop_all()
    process.stdout, process.stderr = readers
    return process


class ContainedProcess(CommandProcess):
    """A command in a container; the process started is the engine's, which waits for it.

    Args:
        parent: The process that the container's are children of; this one, or one that ends before, if None.
    """

    _tail = b""
    _is_to_end = False

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        exclude: Callable[[Process], bool],
        meter: UsageMeter,
        marks: ProcessMarks | None,
        parent: int | None,
    ) -> None:
        super().__init__([process], exclude, meter, marks)
        self._parent = os.getpid() if parent is None else parent

    def read(self, timeout_s: float) -> list[tuple[str, bytes]]:
        """What the command wrote, waiting at most `timeout_s` for something to happen."""
        found = super().read(timeout_s)
        self._tail = (self._tail + b"".join(data for _, data in found))[-_TAIL_BYTES:]
        if self._is_to_end and self._main_exit is None:
            self._signal_group(signal.SIGTERM)
        return found

    def _close(self) -> None:
        super()._close()
        code = None if self._main_exit is None else self._main_exit.code
        last = self._tail.decode(errors="replace").rstrip("\n").rpartition("\n")[2]
        if code == ENGINE_FAILED and ENGINE_ERROR.match(last):
            raise NotStartedError(f"the container failed: {explain_failure([last])}", code)
        if code in _CANNOT_START and ENGINE_ERROR.sub("", last).startswith(_OF_RUNTIME):
            raise NotStartedError("the image has no /bin/sh, which starts the command", code)

    def _exit_from(self, code: int) -> Exit:
        """How the command ended: the engine ends with its exit code, or with 128 and the signal's number."""
        return exit_by_signal(code) or super()._exit_from(code)

    def _descendants(self) -> list[Process]:
        """The processes in the container, but for the first, which is the engine's."""
        found = descendants(self._parent, exclude=self._exclude)
        return [process for process in found if _is_of_command(process)]

    def _signal_group(self, number: int) -> None:
        """As for other commands, but the engine is spared what the command may take its time for.

        A command that it has not started yet gets it once it is there.
        """
        if number == signal.SIGKILL or self._main_exit is not None:
            super()._signal_group(number)
            return
        found = self._descendants()
        groups = {process_group(process.pid) for process in found if _was_started_outside(process)}
        send_to_all([process for process in found if process_group(process.pid) in groups], number)
        self._is_to_end = not groups


def _is_of_command(process: Process) -> bool:
    """Whether a process of a run's family is in a container, and neither its first nor still the engine's."""
    pids = namespace_pids(process.pid)
    return len(pids) > 1 and pids[-1] != 1 and not process.name.startswith(_RUNTIMES)


def _was_started_outside(process: Process) -> bool:
    """Whether a process in a container has its parent outside: it is the command, and no orphan of it."""
    return len(namespace_pids(process.parent)) < len(namespace_pids(process.pid))
