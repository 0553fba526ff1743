"""An adapter is used with the weights it was trained on, and no others; `test_peft.py` has the rest."""

import pytest

from conjure.errors import CheckpointError
from conjure.lm.checkpoints import model_resolver
from conjure.lm.checkpoints.adapters import apply_adapter, save_adapter
from conjure.lm.checkpoints.model_resolver import resolve_model
from conjure.lm.checkpoints.pretrained import load_model
from conjure.lm.training.lora import ALPHA, add_lora
from support.models import tiny_checkpoint


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Where the embedded models are; there is a small one."""
    monkeypatch.setattr(model_resolver, "_embedded_root", lambda: tmp_path / "models")
    tiny_checkpoint(tmp_path / "models" / "sprite")
    return tmp_path / "models"


def adapter_of(source, folder, *, noted=True):
    model = add_lora(load_model(source.folder), 2, seed=0)
    weights = {
        name: weight + 0.1 if "lora_b" in name else weight for name, weight in model.state_dict().items()
    }
    save_adapter(
        folder,
        model.config,
        weights,
        alpha=ALPHA,
        base=source.name,
        base_sha256=source.sha256 if noted else None,
    )
    return folder


def test_it_is_used_with_its_base_wherever_that_lies(models, tmp_path):
    adapter = adapter_of(resolve_model("sprite"), tmp_path / "adapter")
    copy = resolve_model(tiny_checkpoint(tmp_path / "copy"))
    assert apply_adapter(resolve_model("sprite"), adapter).sha256 == apply_adapter(copy, adapter).sha256


def test_it_is_refused_where_an_upgrade_replaced_its_base(models, tmp_path):
    before = resolve_model("sprite")
    was = before.sha256[:8]
    adapter = adapter_of(before, tmp_path / "adapter")
    tiny_checkpoint(models / "sprite", seed=1)
    now = resolve_model("sprite")
    with pytest.raises(CheckpointError) as refused:
        apply_adapter(now, adapter)
    words = f"the adapter {adapter} was trained on sprite {was}, but this is sprite {now.sha256[:8]}"
    assert str(refused.value) == words
    hint = "install the version of conjure that it came with, or train the adapter again"
    assert refused.value.hint == hint


def test_it_is_refused_with_another_model(models, tmp_path):
    adapter = adapter_of(resolve_model("sprite"), tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="was trained on sprite") as refused:
        apply_adapter(resolve_model(tiny_checkpoint(tmp_path / "mine", seed=1)), adapter)
    assert refused.value.hint == "use that model, or train the adapter again"


def test_one_trained_on_a_model_with_an_adapter_is_refused_without_that(models, tmp_path):
    first = adapter_of(resolve_model("sprite"), tmp_path / "first")
    second = adapter_of(apply_adapter(resolve_model("sprite"), first), tmp_path / "second")
    with pytest.raises(CheckpointError, match=f"was trained on sprite with {first}"):
        apply_adapter(resolve_model("sprite"), second)


def test_an_older_one_says_nothing_and_fits_or_not(models, tmp_path):
    adapter = adapter_of(resolve_model("sprite"), tmp_path / "adapter", noted=False)
    tiny_checkpoint(models / "sprite", seed=1)
    assert apply_adapter(resolve_model("sprite"), adapter).folder.is_dir()
    tiny_checkpoint(models / "sprite", n_layer=1)
    with pytest.raises(CheckpointError, match="does not fit the model, which has no matrix") as refused:
        apply_adapter(resolve_model("sprite"), adapter)
    assert refused.value.hint == "use the model that it was trained on"
