"""The scripts of 2019 as programs of their own: pipes, ^C, and inside a run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conjure.lm.checkpoints.pretrained import load_checkpoint
from support.models import TEXTS, tiny_checkpoint
from support.terminal import CONJURE, TIMEOUT_S, Started, conjure, environment

GENERATION = [sys.executable, "-m", "conjure.compat.run_generation", "--model_type=gpt2"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a model and a text."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "model")
    (tmp_path / "data.txt").write_text("\n".join(TEXTS) * 4, encoding="utf-8")
    return tmp_path


def test_samples_come_out_of_a_pipe_and_the_end_of_the_input_is_an_end(folder):
    done = subprocess.run(
        [*GENERATION, "--model_name_or_path=model", "--length=5", "--num_samples=2"],
        input="My dog\n",
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        env=environment(),
    )
    assert done.returncode == 0
    assert "Model prompt" not in done.stdout
    assert done.stdout.endswith("\n")
    assert done.stderr == "Model prompt >>> Model prompt >>> \n"


def test_help_is_instant_for_it_needs_no_torch(folder):
    script = "import sys; from conjure.compat.run_generation import main; main(['--help'])"
    code = f"try:\n {script}\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    assert "--model_name_or_path" in done.stdout


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_saves_a_checkpoint_that_works(folder, number, status):
    flags = ["--do_train", "--train_data_file=data.txt", "--output_dir=output", "--block_size=16"]
    endless = ["--num_train_epochs=100000", "--save_steps=0", "--logging_steps=3"]
    process = Started(
        *("--model_type=gpt2", "--model_name_or_path=model", *flags, *endless),
        module="conjure.compat.run_lm_finetuning",
    )
    for line in process.stderr:
        if line.startswith("step "):
            break
    process.send_signal(number)
    _, rest = process.communicate()

    assert process.returncode == status, rest
    assert "Traceback" not in rest
    (checkpoint,) = (folder / "output").iterdir()
    assert f"the model was saved to output/{checkpoint.name}" in rest
    load_checkpoint(checkpoint)
    step = json.loads((checkpoint / "training.json").read_text())["step"]
    assert checkpoint.name == f"checkpoint-{step}"


def test_the_ancestors_way_through_runs(folder, monkeypatch):
    """Tune in one run, mount its output in the next, sample: with the flags of 2019."""
    monkeypatch.setenv("PATH", f"{CONJURE.parent}:{os.environ['PATH']}")
    (folder / "code").mkdir()
    monkeypatch.chdir(folder / "code")
    train = (
        "python -m conjure.compat.run_lm_finetuning --output_dir=output --model_type=gpt2"
        f" --model_name_or_path={folder}/model --per_gpu_train_batch_size=2 --num_train_epochs=2 --do_train"
        " --train_data_file=data.txt --block_size=16 --logging_steps=5 --save_steps=20"
    )
    done = conjure("run", "-m", str(folder / "data.txt"), train)
    assert done.returncode == 0, done.stderr
    sample = "python -m conjure.compat.run_generation --model_type=gpt2 --length=9 --prompt=' '"
    done = conjure("run", "-m", "runs/1/output", f"{sample} --model_name_or_path=output")
    assert done.returncode == 0, done.stderr

    runs = Path(os.environ["CONJURE_HOME"]) / "runs"
    outputs = {path.relative_to(runs / "1" / "outputs") for path in (runs / "1" / "outputs").rglob("*")}
    assert Path("output/model.safetensors") in outputs
    assert Path("output/checkpoint-20/tokenizer.json") in outputs
    points = [json.loads(line) for line in (runs / "1" / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "lr"} <= {point["name"] for point in points}
    assert list((runs / "2" / "outputs").rglob("*")) == []
