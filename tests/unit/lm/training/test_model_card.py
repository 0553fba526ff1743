"""The card names the base model, its licence and whether its weights were rounded."""

import json

import pytest

from conjure.lm.training.finetune import finetune
from conjure.lm.training.model_card import BaseFacts
from support.models import TEXTS, tiny_checkpoint


def test_the_licence_comes_from_the_card_or_from_the_file(tmp_path):
    assert BaseFacts.of("x", tmp_path) == BaseFacts("x")
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n# x\nlicense: mit\n")
    assert BaseFacts.of("x", tmp_path).licence == "apache-2.0"
    origin = {"license": "gemma", "number_formats": {"Q4_1": 3, "F32": 2, "Q8_0": 1}}
    (tmp_path / "origin.json").write_text(json.dumps(origin))
    assert BaseFacts.of("x", tmp_path) == BaseFacts("x", "gemma", "Q4_1, Q8_0")
    (tmp_path / "origin.json").write_text("{")
    assert BaseFacts.of("x", tmp_path) == BaseFacts("x", "apache-2.0")


@pytest.mark.parametrize("licence", ["mit", "Llama 3.2 Community License", 'the "free" one', "yes", "©"])
def test_any_name_of_a_licence_is_passed_on(tmp_path, licence):
    (tmp_path / "origin.json").write_text(json.dumps({"license": licence}))
    assert BaseFacts.of("x", tmp_path).licence == licence
    (tmp_path / "origin.json").unlink()
    (tmp_path / "README.md").write_text(f"---\nlicense: {json.dumps(licence, ensure_ascii=False)}\n---\n")
    assert BaseFacts.of("x", tmp_path).licence == licence


def test_what_is_no_name_is_not(tmp_path):
    for licence in ("", "x" * 101, "\x1b[31m", 3, ["mit"]):
        (tmp_path / "origin.json").write_text(json.dumps({"license": licence}))
        assert BaseFacts.of("x", tmp_path).licence is None
    (tmp_path / "origin.json").write_text(json.dumps({"license": "mit\nbase_model: other"}))
    assert BaseFacts.of("x", tmp_path).licence == "mit base_model: other"
    (tmp_path / "origin.json").unlink()
    for line, licence in {"'mit'": "mit", '"\\x"': None, "[mit, gemma]": None}.items():
        (tmp_path / "README.md").write_text(f"---\nlicense: {line}\n---\n")
        assert BaseFacts.of("x", tmp_path).licence == licence


@pytest.mark.usefixtures("short_reports")
def test_a_tuned_model_passes_on_where_it_came_from(tmp_path):
    base = tiny_checkpoint(tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (base / "origin.json").write_text(json.dumps({"number_formats": {"Q4_1": 3}}))
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    finetune(tmp_path / "texts.txt", output=tmp_path / "out", model=base, split="lines", max_steps=1)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f'base_model: "{base}"\nbase_model_relation: finetune\nlicense: "apache-2.0"\n---' in card
    assert "its weights came from a quantized file (Q4_1)" in card
    # And so does a model that is tuned from that one.
    finetune(
        tmp_path / "texts.txt", output=tmp_path / "more", model=tmp_path / "out", split="lines", max_steps=1
    )
    assert 'license: "apache-2.0"' in (tmp_path / "more" / "README.md").read_text()
