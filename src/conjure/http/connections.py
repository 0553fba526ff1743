"""One connection: how many there may be, and how long one may say nothing.

Main entry: `BoundedConnection`. Invariant: a client that connects and sends nothing, or sends its headers
byte by byte, is closed after `HEADERS_TIMEOUT_S`; refusals before a request is understood are JSON as well.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from conjure.http.errors import HttpError, to_json_bytes, unavailable

HEADERS_TIMEOUT_S = 20.0
MOST_CONNECTIONS = 512
_BUSY = unavailable(f"the server has {MOST_CONNECTIONS} connections open; try again later")


class BoundedConnection(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with bounds."""

    _waiting: asyncio.TimerHandle | None = None
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take a connection, unless there are too many."""
        super().connection_made(transport)
        self._refused = len(self.connections) > MOST_CONNECTIONS
        if len(self.connections) > 2 * MOST_CONNECTIONS:
            transport.abort()
        else:
            self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        """Read; whether a whole request has come decides whether the clock runs."""
        if self._refused:  # told only now: a socket closed with data unread loses what was written to it
            self.transport.write(_raw_answer(_BUSY))
            self.transport.close()
            return
        super().data_received(data)
        if self.conn.our_state is not h11.IDLE:
            self._stop_waiting()
        elif self._waiting is None:
            self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

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
