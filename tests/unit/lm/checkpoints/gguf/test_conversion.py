"""A GGUF file becomes the checkpoint folder that transformers computes the same with; once."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
import transformers
from transformers.utils import logging

from conjure.core.home import Home
from conjure.errors import CheckpointError
from conjure.lm.checkpoints.gguf.conversion import checkpoint_folder
from conjure.lm.checkpoints.gguf.families import EMBEDDING, HEAD
from support.gguf_files import CONFIGS, VOCABULARY, random_model, stored, write_gguf

logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CONJURE_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


def logits(model):
    ids = torch.randint(0, VOCABULARY, (2, 200), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_computes_the_same_with_the_folder(tmp_path, name):
    folder = checkpoint_folder(write_gguf(tmp_path / "model.gguf", name))
    expected = logits(random_model(name))
    found = logits(transformers.AutoModelForCausalLM.from_pretrained(folder))
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_rows_of_q_are_taken_apart_as_llama_cpp_pairs_them(tmp_path):
    # llama.cpp rotates rows 0 and 1 of a head together; a Hugging Face folder rows 0 and D / 2.
    model = random_model("llama")
    weight = model.model.layers[0].self_attn.q_proj.weight.detach().numpy()
    pairs = stored(model)["blk.0.attn_q.weight"]
    assert np.array_equal(pairs[0], weight[0])
    assert np.array_equal(pairs[1], weight[8])
    assert np.array_equal(pairs[2], weight[1])


class TestTheHead:
    def test_one_of_its_own_stays_so(self, tmp_path):
        folder = checkpoint_folder(write_gguf(tmp_path / "model.gguf", "llama"))
        assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False

    def test_a_second_rounding_of_the_embedding_is_tied_and_the_finer_one_is_taken(self, tmp_path):
        embedding = stored(random_model("qwen2"))[EMBEDDING]
        path = write_gguf(
            tmp_path / "model.gguf",
            "qwen2",
            tensors={HEAD: embedding},
            kinds={EMBEDDING: "Q4_0", HEAD: "Q8_0"},
        )
        folder = checkpoint_folder(path)
        assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True
        found = transformers.AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight
        error = np.abs(found.detach().numpy() - embedding).max()
        assert 0 < error <= np.abs(embedding).max() / 127

    def test_a_head_near_the_embedding_is_not_tied(self, tmp_path):
        embedding = stored(random_model("qwen2"))[EMBEDDING]
        other = embedding * np.random.default_rng(0).uniform(0.6, 1.4, embedding.shape).astype(np.float32)
        folder = checkpoint_folder(
            write_gguf(tmp_path / "m.gguf", "qwen2", tensors={HEAD: other}, kinds={EMBEDDING: "Q8_0"})
        )
        assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False

    @pytest.mark.parametrize("kind", ["BF16", "Q4_0"])
    def test_a_head_that_was_tuned_on_its_own_is_kept_however_near_it_is(self, tmp_path, kind):
        embedding = stored(random_model("qwen2"))[EMBEDDING]
        kinds = {EMBEDDING: kind, HEAD: kind}
        tuned = embedding.copy()
        tuned[-1] *= 1.1
        for name, head, tied in [("tuned", tuned, False), ("same", embedding, True)]:
            path = write_gguf(tmp_path / f"{name}.gguf", "qwen2", tensors={HEAD: head}, kinds=kinds)
            folder = checkpoint_folder(path)
            assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is tied


def test_nothing_is_kept_of_a_file_that_is_replaced_meanwhile(tmp_path, home):
    path = write_gguf(tmp_path / "model.gguf", "llama")
    other = write_gguf(tmp_path / "other.gguf", "qwen2")
    with pytest.raises(CheckpointError) as refused:
        checkpoint_folder(path, report=lambda _: other.replace(path))
    assert str(refused.value) == f"{path} was changed while it was read"
    assert [each.name for each in home.models.iterdir() if each.is_dir()] == ["digests"]


def test_sixteen_bits_stay_sixteen_bits(tmp_path):
    kinds = {EMBEDDING: "BF16", "blk.0.ffn_up.weight": "F16"}
    folder = checkpoint_folder(write_gguf(tmp_path / "model.gguf", "llama", kinds=kinds))
    size = int.from_bytes((folder / "model.safetensors").read_bytes()[:8], "little")
    header = json.loads((folder / "model.safetensors").read_bytes()[8 : 8 + size])
    assert header["model.embed_tokens.weight"]["dtype"] == "BF16"
    assert header["model.layers.0.mlp.up_proj.weight"]["dtype"] == "F16"
    assert header["model.layers.0.mlp.gate_proj.weight"]["dtype"] == "F32"
    found = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = random_model("llama").get_input_embeddings().weight.bfloat16().float()
    assert torch.equal(found.get_input_embeddings().weight, expected)


class TestOnce:
    def test_a_file_is_converted_once_wherever_it_lies(self, tmp_path):
        said = []
        path = write_gguf(tmp_path / "model.gguf")
        folder = checkpoint_folder(path, said.append)
        assert said == ["Converting model.gguf (once)"]
        moved = shutil.copy(path, tmp_path / "other.gguf")
        assert checkpoint_folder(tmp_path / moved, said.append) == folder
        assert checkpoint_folder(path, said.append) == folder
        assert len(said) == 1

    def test_a_changed_file_is_another_model(self, tmp_path):
        path = write_gguf(tmp_path / "model.gguf")
        folder = checkpoint_folder(path)
        write_gguf(path, seed=1)
        os.utime(path, ns=(1, 1))  # whatever the clock's grain
        assert checkpoint_folder(path) != folder

    @pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "origin.json"])
    @pytest.mark.parametrize("damage", ["gone", "cut short"])
    def test_a_damaged_folder_is_made_anew(self, tmp_path, name, damage):
        path = write_gguf(tmp_path / "model.gguf")
        folder = checkpoint_folder(path)
        whole = (folder / name).read_bytes()
        (folder / name).unlink() if damage == "gone" else (folder / name).write_bytes(whole[:-3])
        assert checkpoint_folder(path) == folder
        assert (folder / name).read_bytes() == whole

    def test_a_file_that_cannot_be_converted_leaves_nothing(self, tmp_path, home):
        path = write_gguf(tmp_path / "model.gguf", tensors={"blk.1.attn_q.weight": None})
        with pytest.raises(CheckpointError, match=r"its tensor 'blk\.1\.attn_q\.weight' is missing"):
            checkpoint_folder(path)
        assert [each.name for each in home.models.iterdir() if each.is_dir()] == ["digests"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            (
                {"general.architecture": "mamba"},
                "its architecture is 'mamba'; supported: llama, qwen2, qwen3, gemma3, gptneox, gpt2",
            ),
            ({"llama.expert_count": 8}, "its key 'llama.expert_count' is 8, which conjure does not support"),
            ({"llama.attention.causal": False}, "its key 'llama.attention.causal' is False"),
            ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0}, "is 'longrope'"),
            (
                {"llama.block_count": 1_000_000},
                "llama.block_count must be an integer from 1 to",
            ),
            ({"llama.block_count": None}, "llama.block_count is missing"),
            (
                {"llama.attention.head_count": 0},
                "llama.attention.head_count must be an integer from 1 to 16,777,216, not 0",
            ),
            ({"llama.embedding_length": 128}, "has shape (320, 64); (320, 128) is needed"),
            ({"tokenizer.ggml.pre": "tekken"}, "is 'tekken', which conjure does not support"),
            ({"tokenizer.ggml.model": "t5"}, "its tokenizer is of kind 't5'"),
            ({"tokenizer.ggml.tokens": ["a"] * 400, "tokenizer.ggml.token_type": [1] * 400}, "320 rows"),
            ({"tokenizer.ggml.eos_token_id": 5000}, "eos_token_id is 5000, which is not a token"),
            ({"tokenizer.ggml.merges": ["q zebra"]}, "its merge 'q zebra' does not join two tokens"),
            ({"split.count": 3}, "it is one part of several"),
        ],
    )
    def test_is_one_sentence(self, tmp_path, changes, words):
        path = write_gguf(tmp_path / "model.gguf", keys=changes)
        with pytest.raises(CheckpointError) as caught:
            checkpoint_folder(path)
        assert f"{path} cannot be used: " in str(caught.value)
        assert words in str(caught.value)

    def test_a_tensor_nobody_knows(self, tmp_path):
        path = write_gguf(tmp_path / "m.gguf", tensors={"blk.0.extra.weight": np.ones(4, np.float32)})
        with pytest.raises(CheckpointError, match=r"'blk\.0\.extra\.weight' is not part of a llama model"):
            checkpoint_folder(path)

    def test_weights_that_are_no_numbers(self, tmp_path):
        weights = stored(random_model("llama"))["blk.0.ffn_up.weight"]
        weights[3, 5] = np.nan
        path = write_gguf(tmp_path / "m.gguf", tensors={"blk.0.ffn_up.weight": weights})
        with pytest.raises(CheckpointError, match="contains NaN or infinity"):
            checkpoint_folder(path)
