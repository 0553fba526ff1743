"""Ports for servers that tests start as programs of their own. Main entry: `free_ports`.

Invariant: they are below those that the system gives to whoever asks for any port, and no other process of
tests is given the same; so nobody takes one before its server listens there, or while that is stopped.
"""

import errno
import random
import socket

_FIRST, _END = 12_000, 32_000  # Linux gives any port from 32768 on
_random = random.SystemRandom()  # not seeded, whatever a test seeds


def free_ports(count: int, *, above: int = 0) -> list[int]:
    """So many ports that nobody listens at.

    Args:
        count: How many.
        above: The ports so far above them are free as well.
    """
    found: list[int] = []
    while len(found) < count:
        port = _random.randrange(_FIRST, _END - above)
        if all(_reserve(each) for each in {port, port + above}):
            found.append(port)
    return found


def _reserve(port: int) -> bool:
    """Have a port until this process ends; False if another process of tests has it, or a server is there."""
    mark = socket.socket(socket.AF_UNIX)
    try:
        mark.bind(f"\0conjure-test-port-{port}")  # a name without a file, which the kernel forgets with us
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        mark.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    mark.detach()  # it stays open
    return True
