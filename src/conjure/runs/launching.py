"""Handing a run from the command that cast it to a supervisor of its own.

Main entry: `start_supervisor`; its other end is `supervisor`. Invariant: what the run was asked, secrets
included, goes through a pipe; it is never on disk or on a command line.
"""

import json
import os
import signal
import subprocess
import sys

from conjure.core.home import HOME_VARIABLE, Home
from conjure.errors import ExecutorError
from conjure.reporting import OWN_VARIABLES
from conjure.runs.custody import RunLock
from conjure.runs.spec import RunSpec

SUPERVISOR_LOG = "supervisor.log"


def start_supervisor(home: Home, number: int, spec: RunSpec, lock: RunLock, *, requested: float) -> None:
    """Start a supervisor and wait until it has taken over.

    Args:
        home: Where conjure keeps things.
        number: The run.
        spec: What it was asked, secrets included.
        lock: Its lock, which the supervisor holds too from now on.
        requested: When it was requested, by `time.monotonic`, which all processes of a machine share.

    Raises:
        ExecutorError: It could not be started.
    """
    arguments = [sys.executable, "-P", "-m", "conjure.runs.supervisor", str(number), str(lock.descriptor)]
    variables = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}
    variables[HOME_VARIABLE] = str(home.root)
    message = json.dumps({"spec": spec.to_json(secrets=True), "requested": requested})
    # A ^C at this moment is for us, not for a child that has not left the terminal's session yet.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with (home.run_folder(number) / SUPERVISOR_LOG).open("ab") as log:
            process = subprocess.Popen(
                arguments,
                env=variables,
                cwd=home.root,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(lock.descriptor,),
                start_new_session=True,
            )
            process.communicate(message.encode())
    except OSError as error:
        raise ExecutorError(f"the run's supervisor could not be started: {error.strerror}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if process.returncode != 0:
        raise ExecutorError(
            f"the run's supervisor could not start (exit {process.returncode})",
            fix=f"see why: {home.run_folder(number) / SUPERVISOR_LOG}",
        )
