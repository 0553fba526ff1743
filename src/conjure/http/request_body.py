"""Reading a request's JSON body, within limits of size, time and depth.

Main entry: `read_json_object`. Invariant: no more than the limit is ever held, whatever the client announces,
and what is returned is an object without NaN, infinity or a key given twice.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from conjure.core.units import format_duration
from conjure.http.daemon_threads import in_daemon_thread
from conjure.http.errors import HttpError, shown

LARGEST_BODY = 8 << 20  # bytes: some 40 prompts of 32,000 ids each
BODY_TIMEOUT_S = 30.0
LONG_BODY = 8192  # bytes: what is done with longer ones in the event loop would hold up streams


async def read_json_object(
    request: Request, *, most_bytes: int = LARGEST_BODY, timeout_s: float = BODY_TIMEOUT_S
) -> dict[str, Any]:
    """The request's body, which must be a JSON object.

    Raises:
        HttpError: 415 without the JSON content type, 413 beyond `most_bytes`, 408 when it does not come in
            time, 400 when it is no JSON object.
    """
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise HttpError(415, "the body must be JSON, with the header Content-Type: application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HttpError(415, "the body must not be compressed")
    body = await _read(request, most_bytes, timeout_s)
    # A large one takes a while, in which nothing else would go on in the event loop.
    return (
        parse_json_object(body) if len(body) <= LONG_BODY else await in_daemon_thread(parse_json_object, body)
    )


def parse_json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`.

    Raises:
        HttpError: 400 when there is none.
    """
    try:
        value = json.loads(body.decode(), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except HttpError:
        raise
    except RecursionError as error:
        raise HttpError(400, "the body is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise HttpError(400, f"the body is not UTF-8: byte {error.start:,} cannot be read") from error
    except json.JSONDecodeError as error:
        raise HttpError(
            400, f"the body is not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from error
    except ValueError as error:  # a whole number of thousands of digits
        raise HttpError(400, "the body contains a number that is too long") from error
    if not isinstance(value, dict):
        raise HttpError(400, "the body must be a JSON object, such as {}")
    return value


async def _read(request: Request, most_bytes: int, timeout_s: float) -> bytes:
    too_large = HttpError(413, f"the body is too large; at most {most_bytes:,} bytes are read")
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > most_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most_bytes:
                    raise too_large
    except TimeoutError as error:
        raise HttpError(408, f"the body was not received within {format_duration(timeout_s)}") from error
    except ClientDisconnect as error:
        raise HttpError(400, "the connection was closed before the body was complete") from error
    return bytes(body)


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise HttpError(400, f"the body contains {shown(name)} more than once", param=name)
        found[name] = value
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise HttpError(400, f"the body is not JSON: {name} is not a JSON number")
