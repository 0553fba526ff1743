"""A command's options and arguments as a TOML file, one key for each.

    command = ["python", "train.py", "--lr", ":lr:"]
    param = ["lr=0.1"]
    timeout = "90m"

Main entries: `read_words`, `write_values`. Invariant: a key is the long name of an option, or an argument's
name, and a file that `write_values` wrote is read back as the same words.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from conjure.core.files import parse_toml
from conjure.core.text import did_you_mean, error_text
from conjure.errors import ConflictError, NotFoundError, UsageError

# Options of the file itself, and of the help.
_NOT_SAVED = {"from_file", "save_command", "help"}

Value = str | int | float | bool | Sequence[str]


@dataclass(frozen=True, slots=True)
class SavedWords:
    """What a file holds, as words of a command line.

    Attributes:
        options: The words of each option, by its key.
        arguments: The words of each argument, by its key.
    """

    options: dict[str, list[str]] = field(default_factory=dict)
    arguments: dict[str, list[str]] = field(default_factory=dict)


def key_of(parameter: click.Parameter) -> str:
    """The name a parameter has in a file: an option's first long one, or an argument's own."""
    if isinstance(parameter, click.Option):
        return next((name for name in parameter.opts if name.startswith("--")), parameter.opts[0]).lstrip("-")
    return parameter.name or ""


def saved_parameters(command: click.Command) -> list[click.Parameter]:
    """The parameters of a command that a file can hold."""
    return [parameter for parameter in command.params if parameter.name not in _NOT_SAVED]


def read_words(path: Path, command: click.Command, verb: str) -> SavedWords:
    """The options and arguments that a file holds, as they would be typed.

    Args:
        path: The file.
        command: The command they are for.
        verb: Its name, for messages.

    Raises:
        NotFoundError: There is no such file.
        UsageError: It is not TOML, or has an unknown key or a value that the option cannot have.
    """
    parameters = _by_key(command)
    words = SavedWords()
    for key, value in _load(path).items():
        if key not in parameters:
            near = did_you_mean(key.replace("_", "-"), parameters) or f"allowed: {', '.join(parameters)}"
            raise UsageError(f"{path}: `conjure {verb}` has no option {key!r}; {near}")
        parameter = parameters[key]
        known = key_of(parameter)
        if known in words.options or known in words.arguments:
            raise UsageError(f"{path}: {key} and another name of the same option are both set")
        where = f"{path}: {key}"
        if isinstance(parameter, click.Option):
            words.options[known] = _option_words(parameter, value, where)
        else:
            words.arguments[known] = _texts(value, where, several=parameter.nargs != 1)
    return words


def write_values(path: Path, values: Mapping[str, Value]) -> None:
    """Write options and arguments by their keys.

    Raises:
        ConflictError: The file exists.
        UsageError: It cannot be written, or a value is not UTF-8 text.
    """
    text = "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())
    try:
        readable = parse_toml(text) == {
            key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
        }
        data = text.encode()
    except ValueError:
        readable, data = False, b""
    if not readable:
        raise UsageError("this command cannot be saved: a word of it is not UTF-8 text")
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError as error:
        raise ConflictError(f"{path} exists", hint="remove it, or save to another file") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error_text(error)}") from error


def _by_key(command: click.Command) -> dict[str, click.Parameter]:
    """A command's parameters by every name that a file may use; arguments before options."""
    found: dict[str, click.Parameter] = {}
    parameters = saved_parameters(command)
    for parameter in sorted(parameters, key=lambda each: isinstance(each, click.Option)):
        names = [key_of(parameter)]
        if isinstance(parameter, click.Option):
            names += [name.lstrip("-") for name in parameter.opts if name.startswith("--")]
        for name in names:
            found.setdefault(name, parameter)
    return found


def _load(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(path.read_bytes().decode())
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error_text(error)}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not a TOML file: {error}") from error


def _option_words(option: click.Option, value: object, where: str) -> list[str]:
    flag = max((name for name in option.opts if name.startswith("--")), key=len)
    if option.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{where} is {value!r}; allowed: true, false")
        off = option.secondary_opts[:1]
        return [flag] if value else off
    return [f"{flag}={text}" for text in _texts(value, where, several=option.multiple)]


def _texts(value: object, where: str, *, several: bool) -> list[str]:
    """The words that a value stands for."""
    values = value if isinstance(value, list) and several else [value]
    if not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in values):
        allowed = "a string, a number or a list of them" if several else "a string or a number"
        raise UsageError(f"{where} is {_shown(value)}; allowed: {allowed}")
    return [one if isinstance(one, str) else repr(one) for one in values]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    kinds = {dict: "a table", list: "a list"}
    return next((words for kind, words in kinds.items() if isinstance(value, kind)), repr(value))


def _toml(value: Value) -> str:
    if isinstance(value, str | int | float):  # TOML writes these as JSON does
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"[{', '.join(map(_toml, value))}]"
