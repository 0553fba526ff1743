"""`--from-file` and `--save-command` for a command.

Main entries: `SavableCommand`, `saved_command_options`, `save_command`. Invariant: what is typed wins over
the file, and what is saved never holds a secret.
"""

from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from conjure.cli.saved_commands.files import (
    SavedWords,
    Value,
    key_of,
    read_words,
    saved_parameters,
    write_values,
)
from conjure.core.home_selection import with_home
from conjure.core.quoting import shell_words
from conjure.core.secrets import Redaction, redact_text
from conjure.errors import UsageError
from conjure.runs.schema.spec import part_in_words, split_withheld

# Options whose values are NAME=VALUE: what is typed replaces the file's only where the names are equal.
_ASSIGNMENTS = ("env", "param")
_TEXTS = ("description", "label")  # they change nothing in a run, so a secret in them is only covered
_GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)


class SavableCommand(click.Command):
    """A command whose options and arguments can come from a file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, with the words of the file, but for those that what was typed replaces."""
        if not ctx.resilient_parsing:
            typed, _, _ = self.make_parser(ctx).parse_args(args=list(args))
            if isinstance(typed.get("from_file"), str):
                words = read_words(Path(typed["from_file"]), self, _verb(ctx))
                args = _joined(words, self, typed, args)
        return super().parse_args(ctx, args)


def _verb(context: click.Context) -> str:
    """A command's name, of a command of a group with the group's."""
    return context.command_path.removeprefix("conjure ")


def saved_command_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the two options; the command gets `save_command`."""
    for option in (
        click.option(
            "--save-command",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Write these options and the command to a TOML file instead of running it.",
        ),
        click.option(
            "--from-file",
            metavar="FILE",
            expose_value=False,
            help="Read options and arguments from a TOML file; options on the command line take precedence.",
        ),
    ):
        command = option(command)
    return command


def save_command(context: click.Context, path: Path, withheld: Iterable[str] | None = None) -> int:
    """Write what a command was given to a file, and say how to run it.

    Args:
        context: The command's.
        path: The file.
        withheld: What of the run's spec is secret, as in `RunSpec.withheld`; None where there is no spec, so
            that the words of the command line are searched.

    Raises:
        UsageError: There is a secret elsewhere than in a variable.
        ConflictError: The file exists.
    """
    values: dict[str, Value] = {}
    for parameter in saved_parameters(context.command):
        name = parameter.name or ""
        if context.get_parameter_source(name) in _GIVEN:
            value = _value(parameter, context.params.get(name))
            if value is not None:
                values.setdefault(key_of(parameter), value)
    secret_variables = _secret_variables(_secret_words(context, values) if withheld is None else withheld)
    env = values.get("env")
    if isinstance(env, tuple):
        values["env"] = tuple(_without_value(text, secret_variables) for text in env)
    write_command(path, values, _verb(context))
    return 0


def write_command(path: Path, values: dict[str, Value], verb: str) -> None:
    """Write options and arguments of a verb to a file, and say how to run it.

    Raises:
        ConflictError: The file exists.
    """
    for key in _TEXTS:
        value = values.get(key)
        if isinstance(value, str):
            values[key] = redact_text(value)
        elif isinstance(value, tuple):
            values[key] = tuple(map(redact_text, value))
    write_values(path, values)
    line = with_home(shell_words("conjure", *verb.split(), "--from-file", str(path)))
    click.echo(f"{path} written; run it with: {line}", err=True)


def _secret_words(context: click.Context, values: dict[str, Value]) -> list[str]:
    """What is secret among a command's words, as in `RunSpec.withheld`."""
    words = ["conjure", *_verb(context).split()]
    for key, value in values.items():
        texts = value if isinstance(value, tuple) else (value,)
        words += [] if key in _TEXTS else [f"--{key}={text}" for text in texts]
    return ["command"] if Redaction().command(words) != tuple(words) else []


def _secret_variables(withheld: Iterable[str]) -> set[str]:
    """The names of secret variables.

    Raises:
        UsageError: Something else is secret, too.
    """
    names, others = split_withheld(withheld)
    if others:
        places = " and ".join(part_in_words(part).replace("its ", "the ") for part in others)
        raise UsageError(
            f"there is a secret in {places}, and secrets are not saved",
            hint="put it into a variable: -e KEY, and $KEY in the command",
        )
    return set(names)


def _without_value(text: str, secret: set[str]) -> str:
    name = text.partition("=")[0]
    return name if name in secret else text


def _value(parameter: click.Parameter, value: Any) -> Value | None:
    """A parameter's value as a file holds it; None for one that is not set."""
    if isinstance(parameter, click.Option) and parameter.is_flag and isinstance(parameter.flag_value, str):
        return True if value == parameter.flag_value else None  # one of several flags for one parameter
    if isinstance(value, tuple):
        words = tuple(map(str, value))
        is_shell_line = parameter.name == "command" and len(words) == 1
        return words[0] if is_shell_line else words or None
    if isinstance(value, Path | date):
        return str(value)
    if value is None and parameter.name and isinstance(parameter, click.Option):
        return "auto" if parameter.type.name.endswith("|auto") else None
    return value


def _joined(words: SavedWords, command: click.Command, typed: dict[str, Any], args: list[str]) -> list[str]:
    """The typed words with those of the file that they do not replace."""
    given = {key_of(parameter) for parameter in command.params if _is_typed(parameter, typed)}
    options = [
        word for key, saved in words.options.items() for word in _kept(key, saved, given, typed, command)
    ]
    missing = [word for key, saved in words.arguments.items() if key not in given for word in saved]
    if not missing:
        return [*options, *args]
    return [*options, *args, *([] if args[-1:] == ["--"] else ["--"]), *missing]


def _is_typed(parameter: click.Parameter, typed: dict[str, Any]) -> bool:
    value = typed.get(parameter.name or "")
    if isinstance(parameter, click.Option):
        return parameter.name in typed
    return isinstance(value, str | tuple) and value != ()  # the parser names arguments that were not typed


def _kept(
    key: str, saved: list[str], given: set[str], typed: dict[str, Any], command: click.Command
) -> list[str]:
    """The words of an option of the file that what was typed does not replace."""
    if key not in given:
        return saved
    if key not in _ASSIGNMENTS:
        return []
    typed_texts = next(typed[each.name] for each in command.params if key_of(each) == key and each.name)
    names = {text.partition("=")[0] for text in typed_texts}
    return [word for word in saved if word.split("=")[1] not in names]
