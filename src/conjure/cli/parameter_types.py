"""Run numbers as people type them: ``12``, ``#12`` or ``runs/12``.

Main entry: `RUN_NUMBER`, a click parameter type. Invariant: a number is plain digits and above zero.
"""

import re
from typing import Any

import click

_FORM = re.compile(r"(?:#|runs/)?([1-9][0-9]{0,17})/?")


class RunNumber(click.ParamType):
    """Turns what was typed into a run's number."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number, or a usage error that says what one looks like."""
        if isinstance(value, int):
            return value
        match = _FORM.fullmatch(value.strip())
        if match is None:
            self.fail(f"{value!r} is not a run's number; see them with `conjure ps`", param, ctx)
        return int(match[1])


RUN_NUMBER = RunNumber()
