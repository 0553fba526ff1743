import json
from pathlib import Path

from conjure.lm.checkpoints.describe import describe
from conjure.lm.checkpoints.model_resolver import ModelSource
from conjure.lm.checkpoints.pretrained import save_checkpoint
from support.models import tiny_checkpoint, tiny_model


def source(folder: Path) -> ModelSource:
    return ModelSource("mine", folder, "folder")


def test_a_sound_model(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    model = describe(source(folder))
    assert model.config == tiny_model().config
    assert model.size_bytes == (folder / "model.safetensors").stat().st_size
    assert (model.dtype, model.has_tokenizer, model.training, model.problem) == ("float32", True, None, None)


def test_training_record(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m", tiny_model(), None, training={"steps": 7})
    model = describe(source(tmp_path / "m"))
    assert (model.training, model.has_tokenizer) == ({"steps": 7}, False)


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    model = describe(source(folder))
    assert model.config is not None
    assert model.size_bytes > 0
    assert "a pickle" in (model.problem or "")
    assert f"(try: conjure models convert {folder})" in (model.problem or "")
    (folder / "config.json").write_text("{")
    assert "is not JSON" in (describe(source(folder)).problem or "")


def test_to_dict_is_json(tmp_path: Path) -> None:
    content = describe(source(tiny_checkpoint(tmp_path / "m"))).to_dict()
    assert json.loads(json.dumps(content)) == content
    assert (content["name"], content["parameters"], content["dtype"]) == ("mine", 11_904, "float32")
