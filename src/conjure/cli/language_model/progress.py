"""How far long work is, on a terminal.

Main entry: `bytes_progress`. Invariant: everything here goes to stderr, and only if that is a terminal;
stdout is for results.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def bytes_progress(label: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar for work that is measured in bytes: share done, speed and time left.

    Yields:
        What to call with the bytes done and the bytes in all; the first call draws the bar. None where
        there is no terminal to draw it on.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = Progress("{task.description}", *columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(label)
    with ExitStack() as stack:

        def report(done: int, total: int) -> None:
            if not bar.live.is_started:
                stack.enter_context(bar)
            bar.update(task, completed=done, total=total)

        yield report
