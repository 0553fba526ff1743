"""The options of a command as they were typed, to hand them on to the same command elsewhere.

Main entries: `typed_options`, `names_as_typed`. Invariant: an option left out is left out again; defaults
stay defaults.
"""

import sys
from collections.abc import Iterator, Set
from contextlib import contextmanager

import click
from click.core import ParameterSource

from conjure.lm.bounds import ValueFaultsError


def typed_options(context: click.Context, *, leave_out: Set[str]) -> list[str]:
    """The words of all options given on the command line, but for those whose parameters are left out."""
    words: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if not parameter.expose_value:  # --from-file, whose words count as typed here
            continue
        if isinstance(parameter, click.Option) and given and name not in leave_out:
            words += _words(parameter, context.params[name])
    return words


@contextmanager
def names_as_typed(context: click.Context) -> Iterator[None]:
    """Tell faults of values by the options they were given with, as they were typed.

    Raises:
        ValueFaultsError: One was raised inside the block.
    """
    options = {option.name: option for option in context.command.params if isinstance(option, click.Option)}
    try:
        yield
    except ValueFaultsError as error:
        spelled = {name: _as_typed(option) for name, option in options.items()}
        raise ValueFaultsError(error.faults, lambda name: spelled.get(name, name), fix=error.fix) from error


def _as_typed(option: click.Option) -> str:
    """The spelling of an option that is on the command line; its longest where none is."""
    typed = {word.partition("=")[0] for word in sys.argv[1:]}
    return next((spelling for spelling in option.opts if spelling in typed), max(option.opts, key=len))


def _words(option: click.Option, value: object) -> list[str]:
    flag = max(option.opts, key=len)
    if option.is_flag:
        return [flag if value else max(option.secondary_opts, key=len)]
    values = value if isinstance(value, tuple) else (value,)
    return [f"{flag}={'auto' if one is None else one}" for one in values]
