"""Addresses of servers of this machine.

Main entry: `local_address`.
"""

_ON_ALL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not bound


def local_address(host: str, port: float) -> str:
    """The URL that a server is reached at from this machine, by the host it listens on.

    The port may be a run's metric, as which it is a float.
    """
    host = _ON_ALL.get(host, host)
    return f"http://[{host}]:{port:.0f}" if ":" in host else f"http://{host}:{port:.0f}"
