"""What a sweep tries: for each parameter a list of values or a range, as it is typed.

Main entries: `parse_parameter`, `Choice`, `Range`, `checked_trials`. Invariant: a value is text, and reaches
the command as it was typed or, if drawn from a range, as the shortest text with six digits.
"""

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conjure.errors import UsageError, option

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"(?P<low>{_NUMBER}):(?P<high>{_NUMBER})(?::(?P<one>[a-z_]+))?(?::(?P<two>[a-z_]+))?")
_SCALES, _KINDS = ("linear", "log"), ("int", "float")
_DIGITS = 6
_BETWEEN = 0.381966  # a share of the way where no range of a usual width has a whole number


@dataclass(frozen=True, slots=True)
class Choice:
    """Some values to choose from, as text."""

    values: tuple[str, ...]

    def at(self, share: float) -> str:
        """The value at a share, from 0 to below 1, of all there are."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def to_check(self) -> tuple[str, ...]:
        """The values to check: all."""
        return self.values

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"values": list(self.values)}


@dataclass(frozen=True, slots=True)
class Range:
    """All numbers from one to another, both included.

    Attributes:
        low: The smallest.
        high: The largest.
        log: Whether equal ratios count alike, rather than equal differences.
        whole: Whether whole numbers only.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        """Refuse a range that has no numbers.

        Raises:
            UsageError: It has none, or no logarithm.
        """
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UsageError(
                f"a range goes from a smaller to a larger number, not {self.low:g}:{self.high:g}"
            )
        if not math.isfinite(self.high - self.low):
            raise UsageError(f"the range {self.low:g}:{self.high:g} is too wide")
        if self.log and self.low <= 0:
            raise UsageError(f"with log, both bounds must be above 0, not {self.low:g}")
        if self.whole and not (self.low.is_integer() and self.high.is_integer()):
            raise UsageError(f"with int, both bounds must be integers, not {self.low:g}:{self.high:g}")

    def at(self, share: float) -> str:
        """The value at a share, from 0 to below 1, of the way."""
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        if self.log:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        return self.text(value)

    def text(self, value: float) -> str:
        """A number of the range as text that stands for a number of the range."""
        if self.whole:
            return str(int(min(max(math.floor(value + 0.5), self.low), self.high)))
        rounded = float(f"{value:.{_DIGITS}g}")
        inside = min(max(rounded, self.low), self.high)
        text = f"{inside:.12g}"
        return text if self.low <= float(text) <= self.high else repr(inside)

    def to_check(self) -> tuple[str, ...]:
        """The values to check: both ends, and one between, which is no whole number unless all are."""
        return tuple(dict.fromkeys((self.text(self.low), self.text(self.high), self.at(_BETWEEN))))

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"low": self.low, "high": self.high, "log": self.log, "whole": self.whole}


Domain = Choice | Range


def uniform(low: float, high: float) -> Range:
    """Numbers from `low` to `high`, for `Client.sweep`; whole numbers if both bounds are of type int."""
    return Range(float(low), float(high), whole=isinstance(low, int) and isinstance(high, int))


def log_uniform(low: float, high: float) -> Range:
    """As `uniform`, but with equal ratios counting alike: for learning rates and sizes."""
    return Range(float(low), float(high), log=True, whole=isinstance(low, int) and isinstance(high, int))


def checked_trials(space: Mapping[str, Domain], seeded: Mapping[str, str]) -> list[dict[str, str]]:
    """Trials to check before a sweep starts: together they have every value of a list, and those of a range.

    Args:
        space: Values by parameter.
        seeded: What else every trial has.
    """
    values = {name: domain.to_check() for name, domain in space.items()}
    first = {name: some[0] for name, some in values.items()} | dict(seeded)
    return [first, *({**first, name: value} for name, some in values.items() for value in some[1:])]


def parse_parameter(text: str) -> tuple[str, Domain]:
    """Name and values of ``NAME=VALUE,…`` or ``NAME=MIN:MAX[:linear|log][:int|float]``.

    Raises:
        UsageError: It does not have that form.
    """
    name, equals, values = text.partition("=")
    if not equals or not _NAME.fullmatch(name):
        raise UsageError(
            f"{option('parameters')} {text!r} is not NAME=VALUES",
            hint="as in lr=1e-3,3e-4 or lr=1e-4:1e-2:log",
        )
    found = _RANGE.fullmatch(values)
    return name, _range(text, found) if found is not None else _choice(name, values)


def _range(text: str, found: re.Match[str]) -> Range:
    words = [word for word in (found["one"], found["two"]) if word is not None]
    scales, kinds = [w for w in words if w in _SCALES], [w for w in words if w in _KINDS]
    if len(scales) + len(kinds) < len(words) or len(scales) > 1 or len(kinds) > 1:
        raise UsageError(
            f"{option('parameters')} {text!r}: after MIN:MAX come linear or log, and int or float",
            hint="as in 1e-4:1e-2:log",
        )
    try:
        return Range(float(found["low"]), float(found["high"]), log="log" in scales, whole="int" in kinds)
    except UsageError as error:
        raise UsageError(f"{option('parameters')} {text!r}: {error}") from error


def _choice(name: str, text: str) -> Choice:
    try:
        values = next(csv.reader([text], skipinitialspace=False), [])
    except csv.Error as error:
        raise UsageError(
            f"{option('parameters')} {name} has several lines that are not quoted",
            hint=f"quote each value that has several lines, or a comma: {name}='\"...\"'",
        ) from error
    if not values or "" in values:
        raise UsageError(
            f"{option('parameters')} {name} has an empty value",
            hint=f"as in {name}=1,2; a value with a comma is quoted",
        )
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise UsageError(f"{option('parameters')} {name} has the value {twice!r} twice")
    return Choice(tuple(values))


def domain_from_dict(stored: Mapping[str, Any]) -> Domain:
    """The values that `to_dict` gave."""
    if "values" in stored:
        return Choice(tuple(stored["values"]))
    return Range(stored["low"], stored["high"], log=stored["log"], whole=stored["whole"])
