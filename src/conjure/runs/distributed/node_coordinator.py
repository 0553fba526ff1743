"""The other nodes of a run, as its supervisor on the first node sees them.

Main entry: `WorkerNodes`; the other end is `worker_ranks`. Invariant: a node that is lost, or does not join,
is told of once, and nobody waits for it any longer; what a node has printed before is not lost with it.
"""

import hmac
import os
import selectors
import signal
import time
from dataclasses import dataclass, field
from typing import Any

from conjure.core.units import format_duration
from conjure.rank_protocol import Activity
from conjure.runs.distributed.connection import (
    LOOPBACK,
    Connection,
    Invitation,
    Message,
    listen,
    own_addresses,
)
from conjure.runs.executors.command import Exit, NotStartedError
from conjure.runs.host.hang_detector import RankState
from conjure.runs.host.process import host_id

JOIN_WITHIN_S = 300.0
_HELLO_WITHIN_S = 10.0
_POLL_S = 0.2
_KILLED_WITHIN_S = 5.0
_STALE_S = 2.0
_TOKEN_BYTES = 32


class NodeLostError(Exception):
    """A node of the run is gone, or has not joined."""


@dataclass(slots=True)
class WorkerNode:
    """Another node of the run.

    Attributes:
        node: Which of the nodes, from 1; the first one, which is this, has 0.
        host: What people call it.
        connection: To its supervisor.
        is_ready: Whether it has all that the command needs.
        has_ended: Whether nothing of the command is left there, as far as is known.
        failure: How one of its ranks failed, or that the node is gone; None once it was told.
        not_started: Why the command cannot be executed there.
        ranks: How its ranks were found last.
        seen_at: When that was.
    """

    node: int
    host: str
    connection: Connection
    is_ready: bool = False
    has_ended: bool = False
    failure: Exit | None = None
    not_started: NotStartedError | None = None
    ranks: dict[int, RankState] = field(default_factory=dict)
    seen_at: float = 0.0


