import hashlib
import json
import os
from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.errors import CheckpointError
from conjure.lm.checkpoints import model_resolver, weights_digest
from conjure.lm.checkpoints.model_resolver import resolve_model
from support.gguf_files import write_gguf
from support.models import tiny_checkpoint


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def folder(tmp_path):
    return tiny_checkpoint(tmp_path / "model")


def test_of_one_file_it_is_what_sha256sum_prints(folder):
    assert resolve_model(folder).sha256 == sha256(folder / "model.safetensors")


def test_other_weights_have_another_and_a_copy_has_the_same(folder, tmp_path):
    digest = weights_digest.weights_digest(folder)
    assert weights_digest.weights_digest(tiny_checkpoint(tmp_path / "copy")) == digest
    assert weights_digest.weights_digest(tiny_checkpoint(tmp_path / "other", seed=1)) != digest


def test_of_several_files_each_counts(folder):
    files = ["model-1.safetensors", "model-2.safetensors"]
    (folder / "model.safetensors").rename(folder / files[0])
    (folder / files[1]).write_bytes(b"two")
    index = {"weight_map": dict(zip(["a", "b"], files, strict=True))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    before = weights_digest.weights_digest(folder)
    (folder / files[1]).write_bytes(b"three")
    assert weights_digest.weights_digest(folder) != before


def test_a_large_file_is_read_once_until_it_changes(folder, conjure_home, monkeypatch):
    Home(conjure_home).create()
    monkeypatch.setattr(weights_digest, "_REMEMBERED_FROM_BYTES", 0)
    path, read = folder / "model.safetensors", []
    monkeypatch.setattr(weights_digest, "sha256_file", lambda path: read.append(path) or sha256(path))
    first = [weights_digest.weights_digest(folder) for _ in range(2)]
    assert first == [sha256(path)] * 2
    path.write_bytes(path.read_bytes() + b"more")
    assert weights_digest.weights_digest(folder) == sha256(path) != first[0]
    assert read == [path] * 2


def test_a_file_that_changes_while_it_is_read_is_not_remembered(folder, conjure_home, monkeypatch):
    Home(conjure_home).create()
    monkeypatch.setattr(weights_digest, "_REMEMBERED_FROM_BYTES", 0)
    path = folder / "model.safetensors"
    old = path.with_name("old")
    os.link(path, old)

    def replaced(path: Path) -> str:
        path.with_name("new").write_bytes(b"other weights")
        path.with_name("new").replace(path)
        return sha256(path)

    with monkeypatch.context() as patch:
        patch.setattr(weights_digest, "sha256_file", replaced)
        weights_digest.weights_digest(folder)
    old.replace(path)  # as it was, with its time and inode
    assert weights_digest.weights_digest(folder) == sha256(path)


def test_a_damaged_note_of_it_is_not_believed(folder, conjure_home, monkeypatch):
    Home(conjure_home).create()
    monkeypatch.setattr(weights_digest, "_REMEMBERED_FROM_BYTES", 0)
    digest = weights_digest.weights_digest(folder)
    (note,) = (Home(conjure_home).models / "digests").iterdir()
    note.write_bytes(b"\xff")
    assert weights_digest.weights_digest(folder) == digest == note.read_text()


def test_no_home_is_made_to_remember_it(folder, conjure_home, monkeypatch):
    monkeypatch.setattr(weights_digest, "_REMEMBERED_FROM_BYTES", 0)
    assert weights_digest.weights_digest(folder) == sha256(folder / "model.safetensors")
    assert not conjure_home.exists()


def test_in_the_cache_of_hugging_face_it_is_the_name_of_the_file(folder, tmp_path):
    blob = tmp_path / "blobs" / ("5e" * 32)
    blob.parent.mkdir()
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to(os.path.relpath(blob, folder))
    assert weights_digest.weights_digest(folder) == "5e" * 32


def test_of_a_gguf_file_it_is_the_digest_of_that(tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf")
    assert resolve_model(path).sha256 == sha256(path)


def test_weights_that_are_not_there(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="contains no weights"):
        weights_digest.weights_digest(folder)


def test_an_embedded_model_is_named_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(model_resolver, "_embedded_root", lambda: tmp_path)
    folder = tiny_checkpoint(tmp_path / "sprite")
    digest = sha256(folder / "model.safetensors")
    assert str(resolve_model("sprite")) == f"sprite {digest[:8]} (embedded)"
    (folder / "model.safetensors").unlink()
    assert str(resolve_model("sprite")) == "sprite (embedded)"
