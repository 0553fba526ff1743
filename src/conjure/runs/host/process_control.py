"""What a process asks the kernel for itself: a name, its orphaned descendants, an end with its parent.

Main entries: `set_name`, `adopt_orphans`, `die_with_parent`. Invariant: where there is no prctl (not Linux),
nothing is asked, and nothing fails.
"""

import ctypes
import os
import signal
from functools import cache

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none can slip away."""
    _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))


def die_with_parent(parent: int) -> None:
    """Called in a new child: have the kernel kill it when its parent (`parent`) dies, however that dies."""
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def set_name(name: str) -> None:
    """The name under which ``ps`` and ``top`` show this process (15 characters)."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]))


def _prctl(option: int, value: object) -> None:
    prctl = getattr(_libc(), "prctl", None)
    if prctl is not None:
        prctl(option, value, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
