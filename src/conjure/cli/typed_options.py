"""The options of a command as they were typed, to hand them on to the same command elsewhere.

Main entries: `given_options`, `names_as_typed`. Invariant: an option left out is left out again; defaults
stay defaults.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from click.core import ParameterSource

from conjure.lm.bounds import ValueFaultsError


def given_options(context: click.Context, known: type) -> dict[str, Any]:
    """The values of the options given on the command line, of those that a `TypedDict` names."""
    return {
        name: value
        for name, value in context.params.items()
        if name in known.__annotations__ and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }


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
