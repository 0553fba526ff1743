"""What `conjure score --compare` says of two models, one of which may have been tuned from the other."""

import json

import pytest

from conjure.cli.language_model.score import _note_other_base
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
