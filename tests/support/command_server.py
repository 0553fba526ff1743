"""Starts commands as forks of a process that has imported torch: seconds sooner than a new interpreter.

    python -m support.command_server DESCRIPTOR

Each command is the `main` of a module, such as `conjure.__main__`, in a process of its own with its own
descriptors, variables and folder. It differs from an installed one in what the interpreter decides as it
starts (the encoding and buffering of its streams), in its session, and in what /proc says of its command line
and variables: tests of those call the installed program.

Main entries: `CommandServer` in the process of the tests, `main` in the server's. Invariants: the server has
one thread and computes nothing, so that a fork of it can do all that a new process can; and it ends when the
process of the tests has ended, for then the socket at `DESCRIPTOR` is closed.
"""

import atexit
import gc
import json
import os
import pkgutil
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, NoReturn

# What commands import only when they get to it. Not pyarrow, whose allocator starts a thread; and not
# huggingface_hub, which reads its settings when it is imported.
_LIBRARIES = ("torch", "numpy", "tokenizers", "safetensors.torch", "jinja2")
_DESCRIPTORS = 4  # of a request: where to ask and answer, and the command's three standard ones
_TASKS = Path("/proc/self/task")


class CommandServer:
    """A server, whose process is started with the first command.

    Args:
        variables: The environment it imports in; one thread for OpenMP.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()

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
        with self._starting:
            requests = self._socket if self._socket is not None else self._start()
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = [theirs.fileno(), *(each.fileno() for each in standard)]
            socket.send_fds(requests, [b"."], descriptors)
        return Command(ours, [module, list(arguments), dict(variables), str(folder)])

    def _start(self) -> socket.socket:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "support.command_server", str(theirs.fileno())],
                env=self._variables,
                cwd=Path(__file__).parents[1],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,  # as its commands have: Python looks at the kind when it starts
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a ^C in the terminal of the tests is not for it
            )
        return self._socket

    def close(self) -> None:
        """End the server; a command that still runs goes on."""
        if self._socket is not None and self._process is not None:
            assert self._process.stdout is not None
            self._socket.close()
            self._process.stdout.close()
            self._process.wait()


class Command:
    """A command that was started.

    Attributes:
        pid: Its process.
    """

    def __init__(self, connection: socket.socket, request: Sequence[object]) -> None:
        with connection:
            self._answers = connection.makefile("r", encoding="ascii")
            connection.sendall(json.dumps(request).encode() + b"\n")
        self.pid = int(self._answers.readline())

    def wait(self) -> int:
        """Wait for its end; the status, as `subprocess` tells it."""
        with self._answers:
            return int(self._answers.readline())


def main() -> None:
    """Import what commands import, and fork a process for each that is asked for."""
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        _import_all()
        while (received := socket.recv_fds(requests, 1, _DESCRIPTORS))[0]:
            if os.fork() == 0:
                requests.close()
                _supervise(*received[1])
            for descriptor in received[1]:
                os.close(descriptor)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG) != (0, 0):
                    pass
    os._exit(0)


def _import_all() -> None:
    import conjure

    for name in _LIBRARIES:
        import_module(name)
    for name in ("cli.commands", "recipes", "lm"):
        package = import_module(f"{conjure.__name__}.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            with suppress(ImportError):  # of an extra that is not there
                import_module(module.name)
    if _TASKS.is_dir() and len(list(_TASKS.iterdir())) > 1:
        raise RuntimeError("something that was imported has started a thread, which a fork would lack")
    gc.collect()
    gc.freeze()  # else the first collection in each fork would copy all of it


def _supervise(connection: int, *standard: int) -> NoReturn:
    """Fork the command, and say which process it is and how it ended."""
    try:
        command = os.fork()
        if command == 0:
            _become_command(connection, standard)
        for descriptor in (*standard, sys.stdout.fileno()):  # its output must not seem to go on
            os.close(descriptor)
        with suppress(OSError), os.fdopen(connection, "w", buffering=1) as answers:  # nobody may listen
            answers.write(f"{command}\n")
            answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])}\n")
    finally:
        os._exit(0)


def _become_command(connection: int, standard: Sequence[int]) -> NoReturn:
    """Take on a command's words, variables, folder and standard descriptors, and call it."""
    status = 1
    try:
        with os.fdopen(connection, "rb") as request:
            module, arguments, variables, folder = json.loads(request.readline())
        for ours, theirs in zip((0, 1, 2), standard, strict=True):
            os.dup2(theirs, ours)
            os.close(theirs)
        sys.argv = [module, *arguments]
        os.environ.clear()
        os.environ.update(variables)
        time.tzset()
        os.chdir(folder)
        status = _status(import_module(module).main)
        _shut_down()
    finally:
        os._exit(status)


def _status(command: Callable[[], object]) -> int:
    """The exit status that the interpreter would end with; it shows what it would show."""
    try:
        status = command()
    except SystemExit as end:
        status = end.code
    except BaseException:  # noqa: BLE001 - shown, as the interpreter shows it
        traceback.print_exc()
        return 1
    if status is None or isinstance(status, int):
        return status or 0
    sys.stderr.write(f"{status}\n")
    return 1


def _shut_down() -> None:
    """What the interpreter does at its end, but for freeing all: that would first copy all that is shared."""
    threading._shutdown()  # waits for threads, and ends those of pools
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()


if __name__ == "__main__":
    main()
