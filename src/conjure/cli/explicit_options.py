"""The options of a command as they were typed: to hand them on to the same command elsewhere, or to tell.

Main entries: `given_options`, `is_typed`, `give_json_to_subcommand`, `spell_as_typed`. Invariant: an option
left out is left out again; defaults stay defaults.
"""

from collections.abc import Sequence, Set
from typing import Any

import click
from click.core import ParameterSource

from conjure.core.quoting import shell_words
from conjure.errors import Spell, UsageError


def given_options(context: click.Context, known: type) -> dict[str, Any]:
    """The values of the options given on the command line, of those that a `TypedDict` names."""
    return {
        name: value
        for name, value in context.params.items()
        if name in known.__annotations__ and is_typed(context, name)
    }


def is_typed(context: click.Context, name: str) -> bool:
    """Whether an option was given on the command line, and is neither its default nor a setting."""
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def give_json_to_subcommand(context: click.Context) -> None:
    """Let ``--json`` of a group, typed before one of its commands, count for that command.

    Raises:
        UsageError: That command prints no JSON.
    """
    verb, group = context.invoked_subcommand, context.command
    found = group.get_command(context, verb) if verb is not None and isinstance(group, click.Group) else None
    if verb is None or found is None:
        return
    if not any(parameter.name == "as_json" for parameter in found.params):
        raise UsageError(f"`{context.command_path} {verb}` prints no JSON", hint="leave out --json")
    defaults = context.default_map or {}
    context.default_map = {**defaults, verb: {**defaults.get(verb, {}), "as_json": True}}


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
