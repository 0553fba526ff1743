"""Locks of what was built for runs: one process builds it, and it stays while a process uses it.

Main entries: `mark_in_use`, `is_used_by_others`, `building`, `unused`. What is built is known by a digest of
what was asked for.
"""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO

from conjure.core.home import Home
from conjure.core.text import error_text
from conjure.errors import BuildError

# Locks of the environments this process uses, by home and digest, held until it ends. They are descriptors,
# for Python warns of a file that is open at the end.
_in_use: dict[tuple[Home, str], int] = {}


def mark_in_use(home: Home, digest: str) -> None:
    """Keep it from being removed until this process ends.

    Raises:
        BuildError: The home's folder cannot be written.
    """
    if (home, digest) not in _in_use:
        with _open_lock(home, f"{digest}.use") as file:
            lock = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 0)
        fcntl.flock(lock, fcntl.LOCK_SH)
        _in_use[home, digest] = lock


def is_used_by_others(home: Home, digest: str) -> bool:
    """Whether another process uses it too; asked where it is marked, while no other process can build it."""
    lock = _in_use[home, digest]
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        fcntl.flock(lock, fcntl.LOCK_SH)
    return False


@contextmanager
def building(home: Home, digest: str, report: Callable[[str], None]) -> Iterator[None]:
    """Be the only process that builds it, once no other does.

    Args:
        home: Where environments are kept.
        digest: What is to be built.
        report: Gets a line if another process is building it.

    Raises:
        BuildError: The home's folder cannot be written.
    """
    with _open_lock(home, f"{digest}.build") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another run to build the same environment")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def unused(home: Home, digest: str) -> Iterator[bool]:
    """Whether no process uses or builds it; if so, none begins to before the block is over."""
    with ExitStack() as locks:
        is_free = True
        try:
            for name in (f"{digest}.use", f"{digest}.build"):
                fcntl.flock(locks.enter_context(_open_lock(home, name)), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_free = False
        yield is_free


def _open_lock(home: Home, name: str) -> IO[str]:
    folder = home.environments / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / name).open("a+")  # NFS shares only what can be read
    except OSError as error:
        raise BuildError(
            f"environments cannot be stored in {home.environments}: {error_text(error)}"
        ) from error
