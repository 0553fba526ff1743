"""What a recorded command of conjure is given, and its command as it can be typed again."""

from pathlib import Path

import pytest

from conjure.recipes.run_specs import InputMounts, command_to_type
from conjure.runs.schema.spec import Mount, RunSpec

MOUNTS = (
    Mount("/home/me/my jokes.csv", "my jokes.csv"),
    Mount("runs/3/output", "model"),
    Mount("uploads/-a", "-a"),
)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["finetune", "my jokes.csv", "--model", "model", "--lora=4", "--adapter=./-a"],
            "finetune '/home/me/my jokes.csv' --model runs/3/output --lora=4 --adapter=uploads/-a",
        ),
        (
            ["generate", "--model", "model", "--output", "samples.json", "--seed=1", "--", "model"],
            "generate --model runs/3/output --save --seed=1 -- model",
        ),
        (
            ["score", "--compare", "model", "gpt2", "--output", "score.json", "--", "my jokes.csv"],
            "score --compare runs/3/output gpt2 --save -- '/home/me/my jokes.csv'",
        ),
        (
            ["score", "--model", "model", "--output", "score.json", "--text", "--", "model"],
            "score --model runs/3/output --save --text -- model",
        ),
    ],
)
def test_inputs_have_the_names_that_they_were_given_by(words, line):
    spec = RunSpec(("conjure", *words), Path("/"), kind=words[0], mounts=MOUNTS)
    assert command_to_type(spec) == f"conjure {line}"


def test_any_other_command_is_told_as_it_is():
    spec = RunSpec(("cat", "model", "a b"), Path("/"), mounts=MOUNTS)
    assert command_to_type(spec) == spec.command_text == "cat model 'a b'"


def test_a_model_below_the_home_folder_of_nobody_stays_as_it_was_typed(home):
    assert InputMounts(home).model("~nobody-here/m") == "~nobody-here/m"
