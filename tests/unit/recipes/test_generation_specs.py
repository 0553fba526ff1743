"""Generating and scoring as runs: what a run's command cannot be given is refused before there is a run."""

import subprocess

import pytest

from conjure.errors import UsageError
from conjure.recipes.generation_specs import generate_spec, score_spec

LONGEST = 131_071  # bytes


def test_the_longest_text_that_is_recorded_is_the_longest_that_a_program_is_given(home):
    subprocess.run(["true", "x" * LONGEST], check=True)
    with pytest.raises(OSError, match="Argument list too long"):
        subprocess.run(["true", "x" * (LONGEST + 1)], check=True)
    assert generate_spec(home, "x" * LONGEST, "sprite", {}).command[-1] == "x" * LONGEST
    assert score_spec(home, ["x" * LONGEST], ["sprite"], {}, files=False).command[-1] == "x" * LONGEST


@pytest.mark.parametrize("text", ["x" * (LONGEST + 1), "я" * (LONGEST // 2 + 1)])
def test_a_longer_one_is_refused_with_what_to_do(home, text):
    too_long = "has at most 131,071 bytes; this one has 131,072"
    with pytest.raises(UsageError, match=f"a recorded prompt {too_long}") as caught:
        generate_spec(home, text, "sprite", {})
    assert caught.value.hint == (
        "if it has no line breaks, write it to a line of a file, and use prompt_file"
    )
    with pytest.raises(UsageError, match=f"a recorded text {too_long}") as caught:
        score_spec(home, [text], ["sprite"], {}, files=False)
    assert caught.value.hint == "save it to a file, and score that"


def test_a_prompt_that_stands_for_standard_input_is_refused(home):
    with pytest.raises(
        UsageError, match="the prompt '-' cannot be recorded: the run's command would"
    ) as caught:
        generate_spec(home, "-", "sprite", {})
    assert caught.value.hint == "write it to a line of a file, and use prompt_file"


def test_prompts_of_a_file_are_not(home, tmp_path):
    (tmp_path / "prompts.txt").write_text("-\n")
    assert (
        generate_spec(home, "-", "sprite", {}, prompt_file=tmp_path / "prompts.txt").command[-1]
        == "prompts.txt"
    )
