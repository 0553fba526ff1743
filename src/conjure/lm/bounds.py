"""Limits of numeric options, and the messages for values outside them.

Main entries: `Bound`, `refuse_faults`. Invariant: it imports nothing heavy, so that a command's options are
checked at once.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NamedTuple

from conjure.errors import UsageError, option

_HARDLY_NAMED = 1_000_000
LARGEST_COUNT = 2**31 - 1  # of anything counted, where no other limit is given


class ValueFault(NamedTuple):
    """What is wrong with one value.

    Attributes:
        name: The value's name in Python.
        words: The rest of the sentence that begins with the name.
    """

    name: str
    words: str


@dataclass(frozen=True, slots=True)
class Bound:
    """What a number given from outside may be.

    Attributes:
        least: The smallest value.
        most: The largest value; None is `LARGEST_COUNT` for integers, else any that a float holds.
        whole: Only integers.
        above: `least` itself is not allowed.
    """

    least: float
    most: float | None = None
    whole: bool = False
    above: bool = False

    def allows(self, value: Any) -> bool:
        """Whether `value` is a number of the right kind within the bound; NaN and infinity never are."""
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        if self.whole and not isinstance(value, Integral):
            return False
        try:
            # An int compares exactly, however large.
            number = int(value) if isinstance(value, Integral) and self.whole else float(value)
        except OverflowError:  # no float is that large
            return False
        enough = number > self.least if self.above else number >= self.least
        return enough and number <= self.limit and number < math.inf

    @property
    def limit(self) -> float:
        """The largest value."""
        if self.most is not None:
            return self.most
        return LARGEST_COUNT if self.whole else math.inf

    def __str__(self) -> str:
        return self.words_for(None)

    def fault(self, name: str, value: Any) -> ValueFault:
        """What to say of a value that is not allowed."""
        return ValueFault(name, f"must be {self.words_for(value)}, not {value!r}")

    def words_for(self, value: Any) -> str:
        """The bound in words for who gave `value`: the kind of number if it is another one.

        A limit nobody comes near by intent is named to those who exceed it.
        """
        exceeds = isinstance(value, int | float) and value > self.limit
        named = exceeds or (self.most is not None and self.most < _HARDLY_NAMED)
        limit = f"{self.limit}" if named and self.limit < math.inf else None
        kind = "" if self._is_of_kind(value) else "an integer " if self.whole else "a number "
        if self.above:
            return f"{kind}above {self.least}" + (f" and at most {limit}" if limit else "")
        if limit:
            return f"{kind}from {self.least} to {limit}"
        return f"{kind}{'of ' if kind else ''}at least {self.least}"

    def _is_of_kind(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return isinstance(value, int) or (not self.whole and math.isfinite(value))


class ValueFaultsError(UsageError):
    """Values that cannot be."""

    def __init__(self, faults: Iterable[ValueFault], *, fix: str | None = None) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{option(name)} {words}" for name, words in self.faults), fix=fix)


def bound_faults(
    bounds: Mapping[str, Bound], values: Mapping[str, Any], *, may_be_none: Collection[str] = ()
) -> Iterator[ValueFault]:
    """A fault for each value that is not within its bound.

    Args:
        bounds: By name.
        values: A value for each of these names.
        may_be_none: Names of those that can be None, which is no value.
    """
    for name, bound in bounds.items():
        value = values[name]
        if not (value is None and name in may_be_none) and not bound.allows(value):
            yield bound.fault(name, value)


def python_number(value: Any) -> float:
    """A number as one of Python's own, which JSON can hold, where it may be one of NumPy's."""
    return int(value) if isinstance(value, Integral) else float(value)


def value_fault(name: str, words: str, *, fix: str | None = None) -> ValueFaultsError:
    """The error for one value that cannot be; see `ValueFault`."""
    return ValueFaultsError([ValueFault(name, words)], fix=fix)


def refuse_faults(faults: Iterable[ValueFault]) -> None:
    """Raise all faults in one error, if there are any.

    Raises:
        ValueFaultsError: There are.
    """
    found = tuple(faults)
    if found:
        raise ValueFaultsError(found)
