"""An adapter is used with the weights it was trained on, and no others; `test_peft.py` has the rest."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from conjure.errors import CheckpointError
from conjure.lm.checkpoints import model_resolver
from conjure.lm.checkpoints.adapters import apply_adapter, save_adapter
from conjure.lm.checkpoints.model_resolver import resolve_model
from conjure.lm.checkpoints.pretrained import load_model
from conjure.lm.text.tokenizer import Tokenizer
from conjure.lm.training.lora import ALPHA, add_lora
from support.models import tiny_checkpoint, tiny_tokenizer


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


def change_config(adapter, **changes):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


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


def test_nothing_is_kept_of_a_base_that_is_replaced_meanwhile(models, tmp_path, monkeypatch):
    adapter = adapter_of(resolve_model("sprite"), tmp_path / "adapter", noted=False)

    def replaced_and_loaded(folder):
        tiny_checkpoint(folder, seed=1)
        return load_model(folder)

    with monkeypatch.context() as patch:
        patch.setattr("conjure.lm.checkpoints.adapters.load_model", replaced_and_loaded)
        with pytest.raises(CheckpointError) as refused:
            apply_adapter(resolve_model("sprite"), adapter)
    assert str(refused.value) == f"{models / 'sprite'} or {adapter} was changed while it was read"
    tiny_checkpoint(models / "sprite")
    merged = load_model(apply_adapter(resolve_model("sprite"), adapter).folder)
    assert torch.equal(merged.embedding.weight, load_model(models / "sprite").embedding.weight)


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "lora_ga"),
        ("alora_invocation_tokens", [5]),
        ("layer_replication", [[0, 1], [0, 2]]),
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("arrow_config", {"top_k": 3}),
        ("kasa_config", {"beta": 0.1}),
    ],
)
def test_what_is_more_than_an_addition_to_the_base_is_refused(models, tmp_path, name, value):
    adapter = adapter_of(resolve_model("sprite"), tmp_path / "adapter")
    change_config(adapter, **{name: value})
    with pytest.raises(CheckpointError, match=f"has {name} .*, which conjure does not support"):
        apply_adapter(resolve_model("sprite"), adapter)


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_however_its_matrices_began(models, tmp_path, init):
    adapter = adapter_of(resolve_model("sprite"), tmp_path / "adapter")
    unused = {"alora_invocation_tokens": None, "layer_replication": None, "use_qalora": False}
    change_config(adapter, init_lora_weights=init, use_bdlora=None, arrow_config=None, **unused)
    assert apply_adapter(resolve_model("sprite"), adapter).folder.is_dir()


@pytest.mark.parametrize("shape", [(), (0,), (3,), (0, 24), (24, 0), (2, 24, 1)])
@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_a_damaged_one_is_refused(models, tmp_path, part, shape):
    adapter = adapter_of(resolve_model("sprite"), tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if part in name)
    save_file({**tensors, name: torch.ones(shape)}, file)
    with pytest.raises(CheckpointError, match=f"is damaged: tensor .*{part}.weight contains float32 numbers"):
        apply_adapter(resolve_model("sprite"), adapter)
    save_file({**tensors, name: tensors[name].to(torch.int32)}, file)
    with pytest.raises(CheckpointError, match="contains int32 numbers"):
        apply_adapter(resolve_model("sprite"), adapter)


@pytest.mark.parametrize("alpha", [10**400, float("nan"), float("inf"), True, "8"])
def test_a_scale_that_cannot_be_one_is_refused(models, tmp_path, alpha):
    adapter = adapter_of(resolve_model("sprite"), tmp_path / "adapter")
    change_config(adapter, lora_alpha=alpha)
    with pytest.raises(CheckpointError, match=r"lora_alpha .*, which is not a number"):
        apply_adapter(resolve_model("sprite"), adapter)


@pytest.mark.parametrize("name", ["chat_template.jinja", "merges.txt"])
def test_a_base_with_other_files_is_another_model(models, tmp_path, name):
    adapter = adapter_of(resolve_model("sprite"), tmp_path / "adapter")
    before = apply_adapter(resolve_model("sprite"), adapter).folder
    path = models / "sprite" / name
    path.write_text(f"{path.read_text() if path.exists() else 'a'}\n")
    assert apply_adapter(resolve_model("sprite"), adapter).folder != before


class TestTokenizerOfTheAdapter:
    @pytest.fixture
    def adapter(self, models, tmp_path):  # noqa: ARG002  # where the base model is
        return adapter_of(resolve_model("sprite"), tmp_path / "adapter")

    def merged(self, adapter):
        return Tokenizer.from_folder(apply_adapter(resolve_model("sprite"), adapter).folder)

    @pytest.mark.parametrize("with_tokenizer", [False, True])
    def test_its_chat_template_is_the_one_it_was_trained_with(self, adapter, with_tokenizer):
        assert self.merged(adapter).chat_template is None
        if with_tokenizer:
            tiny_tokenizer().save(adapter)
            assert self.merged(adapter).chat_template is None
        for template in ("{{ messages[0].content }}", "{{ messages[-1].content }}"):
            (adapter / "chat_template.jinja").write_text(template)
            assert self.merged(adapter).chat_template == template
        assert self.merged(adapter).digest == tiny_tokenizer().digest

    def test_without_one_the_base_model_s_stays(self, models, adapter):
        (models / "sprite" / "chat_template.jinja").write_text("{{ messages[0].content }}")
        tiny_tokenizer().save(adapter)
        assert self.merged(adapter).chat_template == "{{ messages[0].content }}"

    def test_the_same_ids_may_be_said_otherwise(self, adapter):
        tiny_tokenizer().save(adapter)
        path = adapter / "tokenizer.json"
        content = json.loads(path.read_text())
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [content["pre_tokenizer"]]}
        content["added_tokens"][0]["normalized"] = True
        path.write_text(json.dumps(content))
        (adapter / "chat_template.jinja").write_text("{{ messages[0].content }}")
        assert self.merged(adapter).chat_template == "{{ messages[0].content }}"

    def test_other_ids_are_refused(self, adapter):
        Tokenizer.train(["other words"] * 3, 300).save(adapter)
        with pytest.raises(CheckpointError) as refused:
            self.merged(adapter)
        assert str(refused.value) == f"the adapter {adapter} has another tokenizer than its base model"

    def test_another_way_of_cutting_words_is_refused(self, adapter):
        tiny_tokenizer().save(adapter)
        path = adapter / "tokenizer.json"
        content = json.loads(path.read_text())
        digits = {"type": "Digits", "individual_digits": True}
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, content["pre_tokenizer"]]}
        content["normalizer"] = {"type": "NFC"}
        path.write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match="has another tokenizer than its base model"):
            self.merged(adapter)

    def test_a_base_without_a_tokenizer_takes_it(self, models, adapter):
        for path in models.glob("sprite/*"):
            if path.name in ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"):
                path.unlink()
        tiny_tokenizer().save(adapter)
        assert self.merged(adapter).digest == tiny_tokenizer().digest
