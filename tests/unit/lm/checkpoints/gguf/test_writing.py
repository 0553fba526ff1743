"""A model exported as GGUF and read back is the model it was."""

import json

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from conjure.errors import ModelError
from conjure.lm.checkpoints.checkpoint_folder import read_config
from conjure.lm.checkpoints.export import export
from conjure.lm.checkpoints.gguf.conversion import checkpoint_folder
from conjure.lm.checkpoints.gguf.families import EMBEDDING, HEAD
from conjure.lm.checkpoints.gguf.vocabulary import USER_DEFINED
from conjure.lm.checkpoints.gguf.writing import vocabulary_keys
from conjure.lm.text.tokenizer import Tokenizer
from support.gguf_files import CONFIGS, LLAMA3, random_model, stored, write_gguf
from support.tokenizers_of_kinds import KINDS, hostile_texts, tokenizer_folder


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CONJURE_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_family_comes_back_to_the_last_bit(tmp_path, name):
    folder = checkpoint_folder(write_gguf(tmp_path / "model.gguf", name))
    again = checkpoint_folder(export(folder, tmp_path / "out", type="float32").path)
    before, after = load_file(folder / "model.safetensors"), load_file(again / "model.safetensors")
    assert before.keys() == after.keys()
    for tensor, numbers in before.items():
        if name == "gemma3" and "norm" in tensor:  # 1 is added and subtracted
            assert torch.allclose(after[tensor], numbers, atol=1e-7)
        else:
            assert torch.equal(after[tensor], numbers), tensor
    config, other = (json.loads((each / "config.json").read_text()) for each in (folder, again))
    assert config == other


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tokenizer_comes_back(tmp_path, kind):
    folder = checkpoint_folder(write_gguf(tmp_path / "model.gguf", vocabulary=1000))
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        (model / name).write_bytes((folder / name).read_bytes())
    tokenizer_folder(model, kind)
    again = checkpoint_folder(export(model, tmp_path / "out").path)
    ours, back = Tokenizer.from_folder(model), Tokenizer.from_folder(again)
    # llama.cpp takes runs of spaces in a text for such tokens, but not what spells them.
    texts = [text.replace("▁", "_") if kind == "gemma-3" else text for text in hostile_texts(200)]
    assert back.encode_batch(texts) == ours.encode_batch(texts)
    assert (back.start_ids, back.end_of_text) == (ours.start_ids, ours.end_of_text)
    theirs = AutoTokenizer.from_pretrained(again)
    assert theirs.encode("ab cd") == [*ours.start_ids, *ours.encode("ab cd")]


def test_runs_of_spaces_are_written_as_llama_cpp_looks_for_them(tmp_path):
    tokenizer = Tokenizer.from_folder(tokenizer_folder(tmp_path, "gemma-3"))
    keys = vocabulary_keys(tokenizer, 1000)
    id_ = tokenizer.tokens.index("▁▁")
    assert keys["tokenizer.ggml.tokens"][id_] == "  "
    assert keys["tokenizer.ggml.token_type"][id_] == USER_DEFINED
    assert keys["tokenizer.ggml.scores"][id_] == 0
    assert "▁a" in keys["tokenizer.ggml.tokens"]


