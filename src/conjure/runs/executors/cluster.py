"""What conjure needs of a cluster: the seam between its queue and a program that places jobs on nodes.

Main entry: `Cluster`. Invariant: what cannot be asked is an `UnreachableError` and nothing else; nobody
concludes from it that a job has ended.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from conjure.core.config import ExecutorSettings
from conjure.errors import ExecutorError

NO_SUCH_PROGRAM = 127
JOB_VARIABLE = "CONJURE_JOB"  # tells the nodes of a job which one it is, where another may have its name


class UnreachableError(ExecutorError):
    """The cluster does not answer now."""

    code = "executor_unreachable"


class LimitReachedError(ExecutorError):
    """The cluster takes no such job now, for a limit of the account's or the job's own."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """Cores, GPUs and bytes of memory: of a node, or that a run asks for."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory_bytes: float = 0.0

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(self.cpus + other.cpus, self.gpus + other.gpus, self.memory_bytes + other.memory_bytes)

    def __sub__(self, other: "Amounts") -> "Amounts":
        return self + Amounts(-other.cpus, -other.gpus, -other.memory_bytes)

    def holds(self, other: "Amounts") -> bool:
        """Whether there is room for the others in these."""
        left = self - other
        return min(left.cpus, left.gpus, left.memory_bytes) >= 0


NOTHING = Amounts()


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node of the cluster: what it has, and what of that is free.

    Attributes:
        id: What the cluster calls it.
        name: What people are told.
    """

    id: str
    name: str
    total: Amounts
    free: Amounts


class JobState(StrEnum):
    """What a cluster says of a job."""

    PENDING = "pending"
    """It is still to be started."""
    RUNNING = "running"
    """It was started, and has not ended."""
    OVER = "over"
    """Nothing of it is left, as far as the cluster knows."""


@dataclass(frozen=True, slots=True)
class ClusterJob:
    """A job as the cluster tells of it.

    Attributes:
        id: As it was submitted.
        state: What has become of it.
        message: What the cluster says about that.
        exit_code: Of its entry point, where that ended by itself.
        node: The id of the node that it is on; empty where that is not told.
    """

    id: str
    state: JobState
    message: str = ""
    exit_code: int | None = None
    node: str = ""


class Cluster(ABC):
    """A cluster that the user has defined.

    Args:
        settings: What the user's configuration says of it.
    """

    has_queue: ClassVar[bool]
    """Whether jobs wait there in a line with those of others, and can be taken back while they do."""
    look_every_s: ClassVar[float]
    """How often to look at it while runs wait."""
    account: ClassVar[str]
    """Whom jobs run as, in words."""
    path: ClassVar[str]
    """Where a job's programs are looked for, in words."""

    def __init__(self, settings: ExecutorSettings) -> None:
        self._settings = settings

    @abstractmethod
    def nodes(self) -> list[ClusterNode]:
        """The nodes that are there, with what they have.

        Raises:
            UnreachableError: The cluster does not answer.
        """

    @abstractmethod
    def jobs(self) -> list[ClusterJob]:
        """All jobs that the cluster remembers.

        Raises:
            UnreachableError: The cluster does not answer.
        """

    @abstractmethod
    def submit(self, job: str, entrypoint: str, needs: Amounts) -> None:
        """Hand a job over.

        Args:
            job: Its id.
            entrypoint: A line for the shell.
            needs: What it takes of a node.

        Raises:
            UnreachableError: The cluster does not answer.
            ExecutorError: It refuses.
        """

    @abstractmethod
    def submit_together(
        self, jobs: Sequence[tuple[str, str]], needs: Amounts, nodes: Sequence[ClusterNode]
    ) -> None:
        """Hand over what several nodes are to carry out together.

        Args:
            jobs: For each node, the id of its job and a line for the shell; those that are there already are
                left out. Where the cluster makes one job of them, it has the first id.
            needs: What each takes of its node.
            nodes: One with room for each; none where too few have, and the cluster's queue is to choose.

        Raises:
            UnreachableError: The cluster does not answer.
            ExecutorError: It refuses.
        """

    @abstractmethod
    def submit_check(self, job: str, entrypoint: str, node: ClusterNode) -> None:
        """Hand a job over to one node, whose output is of interest; it takes as little as the cluster allows.

        Raises:
            UnreachableError: The cluster does not answer.
            ExecutorError: It refuses.
        """

    @abstractmethod
    def output(self, job: str) -> str:
        """What a check has printed, its last line at least.

        Raises:
            UnreachableError: The cluster, or the node that it was on, does not answer.
        """

    @abstractmethod
    def withdraw(self, job: str) -> None:
        """Take a job back, if it has not been started.

        Raises:
            UnreachableError: The cluster does not answer.
        """
