"""Errors as HTTP answers: one shape for all of them, that of OpenAI's API.

Main entries: `HttpError`, `to_http_error`. Invariant: this is the one table from conjure's errors to HTTP
statuses, and no answer holds a traceback.
"""

import json
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from conjure.errors import (
    ConjureError,
    ContextLengthError,
    DataError,
    ModelError,
    NotFoundError,
    UsageError,
)

INVALID = "invalid_request_error"
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_SHOWN = 60  # characters of a wrong value that an error repeats

# What the `type` of an error is where nothing else is said.
_TYPES = {
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}

_STATUSES: Mapping[type[ConjureError], tuple[int, str | None]] = {
    ContextLengthError: (400, "context_length_exceeded"),
    UsageError: (400, None),
    DataError: (400, None),
    NotFoundError: (404, None),
}


class HttpError(Exception):
    """A request that is not served, and why.

    Attributes:
        status: HTTP status.
        code: Stable name for programs.
        param: The field of the request that is wrong.
        headers: Of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """What the answer says, as JSON."""
        type_ = _TYPES.get(self.status, INVALID)
        return {"error": {"message": str(self), "type": type_, "param": self.param, "code": self.code}}


class JsonResponse(Response):
    """An answer in JSON; half of a surrogate pair, which UTF-8 cannot carry, goes as its escape."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return to_json_bytes(content)


def to_json_bytes(content: Any) -> bytes:
    """A value as compact JSON; NaN and infinity are refused."""
    return _JSON.encode(content).encode("utf-8", "backslashreplace")


def error_response(error: HttpError) -> JsonResponse:
    """The answer to a request that is not served."""
    return JsonResponse(error.body, error.status, error.headers)


def to_http_error(error: Exception) -> HttpError:
    """What an exception is to the client; whatever has no other meaning is a fault of the server."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, HTTPException):
        return HttpError(error.status_code, error.detail, headers=error.headers)
    for kind, (status, code) in _STATUSES.items():
        if isinstance(error, kind):
            hint = f" ({error.hint})" if error.hint else ""
            return HttpError(status, f"{error}{hint}", code=code)
    if isinstance(error, ModelError):
        return HttpError(500, str(error), code="model_failed")
    return HttpError(500, "the server failed to answer this request; its log says why", code="internal_error")


def bad_value(param: str, words: str, *, code: str | None = None) -> HttpError:
    """The error for one field of the request: its name, and the rest of the sentence."""
    return HttpError(400, f"{param} {words}", param=param, code=code)


def unavailable(message: str) -> HttpError:
    """The error while something is loading or shutting down."""
    return HttpError(503, message, headers={"Retry-After": "1"})


def queue_full(waiting: int) -> HttpError:
    """The error while as many requests wait as may."""
    words = f"{waiting} requests are waiting already; try again later"
    return HttpError(429, words, code="queue_full", headers={"Retry-After": "1"})


def shown(value: Any) -> str:
    """A value of a request in an error: short, whatever it is."""
    try:
        words = repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits, a list of lists of lists
        return f"a {type(value).__name__} that is too long to show"
    return words if len(words) <= _SHOWN else f"{words[:_SHOWN]}…"
