"""Starting supervisors on this machine.

Main entry: `LocalExecutor`; the other end is `conjure.runs.lifecycle.supervisor`. Invariant: what the run was
asked, secrets included, goes through a pipe; it is never on disk or on a command line.
"""

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from conjure.core.held_interrupts import interrupts_held
from conjure.core.home import Home
from conjure.core.text import error_text
from conjure.errors import ExecutorError
from conjure.runs.database.open_database import open_database
from conjure.runs.executors.base import Executor, SupervisorState
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.executors.supervisor_request import LOCAL, SupervisorRequest
from conjure.runs.host.process import Process, boot_id, find_process, host_id, send_signal
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.run_folder import RunFolder


class LocalExecutor(Executor):
    """This machine."""

    name = LOCAL

    def __init__(self, home: Home) -> None:
        self._home = home

    def start(self, number: int, request: SupervisorRequest) -> None:
        """Start the supervisor of a run, and wait until it has taken the run.

        Raises:
            ExecutorError: It cannot be started, or the run has a supervisor.
        """
        lock = RunLock.take_if_free(self._home.run_folder(number))
        if lock is None or lock.descriptor is None:
            raise ExecutorError(f"run {number} has a supervisor, or no folder")
        try:
            with self.prepare(number, lock, request) as start:
                start()
        finally:
            lock.release()

    @contextmanager
    def prepare(self, number: int, lock: RunLock, request: SupervisorRequest) -> Iterator[Callable[[], None]]:
        """Start the interpreter at once; the supervisor has the lock as soon as its caller lets it go."""
        with _Launch(self._home, number, lock, request) as launch:
            yield launch.send_request

    def state(self, number: int) -> SupervisorState:
        """Whether a process of this machine supervises the run."""
        with RunLock.possession(self._home.run_folder(number)) as nobody_has_it:
            return SupervisorState.GONE if nobody_has_it else SupervisorState.STARTED

    def end(self, number: int) -> None:
        """SIGKILL to the supervisor; its guard then ends the processes of the run."""
        with open_database(self._home, must_exist=True) as store:
            supervisor = find_supervisor(store.get(number).owner)
        if supervisor is not None:
            send_signal(supervisor, signal.SIGKILL)


def find_supervisor(owner: Owner | None) -> Process | None:
    """The supervisor of a run, if it is a process of this machine and lives."""
    if owner is None or (owner.host, owner.boot_id) != (host_id(), boot_id()):
        return None
    process = find_process(owner.pid)
    return process if process is not None and process.started == owner.started else None


class _Launch:
    """A supervisor that is starting up: its interpreter gets ready while the caller still prepares the run.

    A context manager: if the block ends before `send_request`, the supervisor goes away having done nothing.

    Args:
        number: The run.
        lock: Its lock, which the supervisor holds too from now on.
        request: The run, and what its command is given.

    Raises:
        ExecutorError: It could not be started.
    """

    def __init__(self, home: Home, number: int, lock: RunLock, request: SupervisorRequest) -> None:
        self._request = request
        self._log = RunFolder.of(home, number).supervisor_log
        assert lock.descriptor is not None
        arguments = [*request.arguments(number), str(lock.descriptor)]
        try:
            # A ^C at this moment is for us, not for a child that has not left the terminal's session yet.
            with interrupts_held(), self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    arguments,
                    env=request.variables,
                    cwd=home.root,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=(lock.descriptor,),
                    start_new_session=True,
                )
        except OSError as error:
            raise ExecutorError(f"the run's supervisor could not be started: {error_text(error)}") from error

    def __enter__(self) -> "_Launch":
        return self

    def send_request(self) -> None:
        """Give the run away, and wait until the supervisor has taken it.

        Raises:
            ExecutorError: The supervisor died before it could.
        """
        message = self._request.to_json()
        with interrupts_held():  # else the run might be taken and called off at the same time
            self._process.communicate(message.encode())
        if self._process.returncode != 0:
            raise ExecutorError(
                f"the run's supervisor could not start (exit status {self._process.returncode})",
                hint=f"see {self._log}",
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See to it that nobody waits: a supervisor that hears nothing goes away."""
        if self._process.returncode is None:
            self._process.communicate()
