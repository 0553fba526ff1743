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
        What to call with the bytes done and the bytes there seem to be; the first call draws the line. If
        both are the same, the line only says what is being done. None where there is no terminal to draw it
        on.
    """
    started = time.monotonic()
    with StatusLine() as line:

        def report(done: int, total: int) -> None:
            how_far = f": {_how_far(done, total, time.monotonic() - started)}" if done != total else "…"
            line.show(f"{label}{how_far}")

        yield report if line.enabled else None


def _how_far(done: int, total: int, seconds: float) -> str:
    share = f"{format_size(done)} of {format_size(total)}" if done <= total else format_size(done)
    if not done or not seconds:
        return share
    share += f", {format_size(round(done / seconds))}/s"
    return share if done > total else f"{share}, {format_duration((total - done) * seconds / done)} left"