class WorkerNodes:
    """All of them.

    Args:
        nodes: How many nodes carry out the command, with this one.
        attempt: Which of the run's supervisors this is.
        job: See `Invitation`.
        join_within_s: How long to wait for them.

    Attributes:
        told_to_end: Whether the job of one of them was told to end.
    """

    def __init__(self, nodes: int, attempt: int, job: str = "", join_within_s: float = JOIN_WITHIN_S) -> None:
        self._nodes = nodes
        self._workers: dict[int, WorkerNode] = {}
        self._guests: list[tuple[Connection, float]] = []
        self._listener = listen()
        self._listener.setblocking(False)
        self._join_within_s = join_within_s
        self._selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._is_waiting = True
        self._drop_at: float | None = None
        self.told_to_end = False
        port = self._listener.getsockname()[1]
        token = os.urandom(_TOKEN_BYTES).hex()
        self.invitation = Invitation(attempt, job, host_id(), own_addresses(), port, token)

    # ---- before the command --------------------------------------------------------------------------------

    def wait(self) -> None:
        """Wait until all have joined and have what the command needs.

        Raises:
            NodeLostError: One does not join, or is gone again.
            NotStartedError: The command cannot be executed on one of them.
        """
        deadline = time.monotonic() + self._join_within_s
        while not self._are_ready():
            self._selector.select(_POLL_S)
            self._receive_guests()
            self.read()
            for worker in self._workers.values():
                if worker.not_started is not None:
                    raise worker.not_started
                if worker.failure is not None:
                    raise NodeLostError(worker.failure.message)
            missing = [node for node in range(1, self._nodes) if node not in self._workers]
            if missing and time.monotonic() > deadline:
                raise NodeLostError(self._absence(missing[0]))
        self._end_listening()

    def _are_ready(self) -> bool:
        return len(self._workers) == self._nodes - 1 and all(each.is_ready for each in self._workers.values())

    def _absence(self, node: int) -> str:
        where = ", ".join(self.invitation.addresses)
        return (
            f"{self._name(node)} did not join within {format_duration(self._join_within_s)}: its job was not"
            f" started, or cannot connect to port {self.invitation.port} of {where or 'this node'}"
        )

    def _receive_guests(self) -> None:
        """Let in those who know the token; others are sent away."""
        now = time.monotonic()
        try:
            connected, _ = self._listener.accept()
        except OSError:
            pass
        else:
            self._guests.append((Connection(connected), now + _HELLO_WITHIN_S))
        staying = []
        for guest, until in self._guests:
            messages = guest.receive()
            worker = self._let_in(guest, messages[0]) if messages else None
            if worker is not None:
                self._take(worker, messages[1:])
            elif messages or guest.is_lost or now > until:
                guest.close()
            else:
                staying.append((guest, until))
        self._guests = staying

    def _let_in(self, guest: Connection, hello: Message) -> WorkerNode | None:
        try:
            token = str(hello["token"]).encode()
            if not hmac.compare_digest(token, self.invitation.token.encode()):
                return None
            node, host = int(hello["node"]), str(hello["host"])
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
            return None
        if node in self._workers or not 0 < node < self._nodes:
            return None
        self._workers[node] = WorkerNode(node, host, guest)
        self._selector.register(guest, selectors.EVENT_READ)
        return self._workers[node]

    def _end_listening(self) -> None:
        for guest, _ in self._guests:
            guest.close()
        self._guests.clear()
        if self._listener.fileno() >= 0:
            self._selector.unregister(self._listener)
            self._listener.close()

    # ---- the command ---------------------------------------------------------------------------------------

    @property
    def hosts(self) -> list[str]:
        """What people call the other nodes, in the order of their ranks."""
        return [self._workers[node].host for node in sorted(self._workers)]

    @property
    def own_address(self) -> str:
        """This machine's address, as the others reach it."""
        addresses = [self._workers[node].connection.own_address for node in sorted(self._workers)]
        return next((each for each in addresses if each != LOOPBACK), LOOPBACK)

    def start(self, port: int) -> None:
        """Have them start the command.

        Args:
            port: Where rank 0 listens.
        """
        self._send("start", port=port)

    def watch(self, selector: selectors.BaseSelector) -> None:
        """Have a selector wake up when one of them has something to say."""
        for worker in self._workers.values():
            self._forget(self._selector, worker)
            if not worker.connection.is_lost:
                selector.register(worker.connection, selectors.EVENT_READ, None)
        self._selector.close()
        self._selector, self._is_waiting = selector, False

    def read(self) -> list[tuple[str, bytes]]:
        """What the command wrote there, as (stream, bytes)."""
        written = []
        for worker in self._workers.values():
            if not worker.has_ended:
                written += self._take(worker, worker.connection.receive())
            if not worker.has_ended and self._drop_at is not None and time.monotonic() > self._drop_at:
                self._part(worker)
        return written

    def _take(self, worker: WorkerNode, messages: list[Message]) -> list[tuple[str, bytes]]:
        written = []
        for message in messages:
            kind = message["kind"]
            if kind == "output":
                written.append((message["stream"], message["data"].encode("latin-1")))
            elif kind == "ready":
                worker.is_ready = True
            elif kind == "not started":
                self._note_not_started(worker, message["message"], message["exit_code"])
            elif kind == "ranks":
                worker.ranks, worker.seen_at = _states(message["ranks"]), time.monotonic()
            elif kind == "failed":
                worker.failure = Exit(message["code"], message["signal"], message["message"])
            elif kind == "told to end":
                self.told_to_end = True
            elif kind == "ended":
                self._part(worker)
        if worker.connection.is_lost and not worker.has_ended:
            self._part(worker)
            words = f"{self._name(worker.node)} ({worker.host}) was lost"
            worker.failure = worker.failure or Exit(signal=signal.SIGKILL, message=words, is_lost=True)
        return written

    def _note_not_started(self, worker: WorkerNode, message: str, exit_code: int) -> None:
        words = f"{self._name(worker.node)} ({worker.host}): {message}"
        if worker.is_ready:
            worker.failure = Exit(code=exit_code, message=words)
        else:
            worker.not_started = NotStartedError(words, exit_code)
        self._part(worker)

    def _part(self, worker: WorkerNode) -> None:
        worker.has_ended = True
        worker.ranks = {}
        self._forget(self._selector, worker)
        worker.connection.close()

    @staticmethod
    def _forget(selector: selectors.BaseSelector, worker: WorkerNode) -> None:
        if worker.connection.fileno() in (selector.get_map() or {}):
            selector.unregister(worker.connection)

    def take_failures(self) -> list[Exit]:
        """How the command failed there, each told once."""
        found = []
        for worker in self._workers.values():
            if worker.failure is not None:
                found.append(worker.failure)
                worker.failure = None
        return found

    @property
    def have_ended(self) -> bool:
        """Whether nothing of the command is left on any of them, as far as is known."""
        return all(worker.has_ended for worker in self._workers.values())

    def ranks(self) -> dict[int, RankState] | None:
        """How the ranks there were found last; None while that is not known of all."""
        now = time.monotonic()
        going = [worker for worker in self._workers.values() if not worker.has_ended]
        if any(now - worker.seen_at > _STALE_S for worker in going):
            return None
        return {rank: state for worker in going for rank, state in worker.ranks.items()}

    def terminate(self) -> None:
        """Ask the command to end there."""
        self._send("terminate")

    def fail(self) -> None:
        """Have the command's processes end there because another one has failed."""
        self._send("fail")

    def kill(self) -> None:
        """End it there; a node that does not say that it has is not waited for."""
        if self._drop_at is None:
            self._drop_at = time.monotonic() + _KILLED_WITHIN_S
            self._send("kill")

    def close(self) -> None:
        """Part with all; those who are not done end what they have started."""
        self._end_listening()
        for worker in self._workers.values():
            if not worker.has_ended:
                self._part(worker)
        if self._is_waiting:  # else it is somebody else's
            self._selector.close()
            self._is_waiting = False

    def _send(self, kind: str, **values: object) -> None:
        for worker in self._workers.values():
            if not worker.has_ended:
                worker.connection.send(kind, **values)

    def _name(self, node: int) -> str:
        return f"node {node + 1} of {self._nodes}"


def _states(ranks: dict[str, list[Any]]) -> dict[int, RankState]:
    return {int(rank): RankState(Activity(int(state[0])), *state[1:]) for rank, state in ranks.items()}
