"""Amounts as people write and read them: times like ``90m``, sizes like ``8GB``.

Main entries: `parse_duration`, `parse_size`, `format_duration`, `format_size`, `format_number`. Invariant: a
number without a unit is refused, because a guess at the unit is how a 90-minute limit becomes 90 seconds.
"""

import math
import re

from conjure.errors import UsageError

LARGEST_NUMBER = 2**63  # what databases and file formats hold of whole numbers stays below it
LONGEST_S = 100 * 365.25 * 86400
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)")
_BYTES = {
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KIB": 1024,
    "MIB": 1024**2,
    "GIB": 1024**3,
    "TIB": 1024**4,
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)", re.IGNORECASE)


def parse_duration(text: str) -> float:
    """Seconds in ``45s``, ``90m``, ``1h30m`` or ``2d``.

    Raises:
        UsageError: No unit, an unknown one, or nothing above zero.
    """
    parts = _DURATION_PART.findall(text)
    if not parts or _DURATION_PART.sub("", text).strip():
        example = f"{text}m" if re.fullmatch(r"\d+(\.\d+)?", text) else "90m"
        raise UsageError(
            f"{text!r} is not a duration: give a number with its unit (s, m, h or d), such as {example} or"
            " 1h30m"
        )
    seconds = sum(float(amount) * _SECONDS[unit] for amount, unit in parts)
    if not 0 < seconds <= LONGEST_S:
        raise UsageError(f"a duration must be above 0 and at most 100 years; {_cut(text)} is not")
    return seconds


def parse_size(text: str) -> int:
    """Bytes in ``512MB``, ``8GB`` or ``2GiB``.

    Raises:
        UsageError: No unit, an unknown one, or nothing above zero.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].upper() not in _BYTES:
        example = f"{text}GB" if re.fullmatch(r"\d+(\.\d+)?", text) else "8GB"
        raise UsageError(
            f"{text!r} is not a size: give a number with its unit (MB, GB, GiB …), such as {example}"
        )
    size = float(match[1]) * _BYTES[match[2].upper()]
    if not 1 <= size < LARGEST_NUMBER:
        raise UsageError(f"a size must be above 0 and below 2^63 bytes; {_cut(text)} is not")
    return int(size)


def _cut(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}…")


def format_duration(seconds: float) -> str:
    """``0.4s``, ``5m``, ``44m 36s``, ``3h 5m``, ``2d 4h``: two units at most."""
    if seconds < 59.95:
        return f"{max(seconds, 0.0):.1f}s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        larger, smaller = f"{days}d", f" {hour}h" if hour else ""
    elif hours:
        larger, smaller = f"{hours}h", f" {minute}m" if minute else ""
    else:
        larger, smaller = f"{minutes}m", f" {second}s" if second else ""
    return larger + smaller


def format_number(value: float) -> str:
    """``0.0133``, ``64``, ``1.2e-3``: six digits at most, with an exponent below 0.01 and from 1e6."""
    if value == 0 or not math.isfinite(value) or 0.01 <= abs(value) < 1e6:
        return f"{value:.6g}"
    digits, _, exponent = f"{value:.5e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def format_size(size_bytes: int) -> str:
    """``12 B``, ``498 MB``, ``1.2 GB``: powers of 1000, three digits at most."""
    amount, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 999.5:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.1f} {unit}" if unit != "B" and amount < 9.95 else f"{amount:.0f} {unit}"
