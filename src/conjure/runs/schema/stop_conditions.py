"""Stop conditions: ``loss > 9 && step > 100`` ends a run once its metrics say so.

Main entries: `parse_stop_condition`, `StopWatch`. Grammar: clauses ``NAME OP VALUE[:FROM_STEP]`` joined by
``&&``; OP is one of ``< > <= >=``, or ``==`` with the value ``nan``; a name may hold spaces, and one with a
character of the grammar is written in quotes; the name ``step`` means the newest step of the metrics beside
it; ``:FROM_STEP`` ignores that metric's earlier points. Several conditions: any of them ends the run.
Invariant: a condition can only become true when a metric it names has a new point.
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from conjure.errors import UsageError

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_CLAUSE = re.compile(
    r"\s*(?:\"(?P<double>[^\"]+)\"|'(?P<single>[^']+)'|(?P<plain>[^\s<>=&!\"'][^<>=&!\"']*?))"
    r"\s*(?P<operator><=|>=|==|<|>)\s*(?P<value>[^\s:<>=&]+)\s*(?::\s*(?P<start>\d{1,18})\s*)?(?P<end>&&|\Z)"
)
_IS_NAN = "=="
STEP = "step"


class Clause(NamedTuple):
    """One comparison: the newest value of a metric (or its step) against a number."""

    name: str
    operator: str
    value: float
    from_step: int = 0

    def holds(self, number: float) -> bool:
        """Whether `number` is on the side of the value that the clause asks for."""
        if self.operator == _IS_NAN:
            return math.isnan(number)
        return _OPERATORS[self.operator](number, self.value)


class StopCondition(NamedTuple):
    """Clauses that must hold together; `text` is what the user wrote."""

    text: str
    clauses: tuple[Clause, ...]

    @property
    def metrics(self) -> frozenset[str]:
        """Names of the metrics it waits for."""
        return frozenset(clause.name for clause in self.clauses if clause.name != STEP)


def parse_stop_condition(text: str) -> StopCondition:
    """The condition a user wrote.

    Raises:
        UsageError: It does not follow the grammar; the message shows one that does.
    """
    clauses: list[Clause] = []
    place, goes_on = 0, True
    while goes_on:
        match = _CLAUSE.match(text, place)
        if match is None:
            part = text[place:].strip()
            raise _refusal(text, f"{part!r} is not NAME OP VALUE (OP is <, >, <= or >=, or == nan)")
        clauses.append(_clause(text, match))
        place, goes_on = match.end(), match["end"] == "&&"
    if all(clause.name == STEP for clause in clauses):
        raise _refusal(text, "it names no metric to take the step of")
    return StopCondition(text, tuple(clauses))


def _clause(text: str, match: re.Match[str]) -> Clause:
    try:
        value = float(match["value"])
    except ValueError as error:
        raise _refusal(text, f"{match['value']!r} is not a number") from error
    name = match["double"] or match["single"] or match["plain"]
    if (match["operator"] == _IS_NAN) != math.isnan(value):
        raise _refusal(text, "== can only be used with nan, as in 'loss == nan'")
    if math.isinf(value):
        raise _refusal(text, "infinity cannot be a bound")
    return Clause(name, match["operator"], value, int(match["start"] or 0))


def _refusal(text: str, why: str) -> UsageError:
    return UsageError(
        f"stop condition {text!r}: {why}",
        hint="as in 'loss > 9 && step > 100', or 'loss > 9:100'",
    )


class StopWatch:
    """Watches metric points go by and says when one of several conditions comes true."""

    def __init__(self, conditions: Iterable[StopCondition]) -> None:
        self._conditions = tuple(conditions)
        self._newest: dict[str, tuple[int, float]] = {}
        self._told: set[str] = set()

    def see(self, name: str, step: int, value: float) -> StopCondition | None:
        """Take in one point; the first condition that holds with it, or None."""
        self._newest[name] = (step, value)
        for condition in self._conditions:
            if name in condition.metrics and self._holds(condition):
                return condition
        return None

    def misses_nan(self, name: str) -> bool:
        """Whether conditions name this metric and none asks for NaN; true once, to be told once."""
        clauses = [clause for condition in self._conditions for clause in condition.clauses]
        is_missed = _IS_NAN not in {clause.operator for clause in clauses if clause.name == name}
        is_named = any(clause.name == name for clause in clauses)
        if not (is_named and is_missed) or name in self._told:
            return False
        self._told.add(name)
        return True

    def unmet(self) -> Iterator[tuple[StopCondition, str]]:
        """Conditions that could not come true, each with a metric that never came."""
        for condition in self._conditions:
            yield from ((condition, name) for name in sorted(condition.metrics - self._newest.keys()))

    def _holds(self, condition: StopCondition) -> bool:
        if not condition.metrics <= self._newest.keys():
            return False
        newest_step = max(self._newest[name][0] for name in condition.metrics)
        return all(self._clause_holds(clause, newest_step) for clause in condition.clauses)

    def _clause_holds(self, clause: Clause, newest_step: int) -> bool:
        if clause.name == STEP:
            return clause.holds(newest_step)
        step, value = self._newest[clause.name]
        return step >= clause.from_step and clause.holds(value)
