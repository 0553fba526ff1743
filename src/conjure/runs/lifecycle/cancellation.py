"""Cutting work short when somebody asks for it: looked for in a thread, interrupted by a signal.

Main entry: `poll_and_raise`. Invariant: the signal's handler raises and does nothing else; the database is
never read in the middle of whatever the work was doing with it.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from conjure.core.home import Home
from conjure.errors import StoreError
from conjure.runs.database.base import Database
from conjure.runs.database.open_database import open_database

Look = Callable[[Database | None], Exception | None]

_LOOK_EVERY_S = 0.2


@contextmanager
def poll_and_raise(look: Look, home: Home) -> Iterator[None]:
    """Raise in the block what `look` finds, several times a second, until the block is over.

    To be called in the main thread, which is the one that takes signals.

    Args:
        look: Called in another thread with a store of that thread's, or None where that cannot be read; gives
            None if all is to go on.
        home: Of the store.
    """
    watch = _Watch(look, home)
    before = signal.signal(signal.SIGALRM, watch.deliver)
    thread = threading.Thread(target=watch.run, name="cancellation", daemon=True)
    thread.start()
    try:
        try:
            yield
        finally:
            watch.is_over.set()  # from here on nothing is raised
    finally:
        watch.is_over.set()  # once more, should it have been raised just before
        thread.join()
        signal.signal(signal.SIGALRM, before)


class _Watch:
    """The thread's half, and the handler, which runs in the main thread."""

    def __init__(self, look: Look, home: Home) -> None:
        self._look = look
        self._home = home
        self._main = threading.get_ident()
        self._found: Exception | None = None
        self.is_over = threading.Event()

    def run(self) -> None:
        """Look again and again."""
        while not self.is_over.wait(_LOOK_EVERY_S):
            try:
                with open_database(self._home, must_exist=True) as store:
                    self._look_until_over(store)
            except StoreError:
                self._look_once(None)  # a full disk, or the home is gone; it is tried again

    def _look_until_over(self, store: Database) -> None:
        while not self.is_over.is_set():
            self._look_once(store)
            self.is_over.wait(_LOOK_EVERY_S)

    def _look_once(self, store: Database | None) -> None:
        self._found = self._look(store)
        if self._found is not None:
            signal.pthread_kill(self._main, signal.SIGALRM)

    def deliver(self, *_: object) -> None:
        """Interrupt the main thread."""
        if self._found is not None and not self.is_over.is_set():
            raise self._found
