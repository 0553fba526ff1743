"""Bounds of numbers that come from outside.

Main entry: `Bound`. Invariant: it imports nothing heavy, so that a command's options are checked at once.
"""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any


@dataclass(frozen=True, slots=True)
class Bound:
    """What a number given from outside may be.

    Attributes:
        least: The smallest value.
        most: The largest value.
        whole: Only whole numbers.
        above: `least` itself is not allowed.
    """

    least: float
    most: float = math.inf
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
        return enough and number <= self.most and number < math.inf

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.above:
            return f"{kind} above {self.least}" + (f", at most {self.most}" if self.most < math.inf else "")
        return f"{kind} from {self.least}" + (f" to {self.most}" if self.most < math.inf else " up")
