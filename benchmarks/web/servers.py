"""Starts the server of a tool on loopback and ends it, with all that it started.

Main entries: `Server`, `call`. Invariant: after the end nothing of it runs.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Self

from processes import environment, last_line

_LIMIT_S = 300.0
_PATIENCE_S = 10.0


class ToolError(Exception):
    """A tool does not do its part; the message says why, in a line."""


class Server:
    """A server, from its command until it is ended.

    Attributes:
        ready_s: Seconds from the command to the first answer that is no server error.
        output: What it has printed.

    Args:
        command: The program and its arguments.
        variables: Environment variables besides those that are there.
        port: Where it will listen.
        folder: Its current folder; its output goes into a file in it.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], port: int, folder: Path) -> None:
        self._log = folder / "server.log"
        self.begun = time.perf_counter()
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                env=environment(variables),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait(port)
        except BaseException:
            self._end()
            raise
        self.ready_s = time.perf_counter() - self.begun

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")

    def address_with_token(self) -> str:
        """The address that it prints for its visitors, once it is there."""
        while True:
            words = [word for word in self.output.split() if "/?token=" in word]
            if words:
                return words[0]
            if self._process.poll() is not None:
                raise ToolError(f"its server ended: {last_line(self.output)}")
            time.sleep(0.01)

    def _wait(self, port: int) -> None:
        while not _answers(port):
            if self._process.poll() is not None:
                raise ToolError(f"its server ended: {last_line(self.output)}")
            if time.perf_counter() - self.begun > _LIMIT_S:
                raise ToolError(f"its server did not answer within {_LIMIT_S:.0f} s")
            time.sleep(0.005)

    def _end(self) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, sign)
                self._process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                return
        self._process.wait()


def call(command: Sequence[str], variables: Mapping[str, str], folder: Path) -> str:
    """What a command prints.

    Raises:
        ToolError: It fails.
    """
    done = subprocess.run(
        command, env=environment(variables), cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ToolError(last_line(done.stderr))
    return done.stdout


def _answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=_LIMIT_S)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status < 500
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
