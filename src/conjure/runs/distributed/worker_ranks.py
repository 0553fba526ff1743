"""The ranks of a run on a node beside the first one: started and ended as the first node's supervisor asks.

Main entries: `Leader`, `execute_worker_ranks`; the other end is `node_coordinator`. Invariant: when the first
node's supervisor is gone, everything of the command is ended here.
"""

import select
import time
from collections.abc import Callable

from conjure.runs.distributed.connection import Connection, Message
from conjure.runs.distributed.ranked_command import RankedProcesses, StartedRanks
from conjure.runs.executors.command import Exit, Job
from conjure.runs.host.hang_detector import RankState
from conjure.runs.host.process import Process

_READ_S = 0.1
_POLL_S = 0.5
_PARTING_S = 5.0


class Leader:
    """The supervisor on the first node, to which this one is connected.

    Args:
        connection: To it.

    Attributes:
        told_to_end: Whether this node's job was told to end; then the whole run is.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.told_to_end = False
        self._has_passed_on = False
        self._kept: list[Message] = []

    @property
    def is_lost(self) -> bool:
        """Whether it is gone, so that nothing here is of use any more."""
        return self._connection.is_lost

    def has_ended(self) -> bool:
        """The same, before anything is received; may be asked by any thread."""
        return self._connection.has_ended()

    @property
    def address(self) -> str:
        """Its address, as this machine reaches it."""
        return self._connection.peer_address

    def send(self, kind: str, **values: object) -> None:
        """Tell it something."""
        self._connection.send(kind, **values)

    def receive(self) -> list[Message]:
        """What it asks for; it is told that the job here is to end, if so."""
        if self.told_to_end and not self._has_passed_on:
            self._has_passed_on = True
            self.send("told to end")
        kept, self._kept = self._kept, []
        return kept + self._connection.receive()

    def wait_for_start(self) -> int | None:
        """Wait until it has the command started: where rank 0 listens; None if it does not want that."""
        while not self.is_lost:
            messages = self.receive()
            if messages:
                self._kept = messages[1:]  # a word to end may come with it
                return messages[0]["port"] if messages[0]["kind"] == "start" else None
            select.select([self._connection], [], [], _POLL_S)
        return None

    def part(self) -> None:
        """Send nothing more, and wait until all has arrived."""
        self._connection.end()
        until = time.monotonic() + _PARTING_S
        while not self.is_lost and time.monotonic() < until:
            select.select([self._connection], [], [], _POLL_S)
            self._connection.receive()
        self._connection.close()


def execute_worker_ranks(job: Job, port: int, exclude: Callable[[Process], bool], leader: Leader) -> None:
    """Carry out this node's part of a command, to its end.

    Args:
        job: The command.
        port: Where rank 0 listens.
        exclude: As for `start_command`.
        leader: Who has it started.

    Raises:
        NotStartedError: There is no such program, or it cannot be run.
    """
    assert job.ranks is not None
    started = StartedRanks(job, job.ranks, port, None, None)
    execution = _WorkerProcesses(job, started, exclude, leader)
    while execution.exit is None:
        for stream, data in execution.read(_READ_S):
            leader.send("output", stream=stream, data=data.decode("latin-1"))
        for message in leader.receive():
            execution.obey(message["kind"])
        if leader.is_lost:
            execution.kill()


class _WorkerProcesses(RankedProcesses):
    """The processes of a command on a worker node: what the first node has to know, it is told."""

    def __init__(
        self, job: Job, started: StartedRanks, exclude: Callable[[Process], bool], leader: Leader
    ) -> None:
        super().__init__(job, started, exclude, None)
        self._leader = leader

    def obey(self, kind: str) -> None:
        """Do what the supervisor on the first node asks for."""
        if kind == "terminate":
            self.terminate()
        elif kind == "kill":
            self.kill()
        elif kind == "fail":
            super().end_all(Exit())
            self._kill_stopped()

    def end_all(self, how: Exit, message: str | None = None) -> None:
        """End all processes here, and tell why, so that those on other nodes are ended as well."""
        if self._failed is None:
            self._leader.send("failed", code=how.code, signal=how.signal, message=message)
        super().end_all(how, message)

    def _judge(self, own: dict[int, RankState]) -> None:
        self._leader.send("ranks", ranks=own)
