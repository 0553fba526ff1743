"""Who may ask: the Host and Origin checks, and the key or token.

Main entry: `check_access`. Invariant: every request passes here before it is routed, so no route can be
forgotten; what a browser sends for a page of another site is refused whatever key it carries.

Host: a name that an attacker's DNS may point to this machine (DNS rebinding) is not ours, so only loopback
names, the address the connection came in at and names that were allowed are, each with the right port.
Origin: browsers name the page that a request comes from; another site may not change anything here, nor read
anything, for no answer has a CORS header.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import urlsplit

from starlette.types import Scope

from conjure.http.errors import HttpError
from conjure.http.headers import header_values

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_HTTP_PORT = 80
_MOST_HEADERS = 100


@dataclass(frozen=True, slots=True)
class AccessRules:
    """What `check_access` lets in.

    Attributes:
        allowed_hosts: Host names beside this machine's own, ``NAME`` or ``NAME:PORT``, lower case.
        authenticated: Whether a request has the key or token; None asks for none.
        open_paths: Paths that need no key, exactly as they are routed.
    """

    allowed_hosts: Collection[str] = ()
    authenticated: Callable[[Scope], bool] | None = None
    open_paths: Collection[str] = ()


def check_access(scope: Scope, rules: AccessRules) -> None:
    """Refuse a request that may not be served.

    Raises:
        HttpError: 400 for a target that is no path, 431 for too many headers, 403 for a foreign host or site,
            401 without the key.
    """
    if len(scope["headers"]) > _MOST_HEADERS:
        raise HttpError(431, f"the request has more than {_MOST_HEADERS} headers")
    if not scope["path"].startswith("/"):
        raise HttpError(400, "the request's target must be a path")
    host = _allowed_host(scope, rules)
    _check_origin(scope, host)
    if rules.authenticated is None or scope["path"] in rules.open_paths:
        return
    if not rules.authenticated(scope):
        raise HttpError(
            401,
            "a valid API key is needed, as in the header Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _allowed_host(scope: Scope, rules: AccessRules) -> str:
    """The request's host, once it is known to be ours; lower case."""
    given = header_values(scope, b"host")
    host = given[0].lower() if len(given) == 1 else ""
    if host not in _own_hosts(scope) and host not in _allowed_names(scope, rules):
        raise HttpError(
            403,
            f"host {given[0]!r} is not served here; the server must be started with --allow-host to serve it"
            if given
            else "the request has no Host header",
            code="host_not_allowed",
        )
    return host


def _own_hosts(scope: Scope) -> set[str]:
    address, port = scope["server"]
    names = ("localhost", "127.0.0.1", "[::1]", _host_of(address))
    own = {f"{name}:{port}" for name in names}
    return own | set(names) if port == _HTTP_PORT else own


def _host_of(address: str) -> str:
    """An address as a URL has it; that of an IPv4 connection to an IPv6 socket is the IPv4 one."""
    if ":" not in address:
        return address
    mapped = IPv6Address(address).ipv4_mapped
    return f"[{address}]" if mapped is None else str(mapped)


def _allowed_names(scope: Scope, rules: AccessRules) -> set[str]:
    """Names that were allowed: as they are, which is the proxy's port, and with the port of the server."""
    return {*rules.allowed_hosts, *(f"{name}:{scope['server'][1]}" for name in rules.allowed_hosts)}


def _check_origin(scope: Scope, host: str) -> None:
    unsafe = scope["method"] not in _SAFE_METHODS
    site = header_values(scope, b"sec-fetch-site")
    navigates = not unsafe and header_values(scope, b"sec-fetch-mode") == ["navigate"]
    if ("cross-site" in site and not navigates) or (unsafe and not {*site} <= {"same-origin", "none"}):
        raise _foreign("another site")
    for origin in header_values(scope, b"origin") if unsafe else ():
        if not _is_same_origin(origin, host):
            raise _foreign(repr(origin))


def _is_same_origin(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and origin.lower() == f"{parts.scheme}://{host}"


def _foreign(origin: str) -> HttpError:
    return HttpError(403, f"requests from pages of {origin} are refused", code="cross_site")
