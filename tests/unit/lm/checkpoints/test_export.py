"""Exports: what is in a GGUF file is what is in the model; nothing half-written, nothing misstated."""

import json

import gguf
import numpy as np
import pytest
import torch

from conjure.errors import CheckpointError, ConflictError, ModelError, NotFoundError, UsageError
from conjure.lm.checkpoints.adapters import save_adapter
from conjure.lm.checkpoints.checkpoint_folder import stored_dtype
from conjure.lm.checkpoints.describe import describe
from conjure.lm.checkpoints.export import export
from conjure.lm.checkpoints.model_resolver import resolve_model
from conjure.lm.checkpoints.pretrained import load_checkpoint, load_model, save_checkpoint
from conjure.lm.checkpoints.provenance import BaseFacts
from conjure.lm.training.lora import ALPHA, add_lora
from support.gguf_files import write_gguf
from support.models import TINY_VOCAB_SIZE, tiny_checkpoint, tiny_model, tiny_tokenizer

SHAPE = {"n_embd": 32, "n_head": 2}


@pytest.fixture
def model(tmp_path):
    return tiny_checkpoint(tmp_path / "model", **SHAPE)


def weights_as_gguf_names(model) -> dict[str, np.ndarray]:
    """The model's weights by the names llama.cpp gives them, written out here once more."""
    names = {
        "embedding.weight": "token_embd.weight",
        "position_embedding.weight": "position_embd.weight",
        "final_norm.weight": "output_norm.weight",
        "final_norm.bias": "output_norm.bias",
        "lm_head.weight": "output.weight",
    }
    parts = {
        "attention_norm": "attn_norm",
        "attention.qkv": "attn_qkv",
        "attention.out": "attn_output",
        "mlp_norm": "ffn_norm",
        "mlp.up": "ffn_up",
        "mlp.down": "ffn_down",
    }
    for layer in range(model.config.n_layer):
        for ours, theirs in parts.items():
            for kind in ("weight", "bias"):
                names[f"blocks.{layer}.{ours}.{kind}"] = f"blk.{layer}.{theirs}.{kind}"
    return {names[name]: weight.detach().numpy() for name, weight in model.named_parameters()}


def numbers(tensor) -> np.ndarray:
    """A GGUF tensor as float32, in the shape of a matrix (out, in)."""
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])


def value(reader, key):
    return reader.fields[key].contents()


class TestTensors:
    def test_float16_is_each_number_rounded_once(self, model, tmp_path):
        reader = gguf.GGUFReader(export(model, tmp_path / "out").path)
        expected = weights_as_gguf_names(load_model(model))

        assert {tensor.name for tensor in reader.tensors} == set(expected)
        for tensor in reader.tensors:
            weight = expected[tensor.name]
            matrix = weight.ndim == 2 and tensor.name != "position_embd.weight"
            assert tensor.tensor_type.name == ("F16" if matrix else "F32")
            np.testing.assert_array_equal(
                numbers(tensor), weight.astype(np.float16).astype(np.float32) if matrix else weight
            )

    def test_q8_0_is_within_half_a_step(self, model, tmp_path):
        reader = gguf.GGUFReader(export(model, tmp_path / "out", type="q8_0").path)
        expected = weights_as_gguf_names(load_model(model))

        assert {tensor.name for tensor in reader.tensors} == set(expected)
        for tensor in reader.tensors:
            weight = expected[tensor.name]
            if tensor.tensor_type.name == "F32":
                assert weight.ndim == 1 or tensor.name == "position_embd.weight"
                np.testing.assert_array_equal(numbers(tensor), weight)
                continue
            assert tensor.tensor_type.name == "Q8_0"
            blocks = weight.reshape(-1, 32)
            step = np.abs(blocks).max(1, keepdims=True) / 127
            # Half a step, and the rounding of the scale itself to float16, times up to 127 of them.
            assert (np.abs(numbers(tensor).reshape(-1, 32) - blocks) <= step * (0.5 + 127 * 2**-11)).all()

    def test_a_head_of_its_own_goes_along(self, tmp_path):
        tiny_checkpoint(tmp_path / "untied", tie_word_embeddings=False, **SHAPE)
        reader = gguf.GGUFReader(export(tmp_path / "untied", tmp_path / "out").path)
        head = next(tensor for tensor in reader.tensors if tensor.name == "output.weight")
        expected = load_model(tmp_path / "untied").head_weight.detach().half().float().numpy()
        np.testing.assert_array_equal(numbers(head), expected)

    def test_the_embedding_is_not_stored_twice(self, model, tmp_path):
        reader = gguf.GGUFReader(export(model, tmp_path / "out").path)
        assert "output.weight" not in {tensor.name for tensor in reader.tensors}


