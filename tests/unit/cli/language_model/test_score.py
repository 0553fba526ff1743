"""What `conjure score --compare` says of two models, one of which may have been tuned from the other."""

import json

import pytest

from conjure.cli.language_model.score import _note_other_base
from conjure.cli.main import _run
from conjure.lm.checkpoints.model_resolver import ModelSource, resolve_model

OTHER = {"name": "sprite", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("training", "told"),
    [
        ({"settings": {"model": "sprite"}, "base": OTHER}, "it started from sprite 00000000, but this is"),
        ({"settings": {"model": "gpt2"}, "base": OTHER}, None),
        ({"settings": "fast"}, None),
        ({"settings": {"model": "sprite"}, "base": "gpt2"}, None),
    ],
)
def test_another_base_is_told_and_foreign_facts_are_passed_over(tmp_path, capsys, training, told):
    (tmp_path / "training.json").write_text(json.dumps(training))
    _note_other_base(resolve_model("sprite"), ModelSource("tuned", tmp_path, "folder"))
    shown = capsys.readouterr().err
    assert told in shown if told is not None else shown == ""


@pytest.mark.parametrize("text", [" ", "猫" * 300], ids=["no word", "one endless word"])
def test_a_perplexity_that_is_no_number_is_not_shown_as_one(capsys, text):
    assert _run(["score", "--text", text]) == 0
    assert "word perplexity  not defined for this text\n" in capsys.readouterr().out


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_number_format_is_told(capsys, precision):
    given = [] if precision == "float32" else ["--precision", precision]
    assert _run(["score", "My dog.", *given]) == 0
    assert f"(embedded), {precision}\n" in capsys.readouterr().out
    assert _run(["score", "My dog.", "--json", *given]) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == precision
