"""Moments as people say them: in their own time zone, and how long ago.

Main entries: `local_time`, `format_age`, `ago`, `moment`. Invariant: a clock that was set back gives
"just now", never a negative age.
"""

import time
from datetime import datetime

_UNITS = ((86400 * 365, "y"), (86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def local_time(seconds: float) -> str:
    """Seconds since the epoch as ``2026-03-01 14:05:09``, in this machine's time zone."""
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"


def format_age(age_s: float) -> str:
    """How old something is, in the largest unit that fits: ``17s``, ``3d``."""
    length, unit = next((each for each in _UNITS if age_s >= each[0]), _UNITS[-1])
    return f"{max(int(age_s // length), 0)}{unit}"


def age(seconds: float, now: float | None = None) -> str:
    """How long ago a moment was: ``3d``.

    Args:
        seconds: The moment, since the epoch.
        now: What to count from; this moment if None.
    """
    return format_age((now if now is not None else time.time()) - seconds)


def ago(seconds: float, now: float | None = None) -> str:
    """The same in words: ``3d ago``, and ``just now`` for less than a second."""
    text = age(seconds, now)
    return f"{text} ago" if text != "0s" else "just now"


def moment(seconds: float) -> str:
    """A moment both ways: ``2026-03-01 14:05:09 (3d ago)``."""
    return f"{local_time(seconds)} ({ago(seconds)})"
