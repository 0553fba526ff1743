"""Starting supervisors on this machine as copies of a process that has all they import, for who starts many.

Main entry: `ForkingExecutor`. Invariant: the process that is copied is itself a copy of its maker, made
before any database is opened, and opens none: SQLite's connections must not be carried into a copy.
"""

import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn, Self

from conjure.core.home import Home
from conjure.errors import ExecutorError
from conjure.runs.executors.local import LocalExecutor
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.executors.supervisor_request import SupervisorRequest
from conjure.runs.schema.run_folder import RunFolder

Become = Callable[[Home, int, RunLock, SupervisorRequest], NoReturn]

_HEAD = struct.Struct("<QQ")  # the run's number, and how long its request is
_DESCRIPTORS = 2  # the run's lock, and an end of a pipe that is open while its supervisor lives
_FIRST_OPENED = 3


class ForkingExecutor(LocalExecutor):
    """This machine, where a supervisor is a copy of a process that was forked off this one.

    Where that is gone, supervisors are started as `LocalExecutor` does.

    Args:
        home: Where conjure keeps things; this process has no database of it open, and no other thread.
        become: Makes the process in which it is called, a copy, the supervisor of a run.
    """

    def __init__(self, home: Home, become: Become) -> None:
        super().__init__(home)
        self._channel, theirs = socket.socketpair()
        self._ends: set[int] = set()
        self._original = os.fork()
        if self._original == 0:
            try:
                _serve(home, theirs, become)
            finally:
                os._exit(1)
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let the process that is copied go; the supervisors stay."""
        self._channel.close()
        os.waitpid(self._original, 0)
        for end in self._ends:
            os.close(end)

    @contextmanager
    def prepare(self, number: int, lock: RunLock, request: SupervisorRequest) -> Iterator[Callable[[], None]]:
        """Nothing is to be prepared for a copy."""

        def start() -> None:
            if not self._hand_over(number, lock, request):
                with super(ForkingExecutor, self).prepare(number, lock, request) as launch:
                    launch()

        yield start

    def wait(self, longest_s: float) -> None:
        """Wait until a supervisor that was started here has ended, or so long."""
        readable, _, _ = select.select(self._ends, (), (), longest_s)
        for end in readable:
            os.close(end)
            self._ends.discard(end)

    def _hand_over(self, number: int, lock: RunLock, request: SupervisorRequest) -> bool:
        """Give the run away, and wait until its supervisor has it; False if there is nobody to give it to.

        Raises:
            ExecutorError: It was given away, and no supervisor was started.
        """
        assert lock.descriptor is not None
        body = request.to_json().encode()
        ours, theirs = os.pipe()
        self._ends.add(ours)
        try:
            socket.send_fds(self._channel, [_HEAD.pack(number, len(body))], [lock.descriptor, theirs])
        except OSError:
            return False
        finally:
            os.close(theirs)
        try:
            self._channel.sendall(body)
            answer = self._channel.recv(1)
        except OSError:
            answer = b""
        if answer != b"\0":
            log = RunFolder.of(self._home, number).supervisor_log
            raise ExecutorError("the run's supervisor could not start", hint=f"see {log}")
        return True


def _serve(home: Home, channel: socket.socket, become: Become) -> None:
    """Copy this process for each run that is told, until nobody is left to tell of any."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _close_all_but(channel.fileno())
    while True:
        head, descriptors, _, _ = socket.recv_fds(channel, _HEAD.size, _DESCRIPTORS)
        if len(head) < _HEAD.size or len(descriptors) < _DESCRIPTORS:
            return
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # no program that the supervisor starts is to have them
        number, length = _HEAD.unpack(head)
        body = channel.recv(length, socket.MSG_WAITALL)
        if len(body) < length:
            return
        copy = os.fork()
        if copy == 0:
            channel.close()
            become(home, number, RunLock(descriptors[0]), SupervisorRequest.from_json(body))
        for descriptor in descriptors:
            os.close(descriptor)
        _, status = os.waitpid(copy, 0)  # it leaves a child behind at once
        channel.sendall(b"\0" if status == 0 else b"\1")


def _close_all_but(kept: int) -> None:
    """Close what the copied process had open: its maker's locks, and what came from the caller before."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - as in `process.everybody`
        descriptor = int(name)
        if descriptor >= _FIRST_OPENED and descriptor != kept:
            with suppress(OSError):  # the one that it was listed by
                os.close(descriptor)
