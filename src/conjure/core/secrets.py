"""Keeping secrets out of records, logs and terminals.

Main entries: `is_secret_name`, `redact_environment`, `redact_command`. Invariant: what is stored never holds
a value whose name looks secret.
"""

import re
from collections.abc import Mapping

STARS = "***"

# Whole words between separators, so that MONKEY or KEYBOARD_LAYOUT stay readable.
_SECRET_NAME = re.compile(
    r"(?:^|[_\-.])(?:key|keys|apikey|token|tokens|secret|secrets|password|passwd|pass|passphrase|pwd"
    r"|credential|credentials|auth|cookie|session|private|dsn|netrc)(?:$|[_\-.\d])",
    re.IGNORECASE,
)
_URL_CREDENTIALS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]{0,30}://)[^/@\s]+@", re.IGNORECASE)

_TOKEN_SHAPES = re.compile(
    r"\b(?:hf_|sk-|ghp_|gho_|github_pat_|glpat-|xox[abp]-|AKIA)[A-Za-z0-9_-]{12,}|\b(?P<bearer>Bearer\s+)[^\s'\"]+"
)
_QUOTED_OR_WORD = r"(?:'[^']*'|\"[^\"]*\"|[^\s'\";|&]+)"
_OPTION = re.compile(rf"(?<![\w-])(?P<name>--?[A-Za-z][\w-]*)(?P<between>=|\s+)(?P<value>{_QUOTED_OR_WORD})")
_ASSIGNMENT = re.compile(rf"\b(?P<name>[A-Z][A-Z0-9_]*)(?P<between>=)(?P<value>{_QUOTED_OR_WORD})")
_LITERAL = re.compile(r"\b(?P<name>[a-z][a-z0-9_]*)(?P<between>\s*=\s*)(?P<value>'[^']+'|\"[^\"]+\")")
# Options that are secret as part of a longer name but everyday words on their own: `sort --key 2`.
_EVERYDAY_NAMES = frozenset({"key", "keys", "pass", "session", "private", "auth", "tokens"})
# Not secrets whatever the name: numbers, further options, variables and placeholders to be filled in later.
_HARMLESS_VALUE = re.compile(r"[-+]?[\d.]+(?:e[-+]?\d+)?|-.*|\$.*|:.*:|true|false|none", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name probably holds something to keep out of records."""
    return _SECRET_NAME.search(name) is not None


def redact_text(text: str) -> str:
    """`text` with the user and password of every URL in it replaced by stars."""
    return _URL_CREDENTIALS.sub(rf"\g<scheme>{STARS}@", text)


def redact_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """`variables` as it may be stored: secret-looking names keep stars for a value."""
    return {
        name: STARS if is_secret_name(name) and not _is_count(name, value) else redact_text(value)
        for name, value in variables.items()
    }


def _is_count(name: str, value: str) -> bool:
    """Whether this is a number of tokens or keys, as in ``max_tokens=50``, rather than one of them."""
    return name.lower().endswith(("tokens", "keys")) and value.isdecimal() and len(value) < 10


def redact_command(command: tuple[str, ...]) -> tuple[str, ...]:
    """A command line as it may be stored: what looks like a password, token or key in it becomes stars.

    Args:
        command: One shell line, or a program and its arguments.
    """
    if len(command) == 1:
        return (_redact_line(command[0]),)
    follows_secret_option = (False, *(_is_secret_option(word) for word in command[:-1]))
    return tuple(
        STARS if after and not _HARMLESS_VALUE.fullmatch(word) else _redact_line(word)
        for word, after in zip(command, follows_secret_option, strict=True)
    )


def _redact_line(line: str) -> str:
    line = _TOKEN_SHAPES.sub(lambda match: f"{match['bearer'] or ''}{STARS}", redact_text(line))
    for pattern in (_OPTION, _ASSIGNMENT, _LITERAL):
        line = pattern.sub(_redact_match, line)
    return line


def _redact_match(match: re.Match[str]) -> str:
    name, value = match["name"], match["value"]
    secret = _is_secret_option(name) if name.startswith("-") else is_secret_name(name)
    if not secret or name in _EVERYDAY_NAMES or _HARMLESS_VALUE.fullmatch(value.strip("'\"")):
        return match[0]
    return f"{name}{match['between']}{STARS}"


def _is_secret_option(word: str) -> bool:
    name = word.lstrip("-")
    return word.startswith("-") and "=" not in word and name not in _EVERYDAY_NAMES and is_secret_name(name)
