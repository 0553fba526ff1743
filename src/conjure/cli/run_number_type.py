"""Run numbers as people type them: ``12``, ``#12``, ``runs/12``, ``last`` or ``last~1``; other whole numbers.

Main entries: `RUN_NUMBER` and `WholeNumber`, click parameter types, and `optional_number`. Invariant: a run's
number is plain digits and above zero; no number has more digits than a database takes.
"""

import re
from collections.abc import Callable
from typing import Any

import click

from conjure.core.home import Home
from conjure.core.home_selection import with_home
from conjure.runs.lifecycle.open_store import open_store

_MOST_DIGITS = 18
_FORM = re.compile(
    rf"(?:#|runs/)?(?:(?P<number>[1-9][0-9]{{0,{_MOST_DIGITS - 1}}})|last(?:~(?P<back>[0-9]{{1,9}}))?)/?"
)


class WholeNumber(click.ParamType):
    """A whole number that is counted, or looked for in a database, which takes no larger one.

    Args:
        least: The least that is allowed.
    """

    name = "integer"

    def __init__(self, least: int) -> None:
        self._least, self._most = least, 10**_MOST_DIGITS - 1

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number, or a usage error that says which are allowed."""
        number = click.INT.convert(value, param, ctx)
        if not self._least <= number <= self._most:
            self.fail(f"{number} is not from {self._least} to {self._most:,}", param, ctx)
        return number


class RunNumber(click.ParamType):
    """Turns what was typed into a run's number."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number, or a usage error that says what one looks like."""
        if isinstance(value, int):
            return value
        match = _FORM.fullmatch(value.strip())
        if match is None:
            self.fail(f"{value!r} is not a run number; `{with_home('conjure ps')}` lists runs", param, ctx)
        return int(match["number"]) if match["number"] else last_number(int(match["back"] or 0))


RUN_NUMBER = RunNumber()


def is_run_number(text: str) -> bool:
    """Whether a word names a run."""
    return _FORM.fullmatch(text) is not None


def last_number(back: int = 0) -> int:
    """The number of the newest run, or of the one so many before it.

    Raises:
        NotFoundError: There are not so many runs.
    """
    with open_store(Home.from_environment()) as store:
        return store.last_number(back)


def optional_number(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the argument NUMBER; without it the newest run is meant."""
    return click.argument("number", type=RUN_NUMBER, default=last_number, metavar="[NUMBER]")(command)
