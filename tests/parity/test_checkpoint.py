"""Checkpoints of every layout transformers and its ancestors wrote load here, and ours load there."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel, GPT2Model

from conjure.lm.checkpoints.pretrained import load_checkpoint, load_model, save_checkpoint
from conjure.lm.models.decoder import Decoder
from support.models import tiny_config, tiny_model, tiny_tokenizer
from support.oracle import assert_logits_equal, random_ids, reference_model

Tensors = dict[str, Tensor]


def logits(model: Decoder, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model.head(model(ids))


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    """Store a saved checkpoint's tensors in another way."""
    file = folder / "model.safetensors"
    save_file({name: tensor.clone() for name, tensor in change(load_file(file)).items()}, file)


def without_prefix(tensors: Tensors) -> Tensors:
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}


def with_saved_head(tensors: Tensors) -> Tensors:
    return {**tensors, "lm_head.weight": tensors["transformer.wte.weight"]}


def with_mask_buffers(tensors: Tensors) -> Tensors:
    buffers = {}
    for layer in range(2):
        buffers[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 32, 32, dtype=torch.uint8).tril()
        buffers[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return {**tensors, **buffers}


def as_first_published(tensors: Tensors) -> Tensors:
    """gpt2's own file: no prefix, mask buffers, no head."""
    return without_prefix(with_mask_buffers(tensors))


def head_in_place_of_embedding(tensors: Tensors) -> Tensors:
    tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")
    return tensors


class TestLoading:
    @pytest.mark.parametrize(
        "change",
        [without_prefix, with_saved_head, with_mask_buffers, as_first_published, head_in_place_of_embedding],
    )
    def test_layouts(self, tmp_path: Path, change: Callable[[Tensors], Tensors]) -> None:
        config = tiny_config()
        reference = reference_model(config)
        reference.save_pretrained(tmp_path)
        rewrite(tmp_path, change)
        model = load_model(tmp_path)
        ids = random_ids(config, 2, 32)
        assert_logits_equal(logits(model, ids), reference(ids).logits.detach())
        assert model.lm_head is None

    def test_base_model_without_head(self, tmp_path: Path) -> None:
        config = tiny_config()
        reference = reference_model(config)
        reference.transformer.save_pretrained(tmp_path)
        ids = random_ids(config, 2, 32)
        assert_logits_equal(logits(load_model(tmp_path), ids), reference(ids).logits.detach())

    def test_sharded(self, tmp_path: Path) -> None:
        config = tiny_config()
        reference = reference_model(config)
        reference.save_pretrained(tmp_path, max_shard_size="20KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
        ids = random_ids(config, 2, 32)
        assert_logits_equal(logits(load_model(tmp_path), ids), reference(ids).logits.detach())

    @pytest.mark.parametrize("says_tied", [True, False])
    def test_head_of_its_own_is_used_whatever_the_config_says(self, tmp_path: Path, says_tied: bool) -> None:
        config = tiny_config(tie_word_embeddings=False)
        reference_model(config).save_pretrained(tmp_path)
        settings = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**settings, "tie_word_embeddings": says_tied}))
        reference = GPT2LMHeadModel.from_pretrained(tmp_path)
        model = load_model(tmp_path)
        ids = random_ids(config, 2, 32)
        assert_logits_equal(logits(model, ids), reference(ids).logits.detach())
        assert model.lm_head is not None

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
    def test_other_number_formats_become_float32(self, tmp_path: Path, dtype: torch.dtype) -> None:
        config = tiny_config()
        reference_model(config).to(dtype).save_pretrained(tmp_path)
        reference = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float32)
        model = load_model(tmp_path)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        ids = random_ids(config, 2, 32)
        assert_logits_equal(logits(model, ids), reference(ids).logits.detach())

    def test_config_of_todays_transformers_with_its_odd_settings(self, tmp_path: Path) -> None:
        config = tiny_config()
        reference = reference_model(
            config, reorder_and_upcast_attn=True, n_inner=48, eos_token_id=[7, 9], bos_token_id=None
        )
        reference.save_pretrained(tmp_path)
        model = load_model(tmp_path)
        ids = random_ids(config, 2, 32)
        assert_logits_equal(logits(model, ids), reference(ids).logits.detach())
        assert (model.config.bos_id, model.config.eos_ids) == (None, (7, 9))


class TestSaving:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"tie_word_embeddings": False},
            {"n_inner": 24, "activation_function": "relu", "scale_attn_by_inverse_layer_idx": True},
        ],
        ids=["plain", "untied", "variant"],
    )
    def test_transformers_gives_equal_logits(self, tmp_path: Path, changes: dict) -> None:
        model = tiny_model(**changes)
        save_checkpoint(tmp_path / "saved", model, tiny_tokenizer())
        reference, notes = GPT2LMHeadModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
        assert not any(notes.values())
        ids = random_ids(model.config, 2, 32)
        assert_logits_equal(logits(model, ids), reference.eval()(ids).logits.detach())

    def test_automatic_classes_and_base_model_read_it(self, tmp_path: Path) -> None:
        model = tiny_model()
        save_checkpoint(tmp_path / "saved", model, tiny_tokenizer())
        assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path / "saved"), GPT2LMHeadModel)
        base = GPT2Model.from_pretrained(tmp_path / "saved").eval()
        ids = random_ids(model.config, 1, 20)
        assert_logits_equal(model(ids).detach(), base(ids).last_hidden_state.detach())

    def test_tokenizer_is_read_by_transformers(self, tmp_path: Path) -> None:
        save_checkpoint(tmp_path / "saved", tiny_model(), tiny_tokenizer())
        reference = AutoTokenizer.from_pretrained(tmp_path / "saved")
        text = " Zwei  Hunde, 猫 and\n\na clock 😀"
        assert reference.encode(text) == tiny_tokenizer().encode(text)
        assert reference.model_max_length == 32

    def test_bfloat16(self, tmp_path: Path) -> None:
        model = tiny_model()
        save_checkpoint(tmp_path / "saved", model, tiny_tokenizer(), dtype=torch.bfloat16)
        stored = load_file(tmp_path / "saved" / "model.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
        reference = GPT2LMHeadModel.from_pretrained(tmp_path / "saved", dtype=torch.float32).eval()
        ids = random_ids(model.config, 2, 32)
        again, _ = load_checkpoint(tmp_path / "saved")
        assert_logits_equal(logits(again, ids), reference(ids).logits.detach())

    def test_what_transformers_saves_of_ours_loads_here(self, tmp_path: Path) -> None:
        model = tiny_model()
        save_checkpoint(tmp_path / "ours", model, tiny_tokenizer())
        GPT2LMHeadModel.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
        for name, weight in load_model(tmp_path / "theirs").state_dict().items():
            assert torch.equal(weight, model.state_dict()[name])
