import json
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conjure.errors import CheckpointError, ConflictError, ConjureError, NotFoundError
from conjure.lm.checkpoints.checkpoint_folder import read_config
from conjure.lm.checkpoints.pretrained import check_can_save, load_checkpoint, load_model, save_checkpoint
from conjure.lm.models.decoder import Decoder
from support.models import tiny_checkpoint, tiny_model, tiny_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "model")


def weights_equal(model: Decoder, other: Decoder) -> bool:
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors")


def change_config(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def shard(folder: Path, **places: str) -> None:
    """Split a checkpoint's file in two, with an index; `places` overrides where the index puts tensors."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    half = len(tensors) // 2
    weight_map = {}
    for number, names in enumerate((list(tensors)[:half], list(tensors)[half:]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": {**weight_map, **places}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def rename_tensors(folder: Path, rename: Callable[[str], str]) -> None:
    tensors = load_file(folder / "model.safetensors")
    renamed = {rename(name): tensor.clone() for name, tensor in tensors.items()}
    save_file(renamed, folder / "model.safetensors")


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestRoundTrip:
    def test_weights_config_and_tokenizer_come_back(self, folder: Path) -> None:
        model, tokenizer = load_checkpoint(folder)
        assert weights_equal(model, tiny_model())
        assert model.config == tiny_model().config
        assert tokenizer.encode("a clock") == tiny_tokenizer().encode("a clock")
        assert not model.training
        assert all(parameter.requires_grad and parameter.is_contiguous() for parameter in model.parameters())

    def test_the_folder_is_a_plain_hugging_face_one(self, tmp_path: Path) -> None:
        save_checkpoint(
            tmp_path / "m", tiny_model(), tiny_tokenizer(), training={"steps": 3}, card="# A model\n"
        )
        assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
            "README.md",
            "config.json",
            "generation_config.json",
            "merges.txt",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "training.json",
            "vocab.json",
        ]
        assert json.loads((tmp_path / "m" / "training.json").read_text()) == {"steps": 3}
        with safe_open(tmp_path / "m" / "model.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt"}
            assert file.get_slice("transformer.h.0.attn.c_attn.weight").get_shape() == [16, 48]
        modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "m").iterdir()}
        assert modes == {0o644}

    def test_equal_models_give_equal_bytes(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            tiny_checkpoint(tmp_path / name)
        for path in (tmp_path / "one").iterdir():
            assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()

    def test_loading_in_bfloat16(self, folder: Path) -> None:
        model = load_model(folder, torch.bfloat16)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert torch.equal(model.embedding.weight, tiny_model().embedding.weight.to(torch.bfloat16))

    def test_a_loaded_model_does_not_hang_on_its_files(self, folder: Path) -> None:
        model = load_model(folder)
        with (folder / "model.safetensors").open("r+b") as file:
            file.truncate(100)
        assert weights_equal(model, tiny_model())

    def test_shards(self, folder: Path) -> None:
        shard(folder)
        assert weights_equal(load_model(folder), tiny_model())

    def test_links_as_in_hugging_faces_cache(self, folder: Path, tmp_path: Path) -> None:
        snapshot = tmp_path / "snapshot"
        snapshot.mkdir()
        for path in folder.iterdir():
            (snapshot / path.name).symlink_to(os.path.relpath(path, snapshot))
        assert weights_equal(load_checkpoint(snapshot)[0], tiny_model())


class TestMisfits:
    def test_missing_tensor(self, folder: Path) -> None:
        change_tensors(folder, lambda tensors: tensors.pop("transformer.h.1.mlp.c_fc.bias"))
        message = refusal(folder)
        assert "tensor h.1.mlp.c_fc.bias (64,) is missing" in message
        assert str(folder) in message

    def test_missing_head_of_its_own(self, folder: Path) -> None:
        change_config(folder, tie_word_embeddings=False)
        assert "tensor lm_head.weight (300, 16) is missing" in refusal(folder)

    def test_extra_tensor(self, folder: Path) -> None:
        change_tensors(folder, lambda tensors: tensors.update({"transformer.h.2.ln_1.bias": torch.ones(16)}))
        assert "tensor transformer.h.2.ln_1.bias (16,) is not part of the model" in refusal(folder)

    def test_wrong_shape(self, folder: Path) -> None:
        name = "transformer.h.0.attn.c_attn.weight"
        change_tensors(folder, lambda tensors: tensors.update({name: torch.ones(16, 45)}))
        assert f"tensor {name} has shape (16, 45) and (16, 48) is needed" in refusal(folder)

    def test_transposed_is_a_wrong_shape(self, folder: Path) -> None:
        name = "transformer.h.0.mlp.c_fc.weight"
        change_tensors(folder, lambda tensors: tensors.update({name: tensors[name].t().contiguous()}))
        assert f"tensor {name} has shape (64, 16) and (16, 64) is needed" in refusal(folder)

    def test_empty_or_scalar_in_place_of_a_matrix(self, folder: Path) -> None:
        name = "transformer.h.0.attn.c_attn.weight"
        for wrong in (torch.ones(0, 48), torch.tensor(1.0)):
            change_tensors(folder, lambda tensors, wrong=wrong: tensors.update({name: wrong}))
            assert f"has shape {tuple(wrong.shape)} and (16, 48) is needed" in refusal(folder)

    def test_whole_numbers_are_no_weights(self, folder: Path) -> None:
        name = "transformer.ln_f.weight"
        change_tensors(folder, lambda tensors: tensors.update({name: torch.ones(16, dtype=torch.int8)}))
        assert f"tensor {name} contains int8 numbers" in refusal(folder)

    def test_stored_twice(self, folder: Path) -> None:
        change_tensors(folder, lambda tensors: tensors.update({"ln_f.bias": torch.ones(16)}))
        assert "tensor ln_f.bias is stored twice" in refusal(folder)

    def test_many_faults_are_counted(self, folder: Path) -> None:
        change_config(folder, n_embd=32)
        message = refusal(folder)
        assert "tensor transformer.h.0.attn.c_attn.bias has shape (48,) and (96,) is needed" in message
        assert "; and 25 more such errors" in message

    def test_another_layer_count(self, folder: Path) -> None:
        change_config(folder, n_layer=3)
        assert "tensor h.2.ln_1.weight (16,) is missing" in refusal(folder)


class TestNamesThatNearlyMatch:
    @pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
    def test_wrappers_of_every_tensor_are_taken_off(self, folder: Path, wrapper: str) -> None:
        plain = load_model(folder)
        rename_tensors(folder, lambda name: wrapper + name)
        assert weights_equal(load_model(folder), plain)

    def test_a_wrapper_beside_bare_names(self, folder: Path) -> None:
        plain = load_model(folder)
        rename_tensors(folder, lambda name: "module." + name.removeprefix("transformer."))
        assert weights_equal(load_model(folder), plain)

    def test_wrapped_shards(self, folder: Path) -> None:
        plain = load_model(folder)
        rename_tensors(folder, lambda name: "_orig_mod." + name)
        shard(folder)
        assert weights_equal(load_model(folder), plain)

    def test_another_prefix_is_named(self, folder: Path) -> None:
        rename_tensors(folder, lambda name: "student." + name)
        assert "the names begin with 'student.transformer.', and would match without it" in refusal(folder)

    def test_a_wrapper_on_some_tensors_only_is_named(self, folder: Path) -> None:
        rename_tensors(folder, lambda name: "module." + name if ".h.1." in name else name)
        assert "the names begin with 'module.transformer.'" in refusal(folder)

    @pytest.mark.slow
    def test_a_head_for_another_task_is_refused_with_a_command_that_leaves_it_out(
        self, folder: Path, tmp_path: Path
    ) -> None:
        plain = load_model(folder)
        change_tensors(folder, lambda tensors: tensors.update({"score.weight": torch.ones(2, 16)}))
        with pytest.raises(
            CheckpointError, match=r"score\.weight \(2, 16\) is not part of the model"
        ) as caught:
            load_model(folder)
        fix = caught.value.fix
        assert fix is not None
        python, *words = shlex.split(fix)
        assert python == "python"
        subprocess.run([sys.executable, *words], cwd=tmp_path, check=True, capture_output=True)
        assert weights_equal(load_model(tmp_path / f"{folder.name}-lm"), plain)


class TestDamage:
    def test_cut_short(self, folder: Path) -> None:
        path = folder / "model.safetensors"
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 40)
        message = refusal(folder)
        assert "is truncated: tensor transformer." in message

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is not JSON"),
            (b"{", "is not JSON"),
            (b"\xff\xfe\x00", "is not JSON"),
            (b"[" * 100_000, "is not JSON"),
            (b"[1]", "contains a list, not an object"),
            (b'"gpt2"', "contains a str, not an object"),
            (b'{"n_layer": 1e3}', "n_layer must be an integer from 1 to 1,000,000,000,000, not 1000.0"),
            (b'{"n_layer": NaN}', "n_layer must be an integer from 1 to 1,000,000,000,000, not nan"),
            (b'{"model_type": "bert"}', "model_type 'bert'"),
            (b'{"vocab_size": 1000000000000, "n_embd": 1}', "n_embd 1 is not divisible by n_head 12"),
            (b'{"vocab_size": 1000000000, "n_embd": 1200}', "it has 1,200,"),
        ],
    )
    def test_config(self, folder: Path, content: bytes, message: str) -> None:
        (folder / "config.json").write_bytes(content)
        assert message in refusal(folder)

    def test_a_huge_config_is_refused_before_any_memory_is_taken(self, folder: Path) -> None:
        change_config(folder, n_embd=250_000, n_layer=1_000)  # 7.5e14 weights
        assert "at most 100,000,000,000 are supported" in refusal(folder)
        change_config(
            folder, n_embd=16, n_layer=2, vocab_size=10**9
        )  # 64 GB: allowed, but not what is stored
        assert "has shape (300, 16) and (1000000000, 16) is needed" in refusal(folder)

    def test_no_config(self, folder: Path) -> None:
        (folder / "config.json").unlink()
        assert refusal(folder) == f"{folder} is not a model folder: it has no config.json"

    def test_no_weights(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        assert refusal(folder) == f"{folder} contains no weights: model.safetensors is needed"

    def test_a_folder_in_place_of_a_file(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").mkdir()
        assert refusal(folder) == f"{folder}/model.safetensors cannot be read: Is a directory"
        (folder / "config.json").unlink()
        (folder / "config.json").mkdir()
        assert refusal(folder) == f"{folder}/config.json cannot be read: Is a directory"

    def test_a_dangling_link(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").symlink_to("nowhere")
        assert "contains no weights" in refusal(folder)

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
    def test_a_pickle_is_refused_and_the_conversion_named(self, folder: Path, name: str) -> None:
        (folder / "model.safetensors").rename(folder / name)
        with pytest.raises(CheckpointError, match=f"only as {name}, a pickle") as caught:
            load_model(folder)
        assert caught.value.fix == f"conjure models convert {folder}"

    def test_not_a_folder(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match="does not exist"):
            read_config(tmp_path / "none")
        with pytest.raises(NotFoundError, match="is a file, not a folder"):
            read_config(folder / "config.json")

    def test_no_tokenizer(self, folder: Path) -> None:
        for name in ("tokenizer.json", "vocab.json", "merges.txt"):
            (folder / name).unlink()
        assert isinstance(load_model(folder), Decoder)
        with pytest.raises(CheckpointError, match="contains no tokenizer"):
            load_checkpoint(folder)


class TestShardIndex:
    def test_missing_shard(self, folder: Path) -> None:
        shard(folder)
        (folder / "model-00002-of-00002.safetensors").unlink()
        assert "model-00002-of-00002.safetensors cannot be read: No such file" in refusal(folder)

    def test_tensor_not_where_the_index_says(self, folder: Path) -> None:
        shard(folder, **{"transformer.wte.weight": "model-00001-of-00002.safetensors"})
        assert "tensor transformer.wte.weight is missing from" in refusal(folder)

    @pytest.mark.parametrize("place", ["../model.safetensors", "/etc/passwd", "..", "", "a/b.safetensors"])
    def test_no_path_leaves_the_folder(self, folder: Path, place: str) -> None:
        shard(folder, **{"transformer.wte.weight": place})
        assert f"names the file {place!r}, which is not in its own folder" in refusal(folder)

    @pytest.mark.parametrize("place", ["a\0b", "\ud800.safetensors", "a\n"])
    def test_no_name_that_a_file_cannot_have(self, folder: Path, place: str) -> None:
        shard(folder, **{"transformer.wte.weight": place})
        assert f"index.json is damaged: it names the file {place!r}" in refusal(folder)

    @pytest.mark.parametrize("content", ["{", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
    def test_damaged(self, folder: Path, content: str) -> None:
        shard(folder)
        (folder / "model.safetensors.index.json").write_text(content)
        assert "model.safetensors.index.json is damaged" in refusal(folder)


class TestSaving:
    def test_replaces_an_older_checkpoint_whole(self, folder: Path) -> None:
        shard(folder)
        save_checkpoint(folder, tiny_model(1), None)
        assert weights_equal(load_model(folder), tiny_model(1))
        assert sorted(path.name for path in folder.iterdir()) == [
            "config.json",
            "generation_config.json",
            "model.safetensors",
        ]
        assert [path.name for path in folder.parent.iterdir()] == ["model"]

    def test_follows_a_link_to_the_folder(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "latest").symlink_to("model")
        save_checkpoint(tmp_path / "latest", tiny_model(1), None)
        assert (tmp_path / "latest").is_symlink()
        assert weights_equal(load_model(folder), tiny_model(1))

    def test_a_link_to_itself_is_a_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to("loop")
        with pytest.raises(CheckpointError, match="the checkpoint could not be saved"):
            save_checkpoint(tmp_path / "loop", tiny_model(), None)
        assert (tmp_path / "loop").is_symlink()

    def test_makes_parents(self, tmp_path: Path) -> None:
        save_checkpoint(tmp_path / "a" / "b", tiny_model(), None)
        assert weights_equal(load_model(tmp_path / "a" / "b"), tiny_model())

    def test_never_replaces_what_is_not_a_checkpoint(self, folder: Path, tmp_path: Path) -> None:
        (folder / "notes.txt").write_text("mine")
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "README.md").write_text("mine")
        (tmp_path / "file").write_text("mine")
        for place, message in (
            (folder, "which also contains 'notes.txt'"),
            (tmp_path / "other", "not empty and not a checkpoint"),
            (tmp_path / "file", "is a file"),
        ):
            with pytest.raises(ConflictError, match=message):
                save_checkpoint(place, tiny_model(1), None)
        assert (folder / "notes.txt").read_text() == "mine"
        assert weights_equal(load_model(folder), tiny_model())

    @pytest.mark.parametrize("place", [".", ".."])
    def test_the_current_folder_is_not_replaced(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
    ) -> None:
        (tmp_path / "empty" / "inner").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "empty" / "inner")
        for refuse in (check_can_save, lambda folder: save_checkpoint(folder, tiny_model(), None)):
            with pytest.raises(ConflictError, match="the current folder is in it or is this folder"):
                refuse(place)
        assert Path.cwd() == tmp_path / "empty" / "inner"

    def test_an_empty_folder_is_filled(self, tmp_path: Path) -> None:
        (tmp_path / "new").mkdir()
        save_checkpoint(tmp_path / "new", tiny_model(), None)
        assert weights_equal(load_model(tmp_path / "new"), tiny_model())

    def test_a_parent_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        with pytest.raises(ConjureError, match="could not be saved"):
            save_checkpoint(tmp_path / "file" / "model", tiny_model(), None)
