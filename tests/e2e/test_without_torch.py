"""What works where the packages of `conjure[generate]` are all there is: nothing else is even looked for."""

import json
import os
import subprocess
import sys

import pytest

from conjure.lm.native import status
from support.models import tiny_checkpoint
from support.terminal import TIMEOUT_S, environment

pytestmark = pytest.mark.skipif(status().library is None, reason=status().reason)
MISSING = ("torch", "safetensors", "huggingface_hub", "pyarrow", "charset_normalizer")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("without") / "model", context_length=64))


@pytest.fixture
def conjure(tmp_path):
    """The command in a process where these packages cannot be imported."""
    for name in MISSING:
        words = f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')\n"
        (tmp_path / f"{name}.py").write_text(words)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        variables = {**environment(), "PYTHONPATH": str(tmp_path), "CONJURE_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-m", "conjure", *arguments]
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=TIMEOUT_S)

    return run


@pytest.mark.parametrize("precision", ["auto", "int8", "float32"])
def test_generate(conjure, model, precision):
    done = conjure("generate", "My dog", "--model", model, "--precision", precision, "--seed", "1", "--json")
    assert done.returncode == 0, done.stderr
    (sample,) = json.loads(done.stdout)
    assert sample["token_ids"]


def test_models(conjure, model):
    assert "sprite" in conjure("models").stdout
    assert "300" in conjure("models", "info", model).stdout


def test_what_needs_torch_names_what_to_install(conjure, model):
    for arguments in (["score", "My dog"], ["generate", "--precision", "bfloat16"]):
        done = conjure(*arguments, "--model", model)
        assert done.returncode == 1
        assert "torch is not installed" in done.stderr
        assert "pip install 'conjure[lm]'" in done.stderr


def test_the_second_start_rounds_nothing(conjure, model):
    first, second = (conjure("generate", "--model", model, "--precision", "int8") for _ in range(2))
    assert "Rounding the model's weights to int8" in first.stderr
    assert "Rounding" not in second.stderr


def test_numbers_are_those_with_torch(conjure, model):
    settings = ["--precision", "float32", "--seed", "3", "-n", "4", "--json"]
    arguments = ["generate", "My dog", "--model", model, *settings]
    command = [sys.executable, "-m", "conjure", *arguments]
    variables = {**environment(), "CONJURE_NATIVE": "off", "PATH": os.environ["PATH"]}
    in_torch = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert in_torch.returncode == 0, in_torch.stderr
    ours, theirs = (json.loads(done.stdout) for done in (conjure(*arguments), in_torch))
    assert [sample["token_ids"] for sample in ours] == [sample["token_ids"] for sample in theirs]
