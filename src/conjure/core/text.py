"""Text for people: names that any terminal can show, moments, counts.

Main entries: `printable`, `to_iso`, `plural`, `did_you_mean`. Invariant: pure functions of their arguments.
"""

from collections.abc import Iterable
from datetime import UTC, datetime


def to_iso(seconds: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 text in UTC, to the microsecond; None stays None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def printable(text: str) -> str:
    r"""`text` with bytes that are not UTF-8 (as Python carries them in names) shown as ``\xNN``."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def plural(count: int, thing: str) -> str:
    """``1 file``, ``3 files``: for things whose plural is made with an s."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def did_you_mean(name: str, known: Iterable[str], *, count: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known names that `name` is most like, best first; none where nothing is near."""
    import difflib  # its import is felt in start-up, and only mistakes need it

    return difflib.get_close_matches(name, list(known), n=count, cutoff=cutoff)
