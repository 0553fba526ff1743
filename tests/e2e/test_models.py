"""`conjure models`, the installed command: listing, facts, conversion, refusals."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conjure.cli.main import _run
from support.models import tiny_checkpoint
from support.terminal import conjure


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "mine")


@pytest.fixture
def pickled(folder: Path) -> Path:
    torch.save(dict(load_file(folder / "model.safetensors")), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A hub model in a Hugging Face cache, beside one of another architecture; returns its commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    for name, settings in (("some--gpt2", None), ("some--bert", '{"model_type": "bert"}')):
        repository = tmp_path / "hf" / "hub" / f"models--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "blobs").mkdir()
        (repository / "refs" / "main").write_text(commit)
        snapshot = tiny_checkpoint(repository / "snapshots" / commit)
        if settings:
            (snapshot / "config.json").write_text(settings)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return commit


class TestList:
    @pytest.mark.usefixtures("cached")
    def test_shows_gpt2_models_of_the_cache(self) -> None:
        done = conjure("models")
        assert done.returncode == 0
        header, *rows = done.stdout.splitlines()
        assert header.split() == ["NAME", "PARAMETERS", "SIZE", "FORMAT", "FROM"]
        cells = [re.split("  +", row) for row in rows]
        assert ["some/gpt2", "0.0M", "50 kB", "float32", "Hugging Face, revision 01234567"] in cells
        assert "bert" not in done.stdout
        assert "downloaded when first used" in done.stderr

    def test_as_json(self, cached: str) -> None:
        done = conjure("models", "--json")
        (entry,) = [entry for entry in json.loads(done.stdout) if entry["kind"] == "hub"]
        assert (entry["name"], entry["revision"], entry["parameters"]) == ("some/gpt2", cached, 11_904)
        assert (entry["dtype"], entry["problem"]) == ("float32", None)
        assert json.loads(conjure("models", "list", "--json").stdout) == json.loads(done.stdout)

    def test_an_empty_cache_is_no_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HOME", str(tmp_path / "nothing"))
        assert conjure("models").returncode == 0

    def test_torch_is_not_imported(self) -> None:
        program = "import sys, conjure.lm.checkpoints.describe; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


class TestInfo:
    def test_facts(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert _run(["models", "info", str(folder)]) == 0
        facts = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
        facts = {label.strip(): value.strip() for label, value in facts.items()}
        assert facts["parameters"] == "11,904"
        assert facts["context length"] == "32 tokens"
        assert facts["shape"] == "2 layers, 16 channels, 2 heads"
        assert facts["tokenizer"] == "yes"

    def test_as_json(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert _run(["models", "info", str(folder), "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert content["config"]["n_layer"] == 2
        assert content["folder"] == str(folder)

    def test_a_pickle_names_the_conversion(self, pickled: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert _run(["models", "info", str(pickled)]) == 0
        assert f"conjure models convert {pickled}" in capsys.readouterr().out

    def test_an_unknown_name_is_not_fetched(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert _run(["models", "info", "gtp2"]) == 1
        shown = capsys.readouterr().err
        assert shown == "error: model 'gtp2' is not on this machine\n  hint: did you mean gpt2?\n"


class TestConvert:
    def test_then_the_model_generates(self, pickled: Path, capsys: pytest.CaptureFixture[str]) -> None:
        generate = ["generate", "a", "--model", str(pickled), "--length", "3"]
        assert _run(generate) == 1
        assert f"try: conjure models convert {pickled}" in capsys.readouterr().err
        done = conjure("models", "convert", str(pickled))
        assert (done.returncode, done.stdout) == (0, f"{pickled / 'model.safetensors'}\n")
        assert f"conjure generate --model {pickled}" in done.stderr
        assert _run(generate) == 0

    def test_to_pytorch(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert _run(["models", "convert", str(folder), "-o", str(tmp_path / "new"), "--to", "pytorch"]) == 0
        assert capsys.readouterr().out == f"{tmp_path / 'new' / 'pytorch_model.bin'}\n"
        assert _run(["models", "convert", str(folder), "-o", str(tmp_path / "new"), "--to", "pytorch"]) == 1
        assert "already exists" in capsys.readouterr().err

    def test_usage(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert _run(["models", "convert", str(folder), "--to", "gguf"]) == 2
        assert _run(["models", "convert"]) == 2
        assert "FOLDER" in capsys.readouterr().err


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def no_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x80\x04.")


def a_million_million_parameters(folder: Path) -> None:
    (folder / "config.json").write_text('{"n_embd": 288675, "n_layer": 1, "n_head": 1}')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_json, "config.json is damaged: it is not JSON"),
        (no_weights, "contains no weights: model.safetensors is needed"),
        (no_safetensors, "is too short for a safetensors file"),
        (a_million_million_parameters, "at most 100,000,000,000 are supported"),
    ],
)
def test_a_damaged_model_is_one_sentence(folder: Path, damage, message: str, capsys) -> None:
    damage(folder)
    assert _run(["generate", "a", "--model", str(folder)]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert message in shown
    assert len(shown.splitlines()) <= 2