class TestFacts:
    def test_the_shape(self, tmp_path):
        tiny_checkpoint(tmp_path / "model", n_inner=96, layer_norm_epsilon=1e-6, n_layer=3, **SHAPE)
        reader = gguf.GGUFReader(export(tmp_path / "model", tmp_path / "out").path)
        facts = {
            "general.architecture": "gpt2",
            "general.name": "model",
            "gpt2.context_length": 32,
            "gpt2.embedding_length": 32,
            "gpt2.feed_forward_length": 96,
            "gpt2.block_count": 3,
            "gpt2.attention.head_count": 2,
            "gpt2.vocab_size": TINY_VOCAB_SIZE,
        }
        assert {key: value(reader, key) for key in facts} == facts
        assert value(reader, "gpt2.attention.layer_norm_epsilon") == pytest.approx(1e-6)

    @pytest.mark.parametrize(("kind", "number"), [("float16", 1), ("q8_0", 7)])
    def test_the_type(self, model, tmp_path, kind, number):
        written = export(model, tmp_path / "out", type=kind)
        assert value(gguf.GGUFReader(written.path), "general.file_type") == number
        assert (written.type, written.format) == (kind, "gguf")
        assert written.size_bytes == written.path.stat().st_size
        assert written.path.name == f"model-{kind}.gguf"

    def test_the_tokenizer(self, model, tmp_path):
        reader = gguf.GGUFReader(export(model, tmp_path / "out").path)
        vocabulary = {token: id_ for id_, token in enumerate(value(reader, "tokenizer.ggml.tokens"))}
        end = tiny_tokenizer().end_of_text_id
        lines = (model / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]

        assert value(reader, "tokenizer.ggml.model") == "gpt2"
        assert value(reader, "tokenizer.ggml.pre") == "gpt-2"
        assert value(reader, "tokenizer.ggml.merges") == lines
        assert value(reader, "tokenizer.ggml.bos_token_id") == end
        assert value(reader, "tokenizer.ggml.eos_token_id") == end
        assert value(reader, "tokenizer.ggml.add_bos_token") is False
        assert len(vocabulary) == TINY_VOCAB_SIZE
        assert vocabulary["<|endoftext|>"] == end
        assert vocabulary["Ġthe"] == tiny_tokenizer().encode(" the")[0]
        kinds = value(reader, "tokenizer.ggml.token_type")
        assert [id_ for id_, kind in enumerate(kinds) if kind == gguf.TokenType.CONTROL] == [end]

    def test_an_added_token_that_is_not_special_is_user_defined(self, tmp_path):
        folder = tiny_checkpoint(tmp_path / "model", vocab_size=TINY_VOCAB_SIZE + 1)
        settings = json.loads((folder / "tokenizer.json").read_text())
        token = {"id": TINY_VOCAB_SIZE, "content": "New York", "special": False}
        settings["added_tokens"].append({**settings["added_tokens"][0], **token})
        (folder / "tokenizer.json").write_text(json.dumps(settings))
        reader = gguf.GGUFReader(export(folder, tmp_path / "out").path)
        kinds = value(reader, "tokenizer.ggml.token_type")
        assert kinds[TINY_VOCAB_SIZE] == gguf.TokenType.USER_DEFINED
        assert value(reader, "tokenizer.ggml.tokens")[TINY_VOCAB_SIZE] == "New York"

    def test_rows_without_a_token_get_one_that_is_unused(self, tmp_path):
        save_checkpoint(tmp_path / "padded", tiny_model(vocab_size=304, **SHAPE), tiny_tokenizer())
        reader = gguf.GGUFReader(export(tmp_path / "padded", tmp_path / "out").path)
        assert value(reader, "tokenizer.ggml.tokens")[-4:] == ["[PAD300]", "[PAD301]", "[PAD302]", "[PAD303]"]
        assert value(reader, "tokenizer.ggml.token_type")[-5:] == [3, 5, 5, 5, 5]


