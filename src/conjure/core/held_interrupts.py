"""Letting a ^C wait while something is done that must be done whole.

Main entry: `interrupts_held`. Invariant: a ^C that came is never lost; it waits until the block is over, or
until it is let through.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class HeldInterrupts:
    """What `interrupts_held` gives: whether a ^C waits, and a way to let it through."""

    def __init__(self) -> None:
        self.waits = False

    def take(self, *_: object) -> None:
        """Handle a ^C: it waits."""
        self.waits = True

    @contextmanager
    def let_through(self) -> Iterator[None]:
        """Let a ^C that waits, or that comes, interrupt the block."""
        held = _handle_interrupts(signal.default_int_handler)
        try:
            self.deliver()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # one that waits is raised right here
            yield
        finally:
            _handle_interrupts(held)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def deliver(self) -> None:
        """Send the ^C that waits once more; it comes when this thread takes signals again."""
        if self.waits:
            self.waits = False
            signal.raise_signal(signal.SIGINT)


@contextmanager
def interrupts_held() -> Iterator[HeldInterrupts]:
    """Let a ^C wait until the block is over.

    By the mask, which a child inherits; and by a handler, for another thread may be sent the signal.
    """
    held = HeldInterrupts()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    before = _handle_interrupts(held.take)
    try:
        yield held
    finally:
        _handle_interrupts(before)
        held.deliver()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _handle_interrupts(handler: Any) -> Any:
    """Have a ^C handled so; what handled it before. It stays as it is if ignored, and in other threads."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is threading.main_thread() and callable(before):
        signal.signal(signal.SIGINT, handler)
    return before
