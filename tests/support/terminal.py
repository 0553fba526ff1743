"""The command, through pipes or on a pseudo-terminal.

Main entries: `conjure` and `Started` where it does not matter how a command starts, else `installed` and
`Terminal`.
"""

import atexit
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from support.command_server import CommandServer

CONJURE = Path(sys.executable).with_name("conjure")
TIMEOUT_S = 200


def environment() -> dict[str, str]:
    """This process's, so that a fixture's settings reach the command; one thread, because tests are many."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}


_server = CommandServer(environment())
atexit.register(_server.close)


class Started:
    """A command in a process that need not import first, with pipes, and the use of `subprocess.Popen`.

    Args:
        arguments: Its words.
        module: Whose `main` it is.
        folder: Where; None is the current folder.
        variables: The environment; None is `environment`.

    Attributes:
        stdin: To be closed by `communicate`.
        stdout: What it prints, as text.
        stderr: What it prints there, as text.
        returncode: None until `communicate`.
    """

    def __init__(
        self,
        *arguments: str | Path,
        module: str = "conjure.__main__",
        folder: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        (theirs, stdin), (out, stdout), (err, stderr) = (os.pipe() for _ in range(3))
        self.stdin, self.stdout, self.stderr = (
            os.fdopen(stdin, "w", encoding="utf-8"),
            os.fdopen(out, encoding="utf-8"),
            os.fdopen(err, encoding="utf-8"),
        )
        self.returncode: int | None = None
        with (
            os.fdopen(theirs, "rb") as given,
            os.fdopen(stdout, "wb") as shown,
            os.fdopen(stderr, "wb") as told,
        ):
            self._command = _server.start(
                module,
                [str(each) for each in arguments],
                variables=environment() if variables is None else variables,
                folder=Path.cwd() if folder is None else folder,
                standard=(given, shown, told),
            )

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self._command.pid, number)

    def communicate(self, text: str = "") -> tuple[str, str]:
        """Give it `text`, and read what it prints until it ends."""
        with self.stdin, self.stdout, self.stderr, ThreadPoolExecutor(2) as pool:
            shown = pool.map(lambda stream: stream.read(), (self.stdout, self.stderr))
            try:
                with suppress(BrokenPipeError):  # it need not read
                    self.stdin.write(text)
                    self.stdin.close()
                out, err = shown
            except BaseException:  # this test has run out of time: nothing may wait for the command then
                self.send_signal(signal.SIGKILL)
                raise
        self.returncode = self._command.wait()
        return out, err


def conjure(
    *arguments: str | Path,
    text: str = "",
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, as `Started` does, with `text` on standard input."""
    command = Started(*arguments, folder=folder, variables=variables)
    out, err = command.communicate(text)
    assert command.returncode is not None
    return subprocess.CompletedProcess(arguments, command.returncode, out, err)


def installed(*arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run the installed command to its end, as a shell starts it."""
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