def chat_tokenizer(folder, **settings):
    """A tokenizer that starts no text, with tokens of chats as its last ones."""
    tokenizer_folder(folder, "smollm")
    content = json.loads((folder / "tokenizer.json").read_text())
    (end,) = content["added_tokens"]
    names = ["<|im_start|>", "<|im_end|>", "<|eom_id|>"]
    content["added_tokens"] += [
        {**end, "id": id_, "content": name} for id_, name in enumerate(names, end["id"] + 1)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config = {name: value for name, value in (config | settings).items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.from_folder(folder), end["id"]


class TestStartsAndEnds:
    def test_bos_is_the_token_of_that_name_also_where_no_text_starts_with_it(self, tmp_path):
        tokenizer, end = chat_tokenizer(tmp_path, bos_token="<|im_start|>", eos_token="<|im_end|>")
        keys = vocabulary_keys(tokenizer, 1000, bos_id=end)
        assert keys["tokenizer.ggml.bos_token_id"] == end + 1
        assert keys["tokenizer.ggml.eos_token_id"] == end + 2
        assert keys["tokenizer.ggml.add_bos_token"] is False

    @pytest.mark.parametrize(("configured", "bos"), [(0, 0), (None, 2), (50_256, 2), (5, 2)])
    def test_where_none_has_it_the_model_s_configuration_tells(self, tmp_path, configured, bos):
        tokenizer, end = chat_tokenizer(tmp_path, bos_token=None, eos_token="<|im_end|>")
        found = vocabulary_keys(tokenizer, 1000, bos_id=None if configured is None else end + configured)
        assert found["tokenizer.ggml.bos_token_id"] == end + bos

    def test_the_ends_of_turns_are_named(self, tmp_path):
        template = "{{ messages }}<|im_end|><|eom_id|>"
        tokenizer, end = chat_tokenizer(tmp_path, chat_template=template)
        keys = vocabulary_keys(tokenizer, 1000)
        ends = {name: keys[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot", "eom")}
        assert ends == {"eos": end, "eot": end + 2, "eom": end + 3}
        without = vocabulary_keys(chat_tokenizer(tmp_path)[0], 1000)
        assert keys.keys() - without.keys() == {
            "tokenizer.ggml.eot_token_id",
            "tokenizer.ggml.eom_token_id",
            "tokenizer.chat_template",
        }


def changed_model(tmp_path, name, **changes):
    """A folder of one of `CONFIGS`, with other settings."""
    folder = checkpoint_folder(write_gguf(tmp_path / "model.gguf", name))
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in folder.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | changes
    (changed / "config.json").write_text(json.dumps(config))
    return changed


def changed_gemma3(tmp_path, **changes):
    """A folder of `CONFIGS`'s Gemma 3, seven layers, with other settings."""
    return changed_model(tmp_path, "gemma3", **changes)


FULL, LOCAL = "full_attention", "sliding_attention"


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_local_base_freq": 20_000.0},
        {"layer_types": [LOCAL, LOCAL, FULL, LOCAL, LOCAL, FULL, LOCAL]},
        {"layer_types": [LOCAL] * 7},
        {"layer_types": [FULL] * 7, "sliding_window": None},
    ],
)
def test_local_layers_come_back(tmp_path, changes):
    model = changed_gemma3(tmp_path, **changes)
    again = checkpoint_folder(export(model, tmp_path / "out").path)
    assert read_config(again).layers == read_config(model).layers


WHOLE_YARN = {"factor": 4, "original_max_position_embeddings": 64, "beta_fast": 32, "beta_slow": 1}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {"rope_theta": 100000, "rope_scaling": {"rope_type": "linear", "factor": 4}}),
        ("qwen3", {"rope_theta": 1000000, "rope_scaling": {"rope_type": "yarn", **WHOLE_YARN}}),
        ("gptneox", {"rotary_emb_base": 20000}),
        ("gemma3", {"rope_theta": 1000000, "rope_local_base_freq": 20000}),
    ],
)
def test_numbers_that_a_config_spells_as_integers_are_floats(tmp_path, name, changes):
    settings = {"rope_parameters": None, **changes}  # what transformers 5 says in its place goes
    path = export(changed_model(tmp_path, name, **settings), tmp_path / "out").path
    fields = gguf.GGUFReader(path).fields
    integers = ("dimension_count", "original_context_length")
    found = {
        key: field.types[0]
        for key, field in fields.items()
        if ".rope." in key and not key.endswith((*integers, "scaling.type"))
    }
    assert len(found) >= len(changes)
    assert set(found.values()) == {gguf.GGUFValueType.FLOAT32}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {"rope_theta": 283461213.0, "rms_norm_eps": 9.999999974752427e-07}),
        (
            "qwen3",
            {"rope_theta": 1234567.75, "rope_scaling": {**WHOLE_YARN, "rope_type": "yarn", "factor": 4 / 3}},
        ),
        ("llama3", {"rope_theta": 500.123456789, "rope_scaling": {**LLAMA3, "factor": 8.000000001}}),
        ("gemma3", {"rope_local_base_freq": 12345.678901}),
    ],
)
def test_numbers_of_many_digits_are_written_as_exactly_as_a_file_can(tmp_path, name, changes):
    model = changed_model(tmp_path, name, **{"rope_parameters": None, **changes})
    again = checkpoint_folder(export(model, tmp_path / "out").path)
    before, after = read_config(model), read_config(again)
    assert after.norm_epsilon == pytest.approx(before.norm_epsilon, rel=1e-6)
    for layer, back in zip(before.layers, after.layers, strict=True):
        assert back.rope.base == pytest.approx(layer.rope.base, rel=1e-6)
        assert back.rope.scaling == layer.rope.scaling


def test_what_gguf_has_no_key_for_is_refused(tmp_path):
    model = changed_gemma3(tmp_path, query_pre_attn_scalar=17)
    with pytest.raises(ModelError, match=r"llama\.cpp's gemma3 has layers"):
        export(model, tmp_path / "out")


def test_an_irregular_pattern_which_llama_cpp_does_not_read_is_refused(tmp_path):
    model = changed_gemma3(tmp_path, layer_types=[LOCAL, FULL, FULL, *[LOCAL] * 4])
    with pytest.raises(ModelError, match=r"llama\.cpp's gemma3 has layers"):
        export(model, tmp_path / "out")


def test_neox_has_a_head_also_where_it_is_the_embedding(tmp_path):
    embedding = stored(random_model("gptneox"))[EMBEDDING]
    folder = checkpoint_folder(write_gguf(tmp_path / "model.gguf", "gptneox", tensors={HEAD: embedding}))
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True
    path = export(folder, tmp_path / "out", type="float32").path
    written = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    assert np.array_equal(written[HEAD], written[EMBEDDING])
    assert json.loads((checkpoint_folder(path) / "config.json").read_text())["tie_word_embeddings"] is True
