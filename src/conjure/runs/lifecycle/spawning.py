"""Handing a run from the command that cast it to a supervisor of its own.

Main entry: `Launch`; its other end is `supervisor`. Invariant: what the run was asked, secrets included, goes
through a pipe; it is never on disk or on a command line.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from conjure.core.home import HOME_VARIABLE, Home
from conjure.errors import ExecutorError
from conjure.reporting import OWN_VARIABLES
from conjure.runs.environments.local_packages import with_absolute_links
from conjure.runs.lifecycle.ownership import RunLock
from conjure.runs.schema.spec import RunSpec

SUPERVISOR_LOG = "supervisor.log"


class Launch:
    """A supervisor that is starting up: its interpreter gets ready while the caller still prepares the run.

    A context manager: if the block ends before `hand_over`, the supervisor goes away having done nothing.

    Args:
        home: Where conjure keeps things.
        number: The run.
        lock: Its lock, which the supervisor holds too from now on.

    Raises:
        ExecutorError: It could not be started.
    """

    def __init__(self, home: Home, number: int, lock: RunLock) -> None:
        self._log = home.run_folder(number) / SUPERVISOR_LOG
        arguments = [
            sys.executable,
            "-P",
            "-m",
            "conjure.runs.lifecycle.supervisor",
            str(number),
            str(lock.descriptor),
        ]
        variables = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}
        variables = with_absolute_links(variables, Path.cwd())
        variables[HOME_VARIABLE] = str(home.root)
        try:
            # A ^C at this moment is for us, not for a child that has not left the terminal's session yet.
            with _interrupts_held(), self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    arguments,
                    env=variables,
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

    def hand_over(self, spec: RunSpec, *, requested: float) -> None:
        """Give the run away, and wait until the supervisor has taken it.

        Args:
            spec: What was asked, secrets included.
            requested: When, by `time.monotonic`, which all processes of a machine share.

        Raises:
            ExecutorError: The supervisor died before it could.
        """
        message = json.dumps({"spec": spec.to_dict(secrets=True), "requested": requested})
        with _interrupts_held():  # else the run might be taken and called off at the same time
            self._process.communicate(message.encode())
        if self._process.returncode != 0:
            raise ExecutorError(
                f"the run's supervisor could not start (exit {self._process.returncode})",
                fix=f"see {self._log}",
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See to it that nobody waits: a supervisor that hears nothing goes away."""
        if self._process.returncode is None:
            self._process.communicate()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let a ^C wait until the block is over."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
