"""The options of a command as they were typed: to hand them on to the same command elsewhere, or to tell.

Main entries: `given_options`, `is_typed`, `command_to_execute`, `give_json_to_subcommand`, `spell_as_typed`.
Invariant: an option left out is left out again; defaults stay defaults.
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


def command_to_execute(group: click.Context, arguments: Sequence[str]) -> str | None:
    """The command that arguments of a group name, such as ``sweep grid``; None if only help is asked for.

    None as well if they cannot be read, which whoever executes the command tells.
    """
    verb, *rest = arguments
    command = group.command.get_command(group, verb) if isinstance(group.command, click.Group) else None
    if command is None:
        return None
    context = click.Context(command, parent=group, info_name=verb)
    try:
        typed, rest, _ = command.make_parser(context).parse_args(list(rest))
    except click.UsageError:
        return None
    help_option = command.get_help_option(context)
    if help_option is not None and help_option.name in typed:
        return None
    if not (isinstance(command, click.Group) and rest):
        return verb
    inner = command_to_execute(context, rest)
    return None if inner is None else f"{verb} {inner}"


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
