"""Server-sent events: one chunk of JSON after the other, until they end or the client has gone.

Main entries: `EventStream`, `until_disconnected`. Invariant: when the client goes, what makes the events is
closed at once; there is never an ``id:`` line, which would make a comment an empty event to some clients.
"""

import asyncio
import math
import re
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.types import Receive, Scope, Send

from conjure.http.application import errors_log
from conjure.http.errors import HttpError, to_http_error, to_json_bytes

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
_PING = b": ping\n\n"
_PING_AFTER_S = 15.0  # of silence: proxies close connections that say nothing
# NEL and the line and paragraph separators in UTF-8: httpx, for one, ends lines there.
_LINE_ENDS = re.compile(rb"\xc2\x85|\xe2\x80[\xa8\xa9]")
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def event(content: Any) -> bytes:
    """One event, in one line even to clients for which more than CR and LF end one."""
    return b"data: " + _LINE_ENDS.sub(_escaped, to_json_bytes(content)) + b"\n\n"


def _escaped(character: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(character[0].decode())


class EventStream:
    """An answer made of events; as an ASGI application it sends itself.

    Args:
        events: Gives events as bytes; closed when the client has gone. An error it raises is sent as an
            event and ends the stream; one that is a fault of the server is logged.

    Attributes:
        complete: Whether all events came, without an error.
    """

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        self._events = events
        self._quiet_since = math.inf  # as long as something is being sent
        self.complete = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send all events."""
        sending = asyncio.create_task(self._send_all(send))
        pinging = asyncio.create_task(self._ping(send))
        try:
            await _first_of(sending, receive)
        finally:
            await _cancel(pinging)
            await _cancel(sending)
            await self._events.aclose()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
        self._quiet_since = time.monotonic()
        async with aclosing(self._with_error()) as events:
            async for body in events:
                self._quiet_since = math.inf
                await send({"type": "http.response.body", "body": body, "more_body": True})
                self._quiet_since = time.monotonic()
        self._quiet_since = math.inf
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _with_error(self) -> AsyncGenerator[bytes, None]:
        """The events; an error becomes the last one."""
        try:
            async for body in self._events:
                yield body
            self.complete = True
        except Exception as error:  # noqa: BLE001 - the answer has begun, so an event must tell
            told = to_http_error(error)
            if told.status >= 500 and not isinstance(error, HttpError):
                errors_log.error("a stream failed: %s", error, exc_info=error)
            yield event(told.body)

    async def _ping(self, send: Send) -> None:
        """Send a comment whenever there was nothing to send for a while.

        A task of its own, because a timer for every event takes longer than sending it.
        """
        while True:
            left = self._quiet_since + _PING_AFTER_S - time.monotonic()
            if left > 0:
                await asyncio.sleep(min(left, _PING_AFTER_S))
            else:
                await send({"type": "http.response.body", "body": _PING, "more_body": True})
                self._quiet_since = time.monotonic()


async def until_disconnected(receive: Receive, work: Awaitable[T]) -> T | None:
    """The result of `work`, which is cancelled when the client goes; None then."""
    working = asyncio.ensure_future(work)
    try:
        await _first_of(working, receive)
        return working.result() if working.done() else None
    finally:
        await _cancel(working)


async def _first_of(work: asyncio.Future[Any], receive: Receive) -> None:
    """Wait until `work` is done or the client has gone."""
    leaving = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait([work, leaving], return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancel(leaving)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(task: asyncio.Future[Any]) -> None:
    """Cancel and wait, so that nothing of it goes on; its result or error stays with it."""
    if not task.done():
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task