class TestCheckpoints:
    def test_safetensors_is_a_whole_checkpoint(self, model, tmp_path):
        (model / "README.md").write_text("# About\n")
        (model / "training.json").write_text('{"step": 3}')
        written = export(model, tmp_path / "out", format="safetensors")

        tuned, tokenizer = load_checkpoint(tmp_path / "out")
        assert torch.equal(tuned.embedding.weight, load_model(model).embedding.weight)
        assert tokenizer.digest == tiny_tokenizer().digest
        assert (tmp_path / "out" / "README.md").read_text() == "# About\n"
        assert '"step": 3' in (tmp_path / "out" / "training.json").read_text()
        assert (written.path, written.type) == (tmp_path / "out", "float32")

    @pytest.mark.parametrize("content", ['{"step": 3', "[3]", b"\xff", "[" * 100_000])
    def test_a_model_goes_without_a_training_file_that_is_not_ours(self, model, tmp_path, content):
        path = model / "training.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        export(model, tmp_path / "out", format="safetensors")
        assert not (tmp_path / "out" / "training.json").exists()
        assert describe(resolve_model(str(model))).training is None
        assert torch.equal(load_model(tmp_path / "out").embedding.weight, load_model(model).embedding.weight)

    def test_a_folder_with_something_in_it_stays(self, model, tmp_path):
        before = (model / "model.safetensors").read_bytes()
        with pytest.raises(ConflictError, match=f"{model} is not empty"):
            export(model, model, format="safetensors", type="float16")
        export(model, tmp_path / "out", format="safetensors")
        tiny_checkpoint(tmp_path / "other", seed=1, **SHAPE)
        with pytest.raises(ConflictError, match="is not empty"):
            export(tmp_path / "other", tmp_path / "out", format="safetensors")
        assert (model / "model.safetensors").read_bytes() == before
        assert (tmp_path / "out" / "model.safetensors").read_bytes() == before

    def test_the_current_folder_is_not_replaced(self, model, tmp_path, monkeypatch):
        (tmp_path / "out").mkdir()
        monkeypatch.chdir(tmp_path / "out")
        with pytest.raises(ConflictError, match="the current folder"):
            export(model, ".", format="safetensors")

    @pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
    def test_in_another_number_format(self, model, tmp_path, kind):
        export(model, tmp_path / "out", format="safetensors", type=kind)
        rounded = load_model(model).embedding.weight.to(getattr(torch, kind)).float()
        assert stored_dtype(tmp_path / "out") == kind
        assert torch.equal(load_model(tmp_path / "out").embedding.weight, rounded)


CARD = "---\nlicense: other\nlicense_name: qwen-research\n---\n# About\n"


