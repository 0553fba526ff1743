"""The options of a command as they were typed: to hand them on to the same command elsewhere, or to tell.

Main entries: `typed_options`, `spell_as_typed`. Invariant: an option left out is left out again; defaults
stay defaults.
"""

from collections.abc import Sequence, Set

import click
from click.core import ParameterSource

from conjure.core.quoting import shell_words
from conjure.errors import Spell


def typed_options(context: click.Context, *, leave_out: Set[str]) -> list[str]:
    """The words of all options given on the command line, but for those whose parameters are left out."""
    words: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if isinstance(parameter, click.Option) and given and name not in leave_out:
            words += _words(parameter, context.params[name])
    return words


def spell_as_typed(command: click.Command, typed: Sequence[str]) -> Spell:
    """How a command's options are told: as they were typed; by their longest name where they were not.

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
    """The spelling of an option that is on the command line; its longest where none is."""
    return next((spelling for spelling in option.opts if spelling in words), max(option.opts, key=len))


def _words(option: click.Option, value: object) -> list[str]:
    flag = max(option.opts, key=len)
    if option.is_flag:
        return [flag if value else max(option.secondary_opts, key=len)]
    values = value if isinstance(value, tuple) else (value,)
    return [f"{flag}={'auto' if one is None else one}" for one in values]
