"""The installed command, through pipes or on a pseudo-terminal."""

import os
import pty
import subprocess
import sys
from pathlib import Path

CONJURE = Path(sys.executable).with_name("conjure")
TIMEOUT_S = 100


def environment() -> dict[str, str]:
    """This process's, so that a fixture's settings reach the command; one thread, because tests are many."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}


def conjure(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command to its end with `text` on standard input and pipes for the rest."""
    return subprocess.run(
        [CONJURE, *arguments],
        input=text,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        env=environment(),
    )


class Terminal:
    """A command whose stdout and stderr are one pseudo-terminal.

    Attributes:
        process: The command.
        shown: All it has shown so far, escape sequences included.
    """

    def __init__(self, *arguments: str) -> None:
        self._screen, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [CONJURE, *arguments], stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment()
        )
        os.close(theirs)
        self.shown = ""

    def read_until(self, text: str, more: int = 0) -> None:
        """Wait until `text` was shown, and `more` characters after it."""
        while text not in self.shown or len(self.shown.partition(text)[2]) < more:
            if not self._read():
                raise AssertionError(f"{text!r} was never shown, only {self.shown!r}")

    def close(self) -> int:
        """Read on until the command ends; its exit status."""
        while self._read():
            pass
        os.close(self._screen)
        return self.process.wait(timeout=TIMEOUT_S)

    def _read(self) -> bool:
        try:
            data = os.read(self._screen, 65536)
        except OSError:  # how Linux says that the other side is closed
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)
