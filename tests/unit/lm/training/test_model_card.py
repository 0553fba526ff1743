"""The card names the base model, its licence and whether its weights were rounded."""

import json

import pytest

from conjure.lm.training.finetune import finetune
from support.models import TEXTS, tiny_checkpoint


@pytest.mark.usefixtures("short_reports")
def test_a_tuned_model_passes_on_where_it_came_from(tmp_path):
    base = tiny_checkpoint(tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (base / "LICENSE").write_text("You may.")
    (base / "origin.json").write_text(json.dumps({"number_formats": {"Q4_1": 3}}))
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    finetune(tmp_path / "texts.txt", output=tmp_path / "out", model=base, split="lines", max_steps=1)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f'base_model: "{base}"\nbase_model_relation: finetune\nlicense: "apache-2.0"\n---' in card
    assert "its weights came from a quantized file (Q4_1)" in card
    assert (tmp_path / "out" / "LICENSE").read_text() == "You may."
    # And so does a model that is tuned from that one.
    finetune(
        tmp_path / "texts.txt", output=tmp_path / "more", model=tmp_path / "out", split="lines", max_steps=1
    )
    assert 'license: "apache-2.0"' in (tmp_path / "more" / "README.md").read_text()
    assert (tmp_path / "more" / "LICENSE").read_text() == "You may."
