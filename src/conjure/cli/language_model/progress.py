"""How far long work is, on a terminal.

Main entry: `bytes_progress`. Invariant: everything here goes to stderr, and only if that is a terminal;
stdout is for results.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from conjure.cli.render import StatusLine
from conjure.core.units import format_duration, format_size


@contextmanager
def bytes_progress(label: str) -> Iterator[Callable[[int, int], None] | None]:
    """A line for work that is measured in bytes: share done, speed and time left.

    Yields:
        What to call with the bytes done and the bytes in all; the first call draws the line. None where
        there is no terminal to draw it on.
    """
    started = time.monotonic()
    with StatusLine() as line:

        def report(done: int, total: int) -> None:
            line.show(f"{label}: {_how_far(done, total, time.monotonic() - started)}")

        yield report if line.enabled else None


def _how_far(done: int, total: int, seconds: float) -> str:
    share = f"{format_size(done)} of {format_size(total)}"
    if not done or not seconds:
        return share
    left = (total - done) * seconds / done
    return f"{share}, {format_size(round(done / seconds))}/s, {format_duration(left)} left"
