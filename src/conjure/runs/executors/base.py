"""Where a run's supervisor can be started: the seam between conjure and a machine, or a cluster.

Main entry: `Executor`. Invariant: an executor starts a process and nothing else. Code, environment, mounts,
log, outputs and the record are the supervisor's work, wherever it is; docs/executors.md says how to write
one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

from conjure.runs.executors.run_lock import RunLock
from conjure.runs.executors.supervisor_request import SupervisorRequest


class SupervisorState(StrEnum):
    """What an executor knows of a supervisor that it was asked to start."""

    WAITING = "waiting"
    """It is still to be started."""
    STARTED = "started"
    """It was started. Whether it lives, its heartbeat tells."""
    GONE = "gone"
    """It was not started and will not be, or its process has ended."""
    UNKNOWN = "unknown"
    """The executor cannot tell now. Nothing is concluded from that."""


class Executor(ABC):
    """A place where supervisors can be started.

    Attributes:
        name: What its runs are said to be with while they wait there.
    """

    name: str

    @abstractmethod
    def start(self, number: int, request: SupervisorRequest) -> None:
        """Start the supervisor of a run, or see to it that it will be started; return at once.

        The supervisor is ``request.arguments(number)``, with ``request.to_json()`` on its standard input.

        Raises:
            ExecutorError: It cannot be started.
        """

    @abstractmethod
    def state(self, number: int) -> SupervisorState:
        """What is known of a run's supervisor."""

    @abstractmethod
    def end(self, number: int) -> None:
        """See to it that a supervisor which is still to be started never is; end one that was started.

        It is called when somebody stops or kills a run; one whose supervisor is at work hears of that from
        the database, too.
        """

    @contextmanager
    def prepare(self, number: int, lock: RunLock, request: SupervisorRequest) -> Iterator[Callable[[], None]]:
        """Get ready while the caller still writes down what the run needs.

        Args:
            number: The run.
            lock: Its lock, held by the caller.
            request: The run, and what its command is given.

        Yields:
            What starts the supervisor; if it is not called, nothing is started.
        """

        def start() -> None:
            lock.release()  # for the supervisor to take, wherever it is
            self.start(number, request)

        yield start
