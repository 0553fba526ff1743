"""Starts commands as forks of a process that has imported everything: seconds sooner than by an interpreter.

    python -m support.command_server DESCRIPTOR

Each command is the `main` of a module, `conjure.__main__` for one, in a process of its own, with its own
descriptors, variables and folder, and ends as any other. It differs from an installed one in what it need not
import: tests of how a command starts call that.

Main entries: `CommandServer` in the process of the tests, `main` in the server's. Invariant: the server ends
when the process of the tests has ended, however that came, for then the socket at `DESCRIPTOR` is closed.
"""

import atexit
import gc
import json
import os
import pkgutil
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO

# What commands import only when they get to it.
_LIBRARIES = ("torch", "numpy", "tokenizers", "safetensors.torch", "pyarrow.parquet", "jinja2")
_DESCRIPTORS = 5  # of a request: itself, the command's three standard ones, and where to answer


class CommandServer:
    """A server; its process is there from the first command on."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        variables: Mapping[str, str],
        folder: Path,
        standard: Sequence[IO],
    ) -> "Command":
        """Start a module's `main`; `standard` is its input, its output and its errors."""
        if self._socket is None:
            self._start()
        assert self._socket is not None
        answers, theirs = os.pipe()
        with tempfile.TemporaryFile() as request, os.fdopen(theirs, "wb") as answer:
            request.write(json.dumps([module, list(arguments), dict(variables), str(folder)]).encode())
            request.seek(0)
            socket.send_fds(self._socket, [b"."], [each.fileno() for each in (request, *standard, answer)])
        return Command(answers)

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "support.command_server", str(theirs.fileno())],
                cwd=Path(__file__).parents[1],
                stdin=subprocess.PIPE,  # as its commands have: Python looks at the kind when it starts
                stdout=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    def close(self) -> None:
        """End the server."""
        if self._socket is not None and self._process is not None:
            self._socket.close()
            self._process.communicate()


class Command:
    """A command that was started.

    Attributes:
        pid: Its process.
    """

    def __init__(self, answers: int) -> None:
        self._answers = os.fdopen(answers, encoding="ascii")
        self.pid = int(self._answers.readline())

    def wait(self) -> int:
        """Wait for its end; the status, as `subprocess` tells it."""
        with self._answers:
            return int(self._answers.readline())


def main() -> None:
    """Import all there is, and become each command that is asked for, in a fork."""
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        _import_all()
        command = _next_command(requests)
    _end(0 if command is None else _status(_become(*command)))


def _import_all() -> None:
    import conjure

    for name in _LIBRARIES:
        import_module(name)
    for name in ("cli.commands", "recipes", "lm"):
        package = import_module(f"{conjure.__name__}.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            with suppress(ImportError):  # of an extra that is not there
                import_module(module.name)
    gc.collect()
    gc.freeze()  # else the first collection in each fork would copy all of it


def _next_command(requests: socket.socket) -> tuple[bytes, list[int]] | None:
    """A request and its descriptors, in the process of its command; None in the server, at its end."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 1, _DESCRIPTORS)
        if not message:
            return None
        if os.fork() == 0:
            command = os.fork()
            if command == 0:
                with os.fdopen(descriptors[0], "rb") as request:
                    os.close(descriptors[-1])
                    return request.read(), descriptors[1:-1]
            _await(command, descriptors)
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass


def _await(command: int, descriptors: Sequence[int]) -> None:
    """Say which process the command is, and how it ended."""
    for descriptor in descriptors[:-1]:  # its output must not seem to go on
        os.close(descriptor)
    with suppress(BrokenPipeError), os.fdopen(descriptors[-1], "w", buffering=1) as answer:
        answer.write(f"{command}\n")
        answer.write(f"{os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])}\n")


def _become(request: bytes, standard: Sequence[int]) -> Callable[[], int | None]:
    """Take on a command's words, variables, folder and standard descriptors; what is to be called then."""
    module, arguments, variables, folder = json.loads(request)
    for ours, theirs in zip((0, 1, 2), standard, strict=True):
        os.dup2(theirs, ours)
        os.close(theirs)
    sys.argv = [module, *arguments]
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    return import_module(module).main


def _status(command: Callable[[], int | None]) -> int:
    try:
        return command() or 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:  # noqa: BLE001 - shown, as the interpreter shows it
        traceback.print_exc()
        return 1


def _end(status: int) -> None:
    """What the interpreter does at its end, but for freeing all: that would first copy all that is shared."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
