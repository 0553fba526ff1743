"""`make commands` forgets no command, and leaves out none without a reason that still holds."""

import re

import pytest

from support.pages import REPOSITORY, load_script

try_commands = load_script("try_commands")


def test_every_exception_is_for_a_command_that_is_still_named():
    named = [command for _, command in try_commands.commands(REPOSITORY)]
    assert {"make demo", "pip install ."} <= set(named)
    for pattern in (*try_commands.LEFT_OUT, *try_commands.SHORTENED):
        assert any(re.fullmatch(pattern, command) for command in named), f"no command is {pattern}: remove it"


def test_a_command_that_nobody_thought_of_runs_as_it_stands():
    assert try_commands.form("make tea") == ("make tea", "")


def test_a_block_gives_its_commands_without_comments_and_line_ends():
    content = "make setup    # minutes\n\nconjure finetune a.csv \\\n    --epochs 2\n"
    assert list(try_commands.block_commands(content, "page")) == [
        "make setup",
        "conjure finetune a.csv --epochs 2",
    ]


def test_a_block_that_begins_with_no_known_program_is_an_error():
    with pytest.raises(SystemExit, match="`wget page` begins with no known program"):
        list(try_commands.block_commands("wget page\n", "page.md"))