class TestLicences:
    @pytest.fixture
    def licensed(self, model):
        (model / "README.md").write_text(CARD)
        (model / "LICENSE").write_text("You may.")
        return model

    def test_a_checkpoint_has_the_files_of_its_model(self, licensed, tmp_path):
        export(licensed, tmp_path / "out", format="safetensors")
        assert (tmp_path / "out" / "README.md").read_text() == CARD
        assert (tmp_path / "out" / "LICENSE").read_text() == "You may."

    @pytest.mark.parametrize("format", ["gguf", "ollama"])
    def test_a_gguf_file_names_it_and_passes_it_on(self, licensed, tmp_path, format):
        export(licensed, tmp_path / "out", format=format)
        (path,) = (tmp_path / "out").glob("*.gguf")
        reader = gguf.GGUFReader(path)
        assert value(reader, "general.license") == "other"
        assert value(reader, "general.license.name") == "qwen-research"
        export(path, tmp_path / "again", format="safetensors", type="float16")
        facts = BaseFacts.of("x", tmp_path / "again")
        assert (facts.licence, facts.licence_name) == ("other", "qwen-research")

    def test_a_model_without_one_names_none(self, model, tmp_path):
        reader = gguf.GGUFReader(export(model, tmp_path / "out").path)
        assert not [key for key in reader.fields if key.startswith("general.license")]

    def test_a_model_from_a_quantised_file_gets_a_card(self, tmp_path):
        path = write_gguf(
            tmp_path / "model.gguf",
            keys={"general.license": "apache-2.0"},
            kinds={"blk.0.ffn_up.weight": "Q4_0"},
        )
        export(path, tmp_path / "out", format="safetensors")
        card = (tmp_path / "out" / "README.md").read_text()
        assert f'base_model: "{path}"\nlicense: "apache-2.0"\n---\n' in card
        assert "its weights came from a quantized file (Q4_0)" in card

    @pytest.mark.parametrize("format", ["gguf", "safetensors"])
    def test_a_model_with_an_adapter_is_under_that_of_its_base(self, licensed, tmp_path, format):
        tuned = add_lora(load_model(licensed), 2, seed=0)
        save_adapter(tmp_path / "tuned", tuned.config, tuned.state_dict(), alpha=ALPHA, base=str(licensed))
        path = export(licensed, tmp_path / "out", format=format, adapter=tmp_path / "tuned").path
        if format == "gguf":
            assert value(gguf.GGUFReader(path), "general.license.name") == "qwen-research"
            return
        card = (path / "README.md").read_text()
        assert 'license: "other"\nlicense_name: "qwen-research"\n---\n' in card
        assert "- merged with the adapter tuned, whose own terms also apply\n" in card
        assert "# About" not in card
        assert (path / "LICENSE").read_text() == "You may."


