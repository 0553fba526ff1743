"""Stopping in order: the first ^C or SIGTERM asks for it, the second ends the process as ever.

Main entry: `stopping_in_order`. Invariant: the handler says what it does past Python's buffers, for `print`
and its kind refuse to be called while they are at work already; a signal that is ignored stays so.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


@contextmanager
def stopping_in_order(
    stop: Callable[[], object] = lambda: None, *, quiet: bool = False
) -> Iterator[list[int]]:
    """Call `stop` on the first ^C or SIGTERM, and let the second end the process as ever.

    Args:
        stop: Called in the signal handler; not needed by who looks at the signals that came.
        quiet: Say nothing, because another process does.

    Yields:
        The signals that came, so far none or one.
    """
    came: list[int] = []

    def first(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        restore()
        if not quiet:
            _write("\nStopping after this step and saving; press ^C again to stop at once.")
        stop()

    def restore() -> None:
        for name, handler in before.items():
            signal.signal(name, handler)

    handlers = ((name, signal.getsignal(name)) for name in (signal.SIGINT, signal.SIGTERM))
    before = {name: handler for name, handler in handlers if handler is not signal.SIG_IGN}
    for name in before:
        signal.signal(name, first)
    try:
        yield came
    finally:
        restore()


def _write(text: str) -> None:
    """Write a line to stderr; what cannot be written is dropped."""
    with suppress(OSError, ValueError, AttributeError):  # no stderr, or one without a descriptor
        os.write(sys.stderr.fileno(), f"{text}\n".encode())
