"""Serving the pages of a home until ^C.

Main entry: `serve`. Invariant: nothing beyond this machine can reach them unless a key is set.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from socket import socket

from conjure.core.home import Home
from conjure.errors import UsageError
from conjure.http.api_keys import ApiKeys, load_api_keys
from conjure.http.server import HttpServer, Shutdown, address_of, listen
from conjure.runs.lifecycle.open_store import open_store
from conjure.web.app import create_app
from conjure.web.routes.playground import LazyPlayground
from conjure.web.session import Session
from conjure.web.site import Site

DEFAULT_PORT = 8180


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """How to serve.

    Attributes:
        host: Address to listen on.
        port: 0 for a free one; None for `DEFAULT_PORT`, or a free one if that is taken.
        allowed_hosts: Host names to answer to beside this machine's own.
        api_key_file: Keys that open the page beside its token; needed beyond loopback.
        allow_actions: Whether pages may change runs.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    allowed_hosts: tuple[str, ...] = ()
    api_key_file: Path | None = None
    allow_actions: bool = False


def serve(home: Home, options: ServingOptions, ready: Callable[[str], object]) -> None:
    """Serve until a signal ends it.

    Args:
        home: Whose runs.
        options: How.
        ready: Told the address, token included, once requests are taken.

    Raises:
        UsageError: The address cannot be listened on, or needs a key.
        StoreError: The home cannot be used.
    """
    with open_store(home):  # what is wrong with the home is told before there is a page
        pass
    keys = load_api_keys(options.api_key_file)
    bound = _listen(options, keys)
    session = Session(bound.getsockname()[1], keys)
    site = Site(home, allow_actions=options.allow_actions)
    playground = LazyPlayground()
    hosts = [name.lower() for name in options.allowed_hosts]
    app = create_app(site, session, playground, allowed_hosts=hosts)
    server = HttpServer(app, bound, Shutdown(playground.drain, playground.abort))
    try:
        server.run(lambda: ready(f"{address_of(bound)}/?token={session.token}"))
    finally:
        playground.end()


def _listen(options: ServingOptions, keys: ApiKeys | None) -> socket:
    has_key = keys is not None
    if options.port is None:
        with suppress(UsageError):
            return listen(options.host, DEFAULT_PORT, has_key=has_key)
    return listen(options.host, options.port or 0, has_key=has_key)
