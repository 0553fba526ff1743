"""`conjure serve` as installed: its address, its end, as a run, and what it says when it cannot start."""

import json
import signal
import subprocess
from contextlib import contextmanager

import pytest

from support.http_servers import Client
from support.models import tiny_checkpoint
from support.terminal import CONJURE, conjure


@contextmanager
def serving(*arguments):
    """A server process and its client, once it has told its address."""
    process = subprocess.Popen(
        [CONJURE, "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line, process.stderr.read()
        yield process, Client(int(line.rpartition(":")[2].partition("/")[0])), line
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"), context_length=512)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_and_ends(folder, number):
    with serving("--model", f"tiny={folder}") as (process, client, line):
        assert line.startswith("Serving tiny (int8") or "float32" in line
        assert client.get("/health").json == {"status": "ok"}
        body = {"model": "tiny", "prompt": "a secret prompt", "max_tokens": 3}
        assert client.post("/v1/completions", body).status == 200
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "POST /v1/completions 200" in errors
        assert "secret" not in errors
        assert "Traceback" not in errors


def test_prompts_are_logged_when_that_is_asked_for(folder):
    with serving("--model", f"tiny={folder}", "--log-prompts") as (process, client, _):
        client.post("/v1/completions", {"model": "tiny", "prompt": "a secret\nprompt", "max_tokens": 3})
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert r'"prompt": "a secret\nprompt"' in errors


def test_a_key_is_asked_for(folder, tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text("0123456789abcdef-key\n")
    with serving("--model", f"tiny={folder}", "--api-key-file", str(file)) as (process, client, _):
        assert client.get("/v1/models").status == 401
        assert client.get("/v1/models", {"Authorization": "Bearer 0123456789abcdef-key"}).status == 200
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert "0123456789abcdef" not in errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "./no-such-folder"], "does not exist"),
        (["--model", "=sprite"], "neither a model nor NAME=MODEL"),
        (["--port", "70000"], "--port"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_sentence(arguments, words):
    done = conjure("serve", *arguments)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_damaged_model_is_told_when_it_is_loaded(tmp_path):
    folder = tiny_checkpoint(tmp_path / "bad")
    (folder / "model.safetensors").write_bytes(b"damaged")
    done = conjure("serve", "--port", "0", "--model", str(folder))
    assert done.returncode == 1
    assert "model.safetensors is damaged" in done.stderr
    assert "Traceback" not in done.stderr


def test_as_a_run_it_has_an_address_and_metrics_and_stops(folder):
    assert conjure("serve", "--save", "-b", "--port", "0", "--model", f"tiny={folder}").returncode == 0
    address = None
    while address is None:
        (run,) = json.loads(conjure("ps", "--json").stdout)
        assert run["end_reason"] is None, conjure("logs", "1").stdout
        address = run["address"]
    assert address in conjure("ps").stdout
    client = Client(int(address.rpartition(":")[2]))
    assert client.post("/v1/completions", {"model": "tiny", "prompt": "a", "max_tokens": 3}).status == 200
    assert conjure("stop", "1").returncode == 0
    (run,) = json.loads(conjure("ps", "--json").stdout)
    assert (run["status"], run["address"]) == ("stopped", None)
    assert run["metrics"]["requests"] == 1
    assert "Serving tiny" in conjure("logs", "1").stdout


def test_a_predictor_runs_in_a_run_with_the_code_of_its_folder(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "word.txt").write_text("hello")
    monkeypatch.chdir(tmp_path / "project")
    (tmp_path / "project" / "config.yaml").write_text("suffix: '!'\n")
    (tmp_path / "project" / "greeter.py").write_text(
        "from pathlib import Path\n"
        "class Greeter:\n"
        "    def __init__(self, suffix): self.suffix = suffix\n"
        "    def predict(self, payload): return Path('word/word.txt').read_text() + self.suffix\n"
    )
    assert conjure("upload", str(tmp_path / "data"), "--name", "word").returncode == 0
    arguments = ["--predictor", "greeter.py", "--config", "config.yaml", "-m", "uploads/word:word"]
    refused = conjure("serve", *arguments)
    assert "--mount needs --save" in refused.stderr
    assert conjure("serve", *arguments, "--save", "-b", "--port", "0").returncode == 0
    address = None
    while address is None:
        (run,) = json.loads(conjure("ps", "--json").stdout)
        assert run["end_reason"] is None, conjure("logs", "1").stdout
        address = run["address"]
    assert Client(int(address.rpartition(":")[2])).post("/predict", {}).json == "hello!"
    assert conjure("stop", "1").returncode == 0
