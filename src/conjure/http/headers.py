"""Headers of a request as they were sent, and those that every answer has.

Main entries: `header_values`, `with_missing`.
"""

from collections.abc import Iterable

from starlette.types import Scope

Header = tuple[bytes, bytes]

# What protects a page or an answer from other sites. An answer that says otherwise keeps its own value.
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


def with_missing(headers: Iterable[Header], added: Iterable[Header]) -> list[Header]:
    """Headers, and those of `added` that they lack."""
    headers = list(headers)
    present = {name.lower() for name, _ in headers}
    return [*headers, *((name, value) for name, value in added if name not in present)]
