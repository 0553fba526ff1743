"""Adapters are PEFT's: what we keep, it loads; what it keeps, we load; both give the same logits."""

import json
from pathlib import Path

import pytest
import torch

from conjure.errors import CheckpointError, NotFoundError
from conjure.lm.checkpoints.adapters import apply_adapter, save_adapter
from conjure.lm.checkpoints.model_resolver import resolve_model
from conjure.lm.checkpoints.pretrained import load_model
from conjure.lm.training.lora import ALPHA, add_lora, merge_lora
from support.families import FAMILIES, reference

# transformers warns of a name that peft 0.21 uses.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
IDS = torch.randint(1, 300, (2, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def base(tmp_path, family) -> Path:
    reference(family).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def theirs(base, adapter=None):
    import peft  # takes seconds, in each process that collects tests
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return (peft.PeftModel.from_pretrained(model, adapter) if adapter is not None else model).eval()


def ours(base, adapter):
    return load_model(apply_adapter(resolve_model(base), adapter).folder)


def logits(model):
    with torch.no_grad():
        return model.head(model(IDS)) if hasattr(model, "head_weight") else model(IDS).logits


def assert_near(one, other):
    assert (one - other).abs().max() <= 1e-4 * other.abs().max()


def test_what_a_training_keeps_is_loaded_by_peft_and_by_us(tmp_path, base):
    model = load_model(base)
    plain = logits(model)
    add_lora(model, 3, seed=0, first_block=1)
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: torch.randn(weight.shape, generator=generator) * 0.3 if "lora_b" in name else weight.detach()
        for name, weight in model.state_dict().items()
    }
    noted = resolve_model(base).sha256
    save_adapter(tmp_path / "adapter", model.config, weights, alpha=ALPHA, base=str(base), base_sha256=noted)
    merged = load_model(base)
    merged.load_state_dict(merge_lora(weights))
    assert (logits(merged) - plain).abs().max() > 0.1
    assert_near(logits(theirs(base, tmp_path / "adapter")), logits(merged))
    assert_near(logits(ours(base, tmp_path / "adapter")), logits(merged))


def test_what_peft_keeps_is_loaded(tmp_path, base, family):
    import peft

    torch.manual_seed(2)
    settings = peft.LoraConfig(
        r=4, lora_alpha=16, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM",
        fan_in_fan_out=family == "gpt2",
    )  # fmt: skip
    peft.get_peft_model(theirs(base), settings).save_pretrained(tmp_path / "adapter")
    assert_near(logits(ours(base, tmp_path / "adapter")), logits(theirs(base, tmp_path / "adapter")))


@pytest.mark.filterwarnings("ignore:.*(tie_word_embeddings|save_embedding_layers):UserWarning")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("brings_base", [True, False])
def test_a_head_is_corrected_and_not_the_embedding_it_was(tmp_path, family, tied, brings_base):
    import peft

    reference(family, tie_word_embeddings=tied).save_pretrained(tmp_path / "base")
    torch.manual_seed(2)
    settings = peft.LoraConfig(
        r=4, target_modules=["lm_head"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    adapted = peft.get_peft_model(theirs(tmp_path / "base"), settings)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=brings_base)
    expected = logits(theirs(tmp_path / "base", tmp_path / "adapter"))
    assert (expected - logits(theirs(tmp_path / "base"))).abs().max() > 0.1
    merged = apply_adapter(resolve_model(tmp_path / "base"), tmp_path / "adapter").folder
    assert_near(logits(load_model(merged)), expected)
    assert_near(logits(theirs(merged)), expected)


class TestRefused:
    @pytest.fixture
    def family(self):
        return "llama"

    @pytest.fixture
    def adapter(self, tmp_path, base):
        model = add_lora(load_model(base), 2, seed=0)
        save_adapter(tmp_path / "adapter", model.config, model.state_dict(), alpha=ALPHA, base=str(base))
        return tmp_path / "adapter"

    def test_a_folder_that_is_no_adapter(self, base, tmp_path):
        with pytest.raises(NotFoundError, match="is not an adapter folder"):
            apply_adapter(resolve_model(base), tmp_path)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("peft_type", "IA3"),
            ("use_dora", True),
            ("ensure_weight_tying", True),
            ("modules_to_save", ["lm_head"]),
        ],
    )
    def test_another_kind_of_adapter(self, base, adapter, name, value):
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
        with pytest.raises(CheckpointError, match=f"has {name} .*which conjure does not support"):
            apply_adapter(resolve_model(base), adapter)

    def test_an_adapter_of_another_model(self, adapter, tmp_path):
        reference("qwen3").save_pretrained(tmp_path / "other")
        with pytest.raises(CheckpointError, match="does not fit the model"):
            apply_adapter(resolve_model(tmp_path / "other"), adapter)

    def test_a_pickle_and_a_number_that_is_none(self, base, adapter):
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": "8"}))
        with pytest.raises(CheckpointError, match="lora_alpha '8', which is not a number"):
            apply_adapter(resolve_model(base), adapter)
        (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
        with pytest.raises(CheckpointError, match="only safetensors are loaded"):
            apply_adapter(resolve_model(base), adapter)
