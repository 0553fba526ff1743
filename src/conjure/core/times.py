"""Moments as people say them: in their own time zone, and how long ago.

Main entries: `local_time`, `ago`, `moment`. Invariant: a clock that was set back gives "just now", never a
negative age.
"""

import time
from datetime import datetime

_UNITS = ((86400 * 365, "year"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def local_time(seconds: float) -> str:
    """Seconds since the epoch as ``2026-03-01 14:05:09``, in this machine's time zone."""
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"


def ago(seconds: float, now: float | None = None) -> str:
    """How long ago a moment was, in the largest unit that fits: ``3 days ago``.

    Args:
        seconds: The moment, since the epoch.
        now: What to count from; this moment if None.
    """
    count, unit = _age(seconds, now)
    return f"{count} {unit}{'s' * (count != 1)} ago" if count else "just now"


def short_age(seconds: float, now: float | None = None) -> str:
    """The same for a narrow column: ``3d``."""
    count, unit = _age(seconds, now)
    return f"{count}{unit[0]}"


def _age(seconds: float, now: float | None) -> tuple[int, str]:
    age = (now if now is not None else time.time()) - seconds
    length, unit = next((each for each in _UNITS if age >= each[0]), _UNITS[-1])
    return max(int(age // length), 0), unit


def moment(seconds: float) -> str:
    """A moment both ways: ``2026-03-01 14:05:09 (3 days ago)``."""
    return f"{local_time(seconds)} ({ago(seconds)})"
