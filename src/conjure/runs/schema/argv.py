"""From a run's command as it was written to the arguments that are executed.

Main entries: `fill_in`, `to_arguments`, `to_image_arguments`, `placeholders`. Invariant: a param's value
arrives at the command as exactly the text that was given, whatever quotes stand around its ``:NAME:`` in a
shell line.
"""

import re
import shlex
import shutil
from collections.abc import Mapping

_BASH_OR_SH = 'command -v bash >/dev/null && exec bash -c "$1"; exec sh -c "$1"'
_PLACEHOLDER = re.compile(r"(?<![\w:]):([A-Za-z_][A-Za-z0-9_.-]*):(?![\w:])")


def fill_in(command: tuple[str, ...], params: Mapping[str, str]) -> tuple[str, ...]:
    """The command with ``:NAME:`` replaced by the value of each param that it names."""
    if not params:
        return command
    if len(command) == 1:
        return (_fill_in_line(command[0], params),)
    named = re.compile("|".join(re.escape(f":{name}:") for name in params))
    return tuple(named.sub(lambda match: params[match[0][1:-1]], word) for word in command)


def to_arguments(command: tuple[str, ...]) -> tuple[str, ...]:
    """What is executed: several words as they are, one word by a shell."""
    if len(command) == 1:
        return (shutil.which("bash") or "/bin/sh", "-c", *command)
    return command


def to_image_arguments(command: tuple[str, ...]) -> tuple[str, ...]:
    """What is executed in an image, of which it is not known whether it has bash."""
    return ("/bin/sh", "-c", _BASH_OR_SH, "sh", *command) if len(command) == 1 else command


def unknown_placeholders(command: tuple[str, ...], params: Mapping[str, str]) -> list[str]:
    """Names that stand in the command like placeholders, but that no param has."""
    return [name for name in placeholders(command) if name not in params]


def placeholders(command: tuple[str, ...]) -> list[str]:
    """Names that stand in the command like placeholders: as ``:NAME:``, not within a word."""
    return list(dict.fromkeys(match[1] for word in command for match in _PLACEHOLDER.finditer(word)))


def _fill_in_line(line: str, params: Mapping[str, str]) -> str:
    """A shell line with values quoted for the place where each stands."""
    named = "|".join(re.escape(f":{name}:") for name in params)
    in_single_quotes = re.compile(rf"(?P<named>{named})|.", re.DOTALL)
    elsewhere = re.compile(
        rf"(?P<named>{named})|\\.|.", re.DOTALL
    )  # a backslash takes the next character along
    filled, quote, place = [], "", 0
    while match := (in_single_quotes if quote == "'" else elsewhere).match(line, place):
        place = match.end()
        text = match[0]
        if match["named"]:
            filled.append(_quoted(params[text[1:-1]], quote))
            continue
        if text == quote:
            quote = ""
        elif text in ("'", '"') and not quote:
            quote = text
        filled.append(text)
    return "".join(filled)


def _quoted(value: str, quote: str) -> str:
    if quote == "'":
        return value.replace("'", "'\\''")
    if quote == '"':
        return re.sub(r'([\\"$`])', r"\\\1", value)
    return shlex.quote(value)
