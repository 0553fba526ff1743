"""Numbers at the edge: NaN and infinity in models and metrics, counts beyond reason, too little memory."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from conjure.cli.main import _run
from support.models import tiny_checkpoint
from support.terminal import TIMEOUT_S, conjure, environment

HUGE = "99999999999999999999"


def checkpoint_with(folder, name, value):
    """A tiny checkpoint with `value` as one number of the tensor `name`."""
    tiny_checkpoint(folder)
    path = folder / "model.safetensors"
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    tensors[name].view(-1)[3] = value
    save_file(tensors, path)
    return str(folder)


@pytest.fixture
def call(capsys):
    def run(*arguments):
        status = _run(list(arguments))
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "command",
    [
        ["score", "My dog."],
        ["score", "My dog.", "--json"],
        ["score", "My dog.", "--per-token"],
        ["generate", "My dog", "--json"],
    ],
)
def test_a_damaged_weight_is_refused_by_name(tmp_path, call, command, value):
    model = checkpoint_with(tmp_path / "model", "transformer.h.1.mlp.c_fc.weight", value)
    status, out, note = call(*command, "--model", model)
    assert (status, out) == (1, "")
    assert "tensor transformer.h.1.mlp.c_fc.weight contains NaN or infinity" in note
    assert "Traceback" not in note


@pytest.mark.parametrize("format", ["gguf", "safetensors"])
@pytest.mark.parametrize("name", ["transformer.ln_f.bias", "transformer.h.0.attn.c_attn.bias"])
def test_an_infinite_bias_is_not_exported(tmp_path, call, format, name):
    model = checkpoint_with(tmp_path / "model", name, float("inf"))
    status, out, note = call("export", model, str(tmp_path / "out"), "--format", format)
    assert (status, out) == (1, "")
    assert f"tensor {name} contains NaN or infinity" in note
    assert [path for path in tmp_path.rglob("*.gguf")] == []


@pytest.mark.parametrize("arguments", [["score", "My dog.", "--json"], ["generate", "My dog", "--json"]])
def test_weights_that_overflow_only_when_used_are_no_result(tmp_path, call, arguments):
    folder = tiny_checkpoint(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {key: torch.full_like(tensor, 3e38) for key, tensor in tensors.items()}, folder / "model.safetensors"
    )
    status, out, note = call(
        *arguments, "--model", str(folder), *(["--precision", "float32"] * (arguments[0] == "generate"))
    )
    assert (status, out) == (1, "")
    assert "not numbers (NaN or infinity)" in note


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-n", HUGE], f"-n must be from 1 to 1000000, not {HUGE}"),
        (["--num-samples", HUGE], f"--num-samples must be from 1 to 1000000, not {HUGE}"),
        (["--length", HUGE], f"--length must be from 1 to 10000000, not {HUGE}"),
        (
            ["--no-repeat-ngram", HUGE],
            f"--no-repeat-ngram must be from 0 to 2147483647, not {HUGE}",
        ),
        (["--top-k", HUGE], f"--top-k must be from 0 to 2147483647, not {HUGE}"),
        (["--temperature", "nan"], "--temperature must be a number of at least 0, not nan"),
        (["--temperature", "inf"], "--temperature must be a number of at least 0, not inf"),
        (["--top-p", "nan"], "--top-p must be a number above 0 and at most 1, not nan"),
        (["--repetition-penalty", "1e999"], "--repetition-penalty must be a number above 0, not inf"),
        (["--seed", HUGE + HUGE], "--seed must be from 0 to "),
        (["-n", "0"], "-n must be at least 1, not 0"),
    ],
)
def test_counts_are_bounded_and_named_as_typed(tmp_path, arguments, words):
    done = conjure_in(tmp_path, "generate", "My dog", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lr", "nan"], "--lr must be a number above 0 and at most 1, not nan"),
        (["--learning-rate", "inf"], "--learning-rate must be a number above 0 and at most 1, not inf"),
        (["--epochs", "inf"], "--epochs must be a number above 0 and at most 1000000, not inf"),
        (["--batch-size", HUGE], f"--batch-size must be from 1 to 2147483647, not {HUGE}"),
        (["--max-steps", HUGE], f"--max-steps must be from 1 to 2147483647, not {HUGE}"),
        (["--holdout", "nan"], "--holdout must be a number from 0 to 0.9, not nan"),
    ],
)
def test_a_fine_tune_s_numbers_are_bounded_before_a_run_has_a_number(tmp_path, arguments, words):
    (tmp_path / "jokes.txt").write_text("one joke\nanother joke\n")
    done = conjure_in(tmp_path, "finetune", "jokes.txt", "--split", "lines", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert conjure_in(tmp_path, "ps", "-a", "--json").stdout.split() == ["[", "]"]


def test_metrics_at_the_ends_of_what_a_float_holds_are_plotted(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    script = (
        "from conjure import log_metric\n"
        "for step, x in enumerate([1e308, -1e308, 1.7e308]):\n"
        "    log_metric('x', x, step=step)\n"
    )
    (tmp_path / "report.py").write_text(script)
    assert _run(["run", "python", "report.py"]) == 0
    call("ps")
    status, out, note = call("metrics", "1", "--plot")
    assert (status, note) == (0, "")
    assert out.splitlines()[0].strip() == "x"


def test_memory_that_is_not_there_is_one_sentence(tmp_path):
    """A text larger than the memory; with little room the libraries below Python abort the process."""
    small, large = tmp_path / "small.txt", tmp_path / "large.txt"
    small.write_text("two words")
    with large.open("wb") as file:
        for _ in range(300):
            file.write(b"word " * 200_000)
    script = (
        "import resource, sys, psutil\n"
        "from conjure.cli.main import _run\n"
        f"assert _run(['score', {str(small)!r}]) == 0\n"
        "sys.stdout.flush()\n"
        "limit = psutil.Process().memory_info().vms + (200 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        f"sys.exit(_run(['score', {str(large)!r}]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        encoding="utf-8",
        env=environment(),
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("error: not enough memory: ") == done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    assert done.stdout.count("bits per byte") == 1, "the small text is scored, the large one is not"


def conjure_in(folder, *arguments):
    return conjure(*arguments, folder=folder)
