"""Text for people: names that any terminal can show, moments, counts, addresses.

Main entries: `valid_utf8`, `to_iso`, `error_text`, `plural`, `did_you_mean`, `local_address`. Invariant: but
for `today`, pure functions of their arguments.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime

# serve and score have 0.6, version and verify 0.62; inof and info 0.75, genrate and generate 0.93
_ALIKE = 0.72

_ON_ALL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not bound


def to_iso(seconds: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 text in UTC, to the microsecond; None stays None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def today() -> date:
    """The date where this machine is."""
    return datetime.now().astimezone().date()


def valid_utf8(text: str) -> str:
    r"""`text` with bytes that are not UTF-8 (as Python carries them in names) shown as ``\xNN``."""
    if text.isascii():
        return text  # as most names are, of which there may be very many
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def error_text(error: Exception, *, with_path: bool = False) -> str:
    """What went wrong, in words: of an error of the system's, without its number.

    Args:
        error: The error; one that is not the system's says it as it does.
        with_path: Name the file where the system names one: for a sentence that does not.
    """
    if not isinstance(error, OSError):
        return str(error) or type(error).__name__
    text = error.strerror or str(error) or type(error).__name__  # no system call, no strerror
    return f"{text}: {error.filename}" if with_path and error.filename is not None else text


def plural(count: float, thing: str) -> str:
    """``1 file``, ``3 files``: for things whose plural is made with an s."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def near_names(typed: str, known: Iterable[str], *, alike: float = _ALIKE) -> list[str]:
    """The two nearest of the known names, nearest first; none where none is near.

    Args:
        typed: What was typed.
        known: What it may have been meant for.
        alike: How near is near, from 0 (anything is) to 1 (the same but for dashes in front and case).
    """
    import difflib  # milliseconds that only a mistake costs

    by_name = {name.lstrip("-").lower(): name for name in known}
    near = difflib.get_close_matches(typed.lstrip("-").lower(), by_name, n=2, cutoff=alike)
    return [by_name[name] for name in near]


def did_you_mean(typed: str, known: Iterable[str]) -> str | None:
    """``did you mean loss or los_2?``, or None where nothing is near."""
    near = near_names(typed, known)
    return f"did you mean {' or '.join(near)}?" if near else None


def local_address(host: str, port: float) -> str:
    """The URL that a server is reached at from this machine, by the host it listens on.

    The port may be a run's metric, as which it is a float.
    """
    host = _ON_ALL.get(host, host)
    return f"http://[{host}]:{port:.0f}" if ":" in host else f"http://{host}:{port:.0f}"
