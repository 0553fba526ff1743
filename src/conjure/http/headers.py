"""Headers of a request as they were sent, and those that every answer has.

Main entries: `header_values`, `add_default_headers`.
"""

from collections.abc import MutableSequence

from starlette.types import Scope

# An answer that says otherwise keeps its own value.
DEFAULT_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


def header_values(scope: Scope, name: bytes) -> list[str]:
    """Every value a request has for a header, by its lower-case name."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def add_default_headers(headers: MutableSequence[tuple[bytes, bytes]]) -> None:
    """Add the headers that protect a page or an answer from other sites, where they are missing."""
    present = {name.lower() for name, _ in headers}
    headers.extend((name, value) for name, value in DEFAULT_HEADERS if name not in present)
