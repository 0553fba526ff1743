"""Every command the documentation shows exists, with the options it is shown with."""

import shlex
from itertools import takewhile

import click
import pytest

from conjure.cli.main import cli
from support.pages import PAGES, REPOSITORY, blocks, inline_code, load_script

transcripts = load_script("transcripts")
ALWAYS_KNOWN = {"-h", "--help", "--version"}


def shown(page):
    """Lines with a command, from the page's transcripts, plain blocks and inline code."""
    lines = inline_code(page)
    for _, content in blocks(page, "console"):
        lines += transcripts.commands(content)
    for _, content in blocks(page, ""):
        lines += content.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("conjure ") and not line.startswith("conjure COMMAND")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_commands_that_are_shown_exist(page):
    for line in shown(page):
        words = split(line)
        command = named(words)
        for flag in flags(command, words):
            known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
            assert flag in known | ALWAYS_KNOWN, f"`{line}`: there is no {flag}"


def split(line):
    """The words after `conjure`, up to a pipe."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|")
    lexer.whitespace_split = True
    return list(takewhile(lambda word: word != "|", lexer))[1:]


def named(words):
    """The command that the first words name; they are taken off."""
    command = cli
    with click.Context(cli, info_name="conjure") as context:
        while isinstance(command, click.Group) and words and words[0][0] not in "-[":
            found = command.get_command(context, words.pop(0))
            assert found is not None, f"{command.name} has no such command: {words}"
            command = found
    return command


def flags(command, words):
    """The options among the words; `conjure run` ends at its command's first word."""
    takes_value = {
        name for option in command.params if not getattr(option, "is_flag", True) for name in option.opts
    }
    interspersed = command.context_settings.get("allow_interspersed_args", True)
    remaining = iter(words)
    for word in remaining:
        if word == "--" or not (word.startswith("-") or interspersed):
            return
        if word.startswith("-") and word != "-":
            flag, given, _ = word.partition("=")
            yield flag
            if flag in takes_value and not given:
                next(remaining, None)
