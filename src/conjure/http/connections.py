"""One connection: how many there may be, and how long one may say nothing.

Main entry: `BoundedConnection`. Invariant: a client that connects and sends nothing, or sends its headers
byte by byte, is closed after `HEADERS_TIMEOUT_S`, and so is one that goes on sending the body of a request
that was answered; one that reads nothing of an answer is closed after `WRITE_TIMEOUT_S`. Refusals before a
request is understood are JSON as well.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from conjure.http.errors import HttpError, to_json_bytes, unavailable

HEADERS_TIMEOUT_S = 20.0
WRITE_TIMEOUT_S = 60.0
MOST_CONNECTIONS = 512
_BUSY = unavailable(f"the server has {MOST_CONNECTIONS} connections open; try again later")


class BoundedConnection(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with bounds."""

    _waiting: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None  # while the client has not taken all that was sent
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take a connection, unless there are too many."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # tells of all data that waits, however little
        self._refused = len(self.connections) > MOST_CONNECTIONS
        if len(self.connections) > 2 * MOST_CONNECTIONS:
            transport.abort()
        else:
            self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        """Read; the clock runs unless a request is in progress."""
        if self._refused:  # told only now: a socket closed with data unread loses what was written to it
            self.transport.write(_raw_answer(_BUSY))
            self.transport.close()
            return
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._waiting is None:
            self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        self._stop_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the client to read, but not for ever: nor does a close end before all is sent."""
        super().pause_writing()
        self._start_write_timer(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        self._stop_write_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP request."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(_raw_answer(HttpError(400, f"{msg.rstrip('.').lower()}")))
        self.transport.close()

    def _wait_for_headers(self) -> None:
        self._waiting = self.loop.call_later(HEADERS_TIMEOUT_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _start_write_timer(self, unread: int) -> None:
        self._write_timer = self.loop.call_later(WRITE_TIMEOUT_S, self._check_reader, unread)

    def _check_reader(self, unread: int) -> None:
        """Give up a client that has read nothing since `unread` bytes were left; it may read slowly."""
        left = self.transport.get_write_buffer_size()
        if left < unread:
            self._start_write_timer(left)
        else:
            self.transport.abort()

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: a request to change the protocol is answered as if it had not asked."""


def _raw_answer(error: HttpError) -> bytes:
    """A whole answer, for where there is no request yet."""
    body = to_json_bytes(error.body)
    phrase = {400: "Bad Request", 503: "Service Unavailable"}[error.status]
    headers: dict[str, Any] = {
        "Content-Type": "application/json",
        "Content-Length": len(body),
        "Connection": "close",
        **error.headers,
    }
    lines = [f"HTTP/1.1 {error.status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
