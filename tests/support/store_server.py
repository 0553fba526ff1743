"""A real object store for tests, of whichever kind: a process that is started, stopped and paused.

Main entry: `StoreServer`. Invariant: it listens on this machine only, at ports of its own, keeps what it was
given while it is stopped, and is gone with the tests.
"""

import os
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

_PATIENCE_S = 60.0


class StoreServer(ABC):
    """A server in a folder of its own; the context manager starts and ends it.

    Attributes:
        key: What says who asks.
        secret: What proves it.
    """

    key: str
    secret: str

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._prefixes = 0
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def running(cls, **options: Any) -> Iterator[Self]:
        """A server while the block lasts; with what else its kind takes."""
        with tempfile.TemporaryDirectory(prefix="conjure-store-", ignore_cleanup_errors=True) as name:
            server = cls(Path(name), **options)
            server.start()
            try:
                yield server
            finally:
                server.stop()

    def start(self) -> None:
        """Start it, and wait until it takes an object."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self._folder,
                env=os.environ | self.settings(),
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _PATIENCE_S
        while not self.answers():
            if self._process.poll() is not None:
                raise AssertionError((self._folder / "log").read_text()[-2000:])
            if time.monotonic() > deadline:
                raise AssertionError(f"{type(self).__name__} does not answer")
            time.sleep(0.1)

    @abstractmethod
    def command(self) -> list[str]:
        """What starts it."""

    def settings(self) -> dict[str, str]:
        """Variables that it is started with."""
        return {}

    @abstractmethod
    def answers(self) -> bool:
        """Whether it takes an object."""

    @abstractmethod
    def new_address(self) -> str:
        """The address of an object store in it that holds nothing."""

    @abstractmethod
    def variables(self) -> dict[str, str]:
        """What tells a program the keys."""

    @abstractmethod
    def wrong_variables(self) -> dict[str, str]:
        """The same with keys that it does not know; the secret one is of `hunter2`."""

    def stop(self) -> None:
        """End it at once; what it has acknowledged stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Have it answer nobody, as a network that is cut; `go_on` ends it."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """End a `pause`."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)
