"""What connects the supervisors of a run that several nodes of a cluster carry out together.

Main entries: `Connection`, `Invitation`, `publish`, `accept`. The first node's supervisor listens, and leaves
an invitation in the database; those of the other nodes find it there. Invariant: a peer that has ended, or
whose machine or network is gone, is noticed within 10 seconds: the kernel sees to that.
"""

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from conjure.runs.database.base import Database
from conjure.runs.host.process import host_id

_READ_BYTES = 1 << 16
_MOST_BYTES = 1 << 20  # at a time
_LONGEST_MESSAGE_BYTES = 1 << 22
_CONNECT_TIMEOUT_S = 3.0
_KEY = "invitation"
LOOPBACK = "127.0.0.1"
_SAME_AS_IPV4 = "::ffff:"
_ANYWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))  # for documentation: nobody's
# A connection that is silent for 2 s is probed every 2 s; it is lost after 3 probes, or 8 s with no answer.
_OPTIONS = {"TCP_KEEPIDLE": 2, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 8000}

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Invitation:
    """Where the first node's supervisor listens.

    Attributes:
        attempt: Which of the run's supervisors it is.
        job: What the cluster calls the job that it is in, where one job has several nodes; else empty.
        host_id: Of its machine.
        addresses: Of its machine, the likeliest first.
        port: Where it listens.
        token: What whoever connects has to know.
    """

    attempt: int
    job: str
    host_id: str
    addresses: tuple[str, ...]
    port: int
    token: str


def publish(store: Database, number: int, invitation: Invitation) -> None:
    """Leave an invitation with what the supervisors of a run are given; nothing where the run has ended."""
    text = store.request(number)
    if text is not None:
        store.set_request(number, json.dumps(json.loads(text) | {_KEY: asdict(invitation)}))


def find_invitation(request: str, attempt: int) -> Invitation | None:
    """The invitation to an attempt in what `publish` has left; None if it is not there yet."""
    given = json.loads(request).get(_KEY)
    if given is None or given["attempt"] != attempt:
        return None
    return Invitation(**given | {"addresses": tuple(given["addresses"])})


def accept(invitation: Invitation) -> "Connection | None":
    """A connection to who has sent an invitation; None if there is none now."""
    local = [LOOPBACK] if invitation.host_id == host_id() else []
    for address in (*invitation.addresses, *local):
        with suppress(OSError):
            connected = socket.create_connection((address, invitation.port), _CONNECT_TIMEOUT_S)
            return Connection(connected)
    return None


def own_addresses() -> tuple[str, ...]:
    """The addresses that other machines may reach this one at, the likeliest first."""
    found = dict.fromkeys(_addresses())
    return tuple(address for address in found if _is_reachable(address))


def _addresses() -> Iterator[str]:
    for family, anywhere in _ANYWHERE:
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as own:
            own.connect((anywhere, 9))  # sends nothing: the kernel only chooses the address to send from
            yield own.getsockname()[0]
    with suppress(OSError):
        for *_, place in socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM):
            yield str(place[0])


def _is_reachable(address: str) -> bool:
    import ipaddress  # a millisecond that only runs on several nodes need pay

    with suppress(ValueError):
        parsed = ipaddress.ip_address(address)
        return not (parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified)
    return False


def listen() -> socket.socket:
    """A socket that listens at all of this machine's addresses."""
    with suppress(OSError):  # it may be switched off
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


class Connection:
    """Messages to and from a peer, each a line of JSON.

    Args:
        connected: The socket.

    Attributes:
        is_lost: Whether the peer is gone; what it had sent before may still be received.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(None)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _OPTIONS.items():
            if hasattr(socket, name):  # not everywhere
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._socket = connected
        self._begun = b""
        self.is_lost = False

    def fileno(self) -> int:
        """The descriptor, for who waits for messages."""
        return self._socket.fileno()

    @property
    def own_address(self) -> str:
        """This machine's address, as the peer reaches it."""
        return str(self._socket.getsockname()[0]).removeprefix(_SAME_AS_IPV4)

    @property
    def peer_address(self) -> str:
        """The peer's address."""
        return str(self._socket.getpeername()[0]).removeprefix(_SAME_AS_IPV4)

    def send(self, kind: str, **values: object) -> None:
        """Send a message; nothing to a peer that is gone."""
        if self.is_lost:
            return
        try:
            self._socket.sendall(json.dumps({"kind": kind, **values}).encode() + b"\n")
        except OSError:
            self.is_lost = True

    def receive(self) -> list[Message]:
        """The messages that are there, without waiting."""
        if self.is_lost:
            return []
        *whole, self._begun = (self._begun + self._read()).split(b"\n")
        self.is_lost = self.is_lost or len(self._begun) > _LONGEST_MESSAGE_BYTES
        try:
            return [json.loads(line) for line in whole]
        except (ValueError, RecursionError):  # it does not speak as we do
            self.is_lost = True
            return []

    def _read(self) -> bytes:
        """All that is there, within bounds: that a peer is gone is to be seen with the last that it sent."""
        found = b""
        while len(found) < _MOST_BYTES:
            try:
                data = self._socket.recv(_READ_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.is_lost = True
                break
            found += data
        return found

    def has_ended(self) -> bool:
        """Whether the peer is gone, or sends nothing more; may be asked by any thread."""
        try:
            return not self._socket.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def end(self) -> None:
        """Send nothing more; what was sent still arrives."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection."""
        self.is_lost = True
        self._socket.close()
