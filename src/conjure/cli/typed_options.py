"""The options of a command as they were typed: to hand them on to the same command elsewhere, or to tell.

Main entries: `given_options`, `spell_as_typed`. Invariant: an option left out is left out again; defaults
stay defaults.
"""

from collections.abc import Sequence, Set
from typing import Any

import click
from click.core import ParameterSource

from conjure.core.quoting import shell_words
from conjure.errors import Spell


def given_options(context: click.Context, known: type) -> dict[str, Any]:
    """The values of the options given on the command line, of those that a `TypedDict` names."""
    return {
        name: value
        for name, value in context.params.items()
        if name in known.__annotations__ and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }


def spell_as_typed(command: click.Command, typed: Sequence[str]) -> Spell:
    """How a command's options are told: as they were typed; by their first long name where they were not.

    Args:
        command: The command; what is no option of it is told as one of its kind would be.
        typed: The words of the command line.
    """
    options = {each.name: each for each in command.params if isinstance(each, click.Option)}
    options |= {f"{name}s": each for name, each in options.items() if each.multiple}  # Python has lists
    words = {word.partition("=")[0] for word in typed}

    def spell(name: str, values: tuple[object, ...]) -> str:
        found = options.get(name)
        flag = f"--{name.replace('_', '-')}" if found is None else _as_typed(found, words)
        shown = [shell_words(str(value)) for value in values if value is not True]
        return " ".join(f"{flag} {value}" for value in shown) if shown else flag

    return spell


def _as_typed(option: click.Option, words: Set[str]) -> str:
    """The spelling of an option that is on the command line; where none is, its first that is no letter."""
    typed = (spelling for spelling in option.opts if spelling in words)
    return next(typed, None) or next((each for each in option.opts if each.startswith("--")), option.opts[0])
