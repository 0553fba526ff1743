"""The outer shell of an application: checks before routing, one error shape, headers, a line of log.

Main entry: `application`. Invariant: every request is checked before it is routed, every answer has an
``x-request-id``, and an error of any kind is answered in the shape of `HttpError`.
"""

import logging
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conjure.core.quoting import printable
from conjure.errors import ConjureError
from conjure.http.access_control import AccessRules, check_access
from conjure.http.errors import HttpError, error_response, to_http_error
from conjure.http.headers import DEFAULT_HEADERS, header_values, with_missing

requests_log = logging.getLogger("conjure.http.requests")
errors_log = logging.getLogger("conjure.http.errors")

_REQUEST_ID = re.compile(r"[\w.:-]{1,100}", re.ASCII)


def application(
    routes: Sequence[BaseRoute],
    rules: AccessRules,
    *,
    advice: Mapping[str, str] | None = None,
) -> ASGIApp:
    """Routes behind all checks.

    Args:
        routes: Of Starlette.
        rules: Who may ask.
        advice: What to say of paths that clients get wrong: path → the right one.
    """
    inner = Starlette(
        routes=routes,
        exception_handlers={
            HTTPException: _routing_error(advice or {}),
            HttpError: _known_error,
            ConjureError: _known_error,
            Exception: _known_error,
        },
    )
    inner.router.redirect_slashes = False  # a redirect would leave the checked path
    return _Shell(inner, rules)


def _routing_error(advice: Mapping[str, str]):  # noqa: ANN202 - one of Starlette's handlers
    async def answer(request: Request, error: Exception) -> Response:
        told = to_http_error(error)
        path = request.scope["path"]
        words = {
            404: f"there is no route {path!r}",
            405: f"{request.method} is not allowed for {path!r}",
        }.get(told.status, str(told))
        if told.status == 404 and path in advice:
            words += f"; did you mean {advice[path]!r}?"
        return error_response(HttpError(told.status, words, headers=told.headers))

    return answer


async def _known_error(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return error_response(to_http_error(error))


@dataclass
class _Answer:
    """What is known of the answer so far."""

    request_id: str
    status: int | None = None
    started: float = field(default_factory=time.monotonic)


class _Shell:
    """The ASGI application around Starlette's."""

    def __init__(self, inner: ASGIApp, rules: AccessRules) -> None:
        self._inner, self._rules = inner, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served")
        answer = _Answer(_request_id(scope))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                own = [*message.get("headers", ()), (b"x-request-id", answer.request_id.encode())]
                message = {**message, "headers": with_missing(own, DEFAULT_HEADERS)}
            await send(message)

        try:
            check_access(scope, self._rules)
            await self._inner(scope, receive, send_with_headers)
        except Exception as error:  # noqa: BLE001 - the last net of a request: told and logged, never lost
            await self._tell(error, answer, scope, receive, send_with_headers)
        finally:
            _log(scope, answer)

    async def _tell(
        self, error: Exception, answer: _Answer, scope: Scope, receive: Receive, send: Send
    ) -> None:
        told = to_http_error(error)
        if told.status >= 500 and not isinstance(error, HttpError):
            errors_log.error("%s: %s", answer.request_id, error, exc_info=error)
        if answer.status is None:
            await error_response(told)(scope, receive, send)


def _request_id(scope: Scope) -> str:
    """The client's own name for the request if it is a sane one, else a new one."""
    given = header_values(scope, b"x-request-id")
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return given[0]
    return f"req-{secrets.token_hex(12)}"


def _log(scope: Scope, answer: _Answer) -> None:
    requests_log.info(
        "%s %s %s %.0f ms %s",
        scope["method"],
        printable(scope["path"]),
        answer.status if answer.status is not None else "client gone",
        (time.monotonic() - answer.started) * 1000,
        answer.request_id,
    )
