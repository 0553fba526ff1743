"""What works where the packages of `conjure[generate]` are all there is: nothing else is even looked for."""

import json
import os
import subprocess
import sys

import pytest

from conjure import load
from conjure.installation import install_command
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
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules |= dict.fromkeys({MISSING})\n")

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
    done = conjure("generate", "--precision", "bfloat16", "--model", model)
    assert done.returncode == 2
    assert "needs torch for --precision bfloat16 here, and it is not installed" in done.stderr
    assert f"  try: {install_command('lm')}\n" in done.stderr


@pytest.mark.parametrize("of", ["text", "file"])
def test_score(conjure, model, tmp_path, of):
    text = "My dog ate the clock, and the clock went on ticking in the night. " * 3 + "The end."
    (tmp_path / "text.txt").write_text(text)
    what = [text] if of == "text" else [str(tmp_path / "text.txt")]
    done = conjure("score", *what, "--model", model, "--json")
    assert done.returncode == 0, done.stderr
    expected = load(model).score(text)
    assert json.loads(done.stdout)["total"] == pytest.approx(expected.total, abs=1e-3)


def test_the_second_start_rounds_nothing(conjure, model):
    first, second = (conjure("generate", "--model", model, "--precision", "int8") for _ in range(2))
    assert "Quantizing the model's weights to int8" in first.stderr
    assert "Quantizing" not in second.stderr


def test_numbers_are_those_with_torch(conjure, model):
    settings = ["--precision", "float32", "--seed", "3", "-n", "4", "--json"]
    arguments = ["generate", "My dog", "--model", model, *settings]
    command = [sys.executable, "-m", "conjure", *arguments]
    variables = {**environment(), "CONJURE_NATIVE": "off", "PATH": os.environ["PATH"]}
    in_torch = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert in_torch.returncode == 0, in_torch.stderr
    ours, theirs = (json.loads(done.stdout) for done in (conjure(*arguments), in_torch))
    assert [sample["token_ids"] for sample in ours] == [sample["token_ids"] for sample in theirs]
