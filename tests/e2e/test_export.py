"""`conjure export`, the installed command."""

import json

import gguf
import pytest

from conjure.cli.main import _run
from support.models import tiny_checkpoint
from support.terminal import conjure


@pytest.fixture
def model(tmp_path):
    return tiny_checkpoint(tmp_path / "model", n_embd=32, n_head=2)


def test_the_path_alone_goes_to_stdout(model, tmp_path):
    done = conjure("export", str(model), str(tmp_path / "out"))
    path = tmp_path / "out" / "model-float16.gguf"
    assert done.returncode == 0
    assert done.stdout == f"{path}\n"
    assert f"llama-completion --model {path}" in done.stderr
    assert len(gguf.GGUFReader(path).tensors) == 28


def test_json_tells_all(model, tmp_path, capsys):
    assert _run(["export", str(model), str(tmp_path / "out"), "--type", "q8_0", "--json"]) == 0
    path = tmp_path / "out" / "model-q8_0.gguf"
    assert json.loads(capsys.readouterr().out) == {
        "path": str(path),
        "format": "gguf",
        "type": "q8_0",
        "size_bytes": path.stat().st_size,
    }


def test_a_checkpoint_folder_works_at_once(model, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert _run(["export", str(model), out, "--format", "safetensors", "--type", "bfloat16"]) == 0
    assert f"conjure generate --model {out}" in capsys.readouterr().err
    assert _run(["generate", "My dog", "--model", out, "--length", "3"]) == 0


def test_a_modelfile_names_the_weights_and_the_context(model, tmp_path, capsys):
    out = tmp_path / "my out"
    assert _run(["export", str(model), str(out), "--format", "ollama", "--type", "q8_0"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{out}/Modelfile\n"
    assert f"ollama create my-model -f '{out}/Modelfile'" in shown.err
    lines = (out / "Modelfile").read_text().splitlines()
    assert lines == ["FROM ./model-q8_0.gguf", 'TEMPLATE "{{ .Prompt }}"', "PARAMETER num_ctx 32"]
    reader = gguf.GGUFReader(out / "model-q8_0.gguf")
    assert reader.fields["gpt2.context_length"].contents() == 32


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--type", "q4_0"], 2, "'q4_0' is not one of"),
        (["--format", "safetensors", "--type", "q8_0"], 2, "for safetensors it can be float32 or bfloat16"),
        (["--type", "bfloat16"], 2, "for gguf it can be float16 or q8_0"),
    ],
)
def test_mistakes_are_one_sentence(model, tmp_path, capsys, arguments, status, words):
    assert _run(["export", str(model), str(tmp_path / "out"), *arguments]) == status
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
