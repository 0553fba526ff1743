"""The options of a command as they were typed, to hand them on to the same command elsewhere.

Main entry: `typed_options`. Invariant: an option left out is left out again; defaults stay defaults.
"""

from collections.abc import Set

import click
from click.core import ParameterSource


def typed_options(context: click.Context, *, leave_out: Set[str]) -> list[str]:
    """The words of all options given on the command line, but for those whose parameters are left out."""
    words: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if isinstance(parameter, click.Option) and given and name not in leave_out:
            words += _words(parameter, context.params[name])
    return words


def _words(option: click.Option, value: object) -> list[str]:
    flag = max(option.opts, key=len)
    if option.is_flag:
        return [flag if value else max(option.secondary_opts, key=len)]
    values = value if isinstance(value, tuple) else (value,)
    return [f"{flag}={'auto' if one is None else one}" for one in values]
