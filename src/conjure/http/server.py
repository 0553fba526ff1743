"""Listening, serving and ending: a socket of our own, limits on connections, an orderly shutdown.

Main entries: `listen`, `HttpServer`. Invariant: the first SIGTERM or ^C lets answers in progress finish for
at most `DRAIN_S` seconds, then ends them; a second one ends them at once.
"""

import asyncio
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from conjure.core.text import error_text, local_address
from conjure.errors import UsageError
from conjure.http.connections import BoundedConnection

DRAIN_S = 15
_ABORT_S = 2  # for what was ended to say so to its clients
_LARGEST_HEADERS = 64 << 10  # bytes
_BACKLOG = 512


@dataclass(frozen=True, slots=True)
class Shutdown:
    """What is told when the server is to end.

    Attributes:
        drain: Take nothing new; called once, at the first signal.
        abort: End what is going on; called at the second signal, or when the time to drain is over.
    """

    drain: Callable[[], object]
    abort: Callable[[], object]


def listen(host: str, port: int, *, has_key: bool) -> socket.socket:
    """A socket that is bound, so that its port is known, and listens.

    Args:
        host: An address, or a name that this machine knows.
        port: 0 takes a free one.
        has_key: Whether a key or token will be asked for; without, only loopback addresses are taken.

    Raises:
        UsageError: The address is beyond loopback and there is no key, or it is none of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, OverflowError, UnicodeError) as error:
        raise UsageError(f"host {host!r} is not an address of this machine") from error
    if not has_key and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise UsageError(
            f"host {host} can be reached from other machines, and no API key is set",
            hint="add --api-key-file FILE, or leave --host out",
        )
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise UsageError(
            f"cannot listen on {host} port {port}: {error_text(error)}", hint="--port 0 takes a free port"
        ) from error
    bound.setblocking(False)
    return bound


def address_of(bound: socket.socket) -> str:
    """The URL that a socket is reached at from this machine."""
    host, port = bound.getsockname()[:2]
    return local_address(host, port)


class HttpServer:
    """A server on one socket.

    Args:
        app: Answers the requests.
        bound: From `listen`; closed in the end.
        shutdown: Told when to end.
    """

    def __init__(self, app: ASGIApp, bound: socket.socket, shutdown: Shutdown) -> None:
        self._bound, self._shutdown = bound, shutdown
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server = _Server(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=BoundedConnection,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",  # requests and errors are logged by the application
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=DRAIN_S + _ABORT_S,
                h11_max_incomplete_event_size=_LARGEST_HEADERS,
            )
        )

    def run(self, ready: Callable[[], object]) -> None:
        """Serve until a signal, or `end`, says to end.

        Args:
            ready: Called once requests are taken.
        """
        asyncio.run(self._serve(ready))

    def end(self) -> None:
        """What a SIGTERM does; from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end)

    async def _serve(self, ready: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._loop.add_signal_handler(number, self._end)
        serving = asyncio.create_task(self._server.serve(sockets=[self._bound]))
        while not self._server.started and not serving.done():
            await asyncio.sleep(0.001)
        if not serving.done():
            ready()
        await serving

    def _end(self) -> None:
        if self._server.should_exit:
            self._abort()
            return
        self._server.should_exit = True
        self._shutdown.drain()
        asyncio.get_running_loop().call_later(DRAIN_S, self._abort)

    def _abort(self) -> None:
        self._shutdown.abort()
        asyncio.get_running_loop().call_later(_ABORT_S, setattr, self._server, "force_exit", True)


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to us."""

    @contextmanager
    def capture_signals(self) -> Any:
        """Nothing; see `HttpServer`."""
        yield