class TestModelfile:
    def lines(self, model, tmp_path):
        return export(model, tmp_path / "out", format="ollama").path.read_text().splitlines()

    def test_a_model_without_a_chat_template_gets_the_text_as_it_is(self, model, tmp_path):
        assert self.lines(model, tmp_path)[1:] == ['TEMPLATE "{{ .Prompt }}"', "PARAMETER num_ctx 32"]

    def test_a_model_with_one_keeps_it(self, model, tmp_path):
        (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
        assert self.lines(model, tmp_path)[1:] == ["PARAMETER num_ctx 32"]
        (path,) = (tmp_path / "out").glob("*.gguf")
        assert value(gguf.GGUFReader(path), "tokenizer.chat_template") == "{{ messages[0].content }}"

    def test_of_several_templates_the_default_is_kept(self, model, tmp_path):
        settings = json.loads((model / "tokenizer_config.json").read_text())
        named = {"tool_use": "{{ tools }}", "default": "{{ messages[0].content }}"}
        settings["chat_template"] = [{"name": name, "template": text} for name, text in named.items()]
        (model / "tokenizer_config.json").write_text(json.dumps(settings))
        assert self.lines(model, tmp_path)[1:] == ["PARAMETER num_ctx 32"]
        (path,) = (tmp_path / "out").glob("*.gguf")
        assert value(gguf.GGUFReader(path), "tokenizer.chat_template") == "{{ messages[0].content }}"
        settings["chat_template"].pop()
        (model / "tokenizer_config.json").write_text(json.dumps(settings))
        with pytest.raises(CheckpointError, match="none of them is named 'default'"):
            export(model, tmp_path / "again")

    def test_a_long_context_is_capped(self, tmp_path):
        model = tiny_checkpoint(tmp_path / "long", context_length=10_000)
        assert self.lines(model, tmp_path)[-1] == "PARAMETER num_ctx 8192"


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"activation_function": "relu"}, "gpt2 has activation gelu_tanh, and this model relu"),
            ({"scale_attn_by_inverse_layer_idx": True}, "gpt2 has layers"),
            ({"scale_attn_weights": False}, "gpt2 has layers"),
        ],
    )
    def test_a_model_that_gguf_cannot_describe(self, tmp_path, changes, words):
        tiny_checkpoint(tmp_path / "model", **SHAPE, **changes)
        with pytest.raises(ModelError, match=words):
            export(tmp_path / "model", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_rows_that_do_not_divide_into_blocks(self, tmp_path):
        tiny_checkpoint(tmp_path / "model", n_embd=16)
        with pytest.raises(UsageError, match=r"multiple of 32 numbers; .* has rows of 16") as caught:
            export(tmp_path / "model", tmp_path / "out", type="q8_0")
        assert caught.value.fix == "type='float16'"

    @pytest.mark.parametrize("format", ["gguf", "ollama", "safetensors"])
    def test_numbers_beyond_float16_leave_nothing_behind(self, tmp_path, format):
        big = tiny_model(**SHAPE)
        with torch.no_grad():
            big.get_parameter("blocks.0.mlp.up.weight")[0, 0] = 70_000
        save_checkpoint(tmp_path / "big", big, tiny_tokenizer())
        with pytest.raises(ModelError, match=r"65,504; transformer\.h\.0\.mlp\.c_fc\.weight has 70,000"):
            export(tmp_path / "big", tmp_path / "out", format=format, type="float16")
        assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []

    def test_what_is_there_stays(self, model, tmp_path):
        path = export(model, tmp_path / "out").path
        before = path.read_bytes()
        with pytest.raises(ConflictError, match="already exists"):
            export(model, tmp_path / "out")
        assert path.read_bytes() == before
        assert [entry.name for entry in path.parent.iterdir()] == ["model-float16.gguf"]

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"format": "onnx"}, "format is 'onnx'; allowed: gguf, ollama, safetensors"),
            ({"type": "q4_0"}, "type is 'q4_0'; for gguf it can be float16 or q8_0"),
            (
                {"format": "safetensors", "type": "q8_0"},
                "for safetensors it can be float32 or bfloat16 or float16",
            ),
        ],
    )
    def test_words_it_does_not_know(self, model, tmp_path, options, words):
        with pytest.raises(UsageError, match=words):
            export(model, tmp_path / "out", **options)

    def test_a_model_without_a_tokenizer(self, tmp_path):
        save_checkpoint(tmp_path / "bare", tiny_model(**SHAPE), None)
        with pytest.raises(CheckpointError, match="no tokenizer, which a GGUF file must contain"):
            export(tmp_path / "bare", tmp_path / "out")

    def test_no_model(self, tmp_path):
        with pytest.raises(NotFoundError):
            export("./nowhere", tmp_path / "out")

    @pytest.mark.parametrize("format", ["gguf", "safetensors"])
    def test_a_link_to_itself_is_a_sentence(self, model, tmp_path, format):
        (tmp_path / "loop").symlink_to("loop")
        with pytest.raises(CheckpointError, match="could not be"):
            export(model, tmp_path / "loop", format=format)

    def test_a_folder_that_cannot_be_one(self, model, tmp_path):
        (tmp_path / "out").write_text("a file")
        with pytest.raises(CheckpointError, match="could not be written"):
            export(model, tmp_path / "out")


def test_what_a_killed_export_left_goes_with_the_next(model, tmp_path):
    left = tmp_path / "out" / ".model-float16.gguf.new-abcd1234"
    left.mkdir(parents=True)
    (left / "model-float16.gguf").write_bytes(b"half a file")
    export(model, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model-float16.gguf"]


def test_progress_counts_the_tensors(model, tmp_path):
    seen = []
    export(model, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 28) for done in range(1, 29)]


def test_a_resource_lends_the_file_its_name(model, tmp_path):
    written = export("runs/3", tmp_path / "out", lookups=[lambda name: model if name == "runs/3" else None])
    assert written.path.name == "runs-3-float16.gguf"
