import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

from conjure.core.files import staging_folder
from conjure.errors import CheckpointError, ConflictError, NotFoundError, UsageError
from conjure.lm.checkpoints.pickle_conversion import convert
from conjure.lm.checkpoints.pretrained import check_can_save, load_checkpoint, load_model, save_checkpoint
from support.models import tiny_checkpoint, tiny_model
from support.oracle import assert_logits_equal, random_ids, reference_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "model")


@pytest.fixture
def pickled(folder: Path) -> Path:
    """A checkpoint as old tools wrote it: a pickle, with mask buffers and the tied head stored once more."""
    tensors = dict(load_file(folder / "model.safetensors"))
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    for layer in range(2):
        tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 32, 32, dtype=torch.uint8).tril()
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def same_weights(folder: Path, seed: int = 0) -> bool:
    expected = tiny_model(seed).state_dict()
    return all(
        torch.equal(weight, expected[name]) for name, weight in load_model(folder).state_dict().items()
    )


class TestFromPickle:
    def test_beside_it(self, pickled: Path) -> None:
        before = {path.name: path.read_bytes() for path in pickled.iterdir()}
        written = convert(pickled)
        assert written == pickled / "model.safetensors"
        assert same_weights(pickled)
        assert "lm_head.weight" not in load_file(written)
        assert {path.name for path in pickled.iterdir()} == {*before, "model.safetensors"}
        assert all((pickled / name).read_bytes() == content for name, content in before.items())

    def test_into_a_new_folder_with_the_other_files(self, pickled: Path, tmp_path: Path) -> None:
        written = convert(pickled, tmp_path / "new")
        assert written == tmp_path / "new" / "model.safetensors"
        model, tokenizer = load_checkpoint(tmp_path / "new")
        assert same_weights(tmp_path / "new")
        assert tokenizer.vocab_size == model.config.vocab_size
        assert not (tmp_path / "new" / "pytorch_model.bin").exists()
        assert not (pickled / "model.safetensors").exists()

    def test_what_transformers_state_is(self, tmp_path: Path) -> None:
        config = tiny_model().config
        reference = reference_model(config)
        reference.config.save_pretrained(tmp_path)
        torch.save(reference.state_dict(), tmp_path / "pytorch_model.bin")
        convert(tmp_path)
        ids = random_ids(config, 2, 32)
        model = load_model(tmp_path)
        assert_logits_equal(model.head(model(ids)).detach(), reference(ids).logits.detach())

    def test_a_sharded_one(self, pickled: Path) -> None:
        tensors = torch.load(pickled / "pytorch_model.bin", weights_only=True)
        (pickled / "pytorch_model.bin").unlink()
        weight_map = {}
        for number, names in enumerate((list(tensors)[::2], list(tensors)[1::2]), start=1):
            file = f"pytorch_model-0000{number}-of-00002.bin"
            torch.save({name: tensors[name] for name in names}, pickled / file)
            weight_map |= dict.fromkeys(names, file)
        (pickled / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
        convert(pickled)
        assert same_weights(pickled)

    def test_the_format_before_zip_and_tensors_that_share_memory(self, pickled: Path) -> None:
        tensors = torch.load(pickled / "pytorch_model.bin", weights_only=True)
        both = torch.stack([tensors["transformer.ln_f.weight"], tensors["transformer.ln_f.bias"]])
        tensors["transformer.ln_f.weight"], tensors["transformer.ln_f.bias"] = both
        torch.save(tensors, pickled / "pytorch_model.bin", _use_new_zipfile_serialization=False)
        convert(pickled)
        assert same_weights(pickled)


class TestLeftovers:
    """Of conversions that were killed: folders that nobody has locked."""

    def test_the_next_conversion_removes_them(self, pickled: Path) -> None:
        (pickled / ".convert-abcd1234").mkdir()
        convert(pickled)
        assert [path.name for path in pickled.iterdir() if path.name.startswith(".")] == []

    def test_they_block_no_save(self, folder: Path) -> None:
        (folder / ".convert-abcd1234").mkdir()
        check_can_save(folder)
        save_checkpoint(folder, tiny_model(1), None)
        assert same_weights(folder, seed=1)

    def test_one_at_work_does(self, folder: Path) -> None:
        with staging_folder(folder, ".convert-"), pytest.raises(ConflictError, match=r"contains '\.convert-"):
            check_can_save(folder)


class Bomb:
    """Unpickled carelessly, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


class TestHostilePickles:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_is_not_run(self, pickled: Path, tmp_path: Path, zipped: bool) -> None:
        torch.save(
            {"transformer.wte.weight": Bomb(tmp_path / "ran")},
            pickled / "pytorch_model.bin",
            _use_new_zipfile_serialization=zipped,
        )
        with pytest.raises(CheckpointError, match="contains more than tensors, which could run code"):
            convert(pickled)
        assert not (tmp_path / "ran").exists()
        assert not (pickled / "model.safetensors").exists()

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"garbage",
            b"\x80\x04K\x01.",
            b"PK\x03\x04",
            pickle.dumps({"a": [1]}),
            b"\x80\x02]q\x00(.",
            b"}" * 999,
        ],
        ids=repr,
    )
    def test_rubbish(self, pickled: Path, content: bytes) -> None:
        (pickled / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            convert(pickled)
        assert str(pickled / "pytorch_model.bin") in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not [path for path in pickled.iterdir() if path.name.startswith(".")]

    def test_cut_short(self, pickled: Path) -> None:
        path = pickled / "pytorch_model.bin"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is damaged"):
            convert(pickled)

    def test_a_zip_of_something_else(self, pickled: Path) -> None:
        with zipfile.ZipFile(pickled / "pytorch_model.bin", "w") as archive:
            archive.writestr("hello.txt", "hello")
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is damaged"):
            convert(pickled)

    @pytest.mark.parametrize(
        "content", [torch.ones(3), {"a": 1}, {"model": {"a": torch.ones(3)}}, {3: torch.ones(3)}]
    )
    def test_not_a_table_of_tensors(self, pickled: Path, content: object) -> None:
        torch.save(content, pickled / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="named tensors"):
            convert(pickled)

    def test_another_models_tensors(self, pickled: Path) -> None:
        torch.save({"transformer.wte.weight": torch.ones(3, 4)}, pickled / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match=r"wte.weight has shape \(3, 4\) and \(300, 16\) is needed"):
            convert(pickled)
        assert not (pickled / "model.safetensors").exists()

    def test_an_index_that_points_elsewhere(self, pickled: Path) -> None:
        (pickled / "pytorch_model.bin").unlink()
        index = {"weight_map": {"transformer.wte.weight": "../x.bin"}}
        (pickled / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        with pytest.raises(CheckpointError, match="not in its own folder"):
            convert(pickled)


class TestToPickle:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_there_and_back(self, tmp_path: Path, dtype: torch.dtype) -> None:
        model = tiny_model()
        save_checkpoint(tmp_path / "one", model, None, dtype=dtype)
        convert(tmp_path / "one", tmp_path / "two", to="pytorch")
        assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
            "config.json",
            "generation_config.json",
            "pytorch_model.bin",
        ]
        written = convert(tmp_path / "two", tmp_path / "three")
        assert written.read_bytes() == (tmp_path / "one" / "model.safetensors").read_bytes()

    def test_transformers_reads_it(self, folder: Path) -> None:
        convert(folder, to="pytorch")
        (folder / "model.safetensors").unlink()
        reference = GPT2LMHeadModel.from_pretrained(folder, use_safetensors=False).eval()
        ids = random_ids(reference.config, 2, 32)
        model = tiny_model()
        assert_logits_equal(model.head(model(ids)).detach(), reference(ids).logits.detach())

    def test_an_untied_head_stays_its_own(self, tmp_path: Path) -> None:
        folder = tiny_checkpoint(tmp_path / "one", tie_word_embeddings=False)
        convert(folder, tmp_path / "two", to="pytorch")
        convert(tmp_path / "two")
        head = load_model(tmp_path / "two").lm_head
        expected = tiny_model(tie_word_embeddings=False).lm_head
        assert head is not None
        assert expected is not None
        assert torch.equal(head.weight, expected.weight)


class TestRefusals:
    def test_nothing_is_overwritten(self, folder: Path, pickled: Path, tmp_path: Path) -> None:
        tiny_checkpoint(tmp_path / "other", seed=1)
        with pytest.raises(ConflictError, match="already exists"):
            convert(pickled, tmp_path / "other")
        assert same_weights(tmp_path / "other", seed=1)
        convert(pickled)
        with pytest.raises(ConflictError, match="already"):
            convert(folder)

    def test_the_current_folder_is_not_replaced(
        self, pickled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "empty").mkdir()
        monkeypatch.chdir(tmp_path / "empty")
        with pytest.raises(ConflictError, match="the current folder"):
            convert(pickled, ".")
        monkeypatch.chdir(pickled)
        assert convert(".") == pickled / "model.safetensors"

    def test_nothing_to_convert(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(ConflictError, match="already"):
            convert(folder)
        with pytest.raises(CheckpointError, match=r"contains no pytorch_model\.bin to convert"):
            convert(folder, tmp_path / "new")
        assert not (tmp_path / "new").exists()
        with pytest.raises(NotFoundError, match="does not exist"):
            convert(tmp_path / "none")

    def test_a_link_to_itself(self, pickled: Path, tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to("loop")
        with pytest.raises(CheckpointError, match="could not be saved"):
            convert(pickled, tmp_path / "loop")
        with pytest.raises(UsageError, match="safetensors or pytorch, not to 'gguf'"):
            convert(folder, to="gguf")
