"""docs/compat.md names every flag of both scripts, with its default, and no other."""

import re
from pathlib import Path

import pytest

from conjure.compat import run_generation, run_lm_finetuning

PAGE = (Path(__file__).parents[3] / "docs" / "compat.md").read_text(encoding="utf-8")
SCRIPTS = {"run_generation": run_generation.parser(), "run_lm_finetuning": run_lm_finetuning.parser()}


def rows(script: str) -> dict[str, str]:
    """Flag -> its row in the script's table."""
    section = PAGE.partition(f"## Flags of {script}\n")[2].partition("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| `--")]
    return {flag: row for row in table for flag in re.findall(r"`(--\w+)`", row.split("|")[1])}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_has_a_row_and_every_row_a_flag(script):
    flags = {flag for action in SCRIPTS[script]._actions for flag in action.option_strings}
    assert set(rows(script)) == flags - {"-h", "--help"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_defaults_are_those_of_the_script(script):
    for action in SCRIPTS[script]._actions:
        if isinstance(action.default, int | float) and not isinstance(action.default, bool):
            cell = rows(script)[action.option_strings[0]].split("|")[2].strip()
            assert float(cell) == action.default, action.option_strings


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_has_help(script, capsys):
    with pytest.raises(SystemExit) as stopped:
        SCRIPTS[script].parse_args(["--help"])
    assert stopped.value.code == 0
    assert all(action.help for action in SCRIPTS[script]._actions)
    assert f"conjure.compat.{script}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        "key/value cache",
        "repetition penalty",
        "a message says how much is dropped",
        "stale cache",
        "the window slides",
        "pickle",
        "ZeroDivisionError",
        "^C",
        "float32",
    ],
)
def test_each_deliberate_difference_is_listed(words):
    table = PAGE.partition("## What is different, and why")[2].partition("## Flags")[0]
    assert words in table
