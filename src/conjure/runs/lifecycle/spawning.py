"""Handing a run from the command that submits it to a supervisor of its own.

Main entry: `Launch`; its other end is `supervisor`. Invariant: what the run was asked, secrets included, goes
through a pipe; it is never on disk or on a command line.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from conjure.core.home import HOME_VARIABLE, Home
from conjure.errors import ExecutorError
from conjure.reporting import OWN_VARIABLES
from conjure.runs.environments.local_packages import with_absolute_links
from conjure.runs.host.capacity import Capacity
from conjure.runs.host.process_settings import ProcessSettings
from conjure.runs.lifecycle.ownership import RunLock
from conjure.runs.scheduling.supervisor_request import Program, SupervisorRequest
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.spec import RunSpec


class Launch:
    """A supervisor that is starting up: its interpreter gets ready while the caller still prepares the run.

    A context manager: if the block ends before `hand_over`, the supervisor goes away having done nothing.

    Args:
        home: Where conjure keeps things.
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
        arguments = [
            request.program.interpreter,
            "-P",
            "-m",
            "conjure.runs.lifecycle.supervisor",
            str(number),
            str(lock.descriptor),
        ]
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
            raise ExecutorError(f"the run's supervisor could not be started: {error.strerror}") from error

    def __enter__(self) -> "Launch":
        return self

    def hand_over(self) -> None:
        """Give the run away, and wait until the supervisor has taken it.

        Raises:
            ExecutorError: The supervisor died before it could.
        """
        message = self._request.to_json()
        with interrupts_held():  # else the run might be taken and called off at the same time
            self._process.communicate(message.encode())
        if self._process.returncode != 0:
            raise ExecutorError(
                f"the run's supervisor could not start (exit {self._process.returncode})",
                hint=f"see {self._log}",
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See to it that nobody waits: a supervisor that hears nothing goes away."""
        if self._process.returncode is None:
            self._process.communicate()


def request_of_this_process(home: Home, spec: RunSpec, requested: float) -> SupervisorRequest:
    """What a supervisor is to be given so that it runs the command as this process would.

    Args:
        home: Where conjure keeps things.
        spec: What is asked, secrets included.
        requested: When, by `time.monotonic`.
    """
    variables = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}
    variables = with_absolute_links(variables, Path.cwd())
    variables[HOME_VARIABLE] = str(home.root)
    return SupervisorRequest(
        spec,
        requested,
        Capacity.of_this_machine(),
        variables,
        ProcessSettings.of_this_process(),
        Program.of_this_process(),
    )


class HeldInterrupts:
    """What `interrupts_held` gives: whether a ^C waits, and a way to let it through."""

    def __init__(self) -> None:
        self.waits = False

    def take(self, *_: object) -> None:
        """Handle a ^C: it waits."""
        self.waits = True

    @contextmanager
    def let_through(self) -> Iterator[None]:
        """Let a ^C that waits, or that comes, interrupt the block."""
        held = _handle_interrupts(signal.default_int_handler)
        try:
            self.deliver()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # one that waits is raised right here
            yield
        finally:
            _handle_interrupts(held)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def deliver(self) -> None:
        """Send the ^C that waits once more; it comes when this thread takes signals again."""
        if self.waits:
            self.waits = False
            signal.raise_signal(signal.SIGINT)


@contextmanager
def interrupts_held() -> Iterator[HeldInterrupts]:
    """Let a ^C wait until the block is over.

    By the mask, which a child inherits; and by a handler, for another thread may be sent the signal.
    """
    held = HeldInterrupts()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    before = _handle_interrupts(held.take)
    try:
        yield held
    finally:
        _handle_interrupts(before)
        held.deliver()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _handle_interrupts(handler: Any) -> Any:
    """Have a ^C handled so; what handled it before. It stays as it is if ignored, and in other threads."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is threading.main_thread() and callable(before):
        signal.signal(signal.SIGINT, handler)
    return before
