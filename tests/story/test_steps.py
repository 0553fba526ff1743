"""The story through numbered runs: sample, tune, mount, sample again; stop and go on; the report."""

import json
import os
import re
import signal
import time
from pathlib import Path

import psutil
import pytest

from conjure.core.home import Home
from conjure.python_api import Run
from conjure.recipes.demo import story
from conjure.runs.lifecycle.submission import submit
from support.casting import wait_until
from support.terminal import CONJURE, Started, Terminal, conjure
from support.tuning import tuning_inputs

SETTINGS = ["--split", "lines", "--block-size", "16", "--batch-size", "4", "--learning-rate", "3e-3"]


@pytest.fixture
def inputs(tmp_path):
    return tuning_inputs(tmp_path)


def succeed(*arguments):
    done = conjure(*map(str, arguments))
    assert done.returncode == 0, done.stderr
    return done.stdout


def outputs(number):
    return Path(os.environ["CONJURE_HOME"]) / "runs" / str(number) / "outputs"


def test_each_step_is_a_run_and_each_result_mounts_into_the_next(inputs):
    text, base = inputs
    succeed("generate", "--model", base, "--length", "8", "-n", "2", "--seed", "3", "--save")
    succeed("run", "-m", text, "cat jokes.txt > data.txt")
    shown = succeed("finetune", "runs/2/data.txt", "--model", base, *SETTINGS, "--epochs", "2")
    assert "Casting run #3" in shown
    assert "Report: conjure report 3" in shown
    succeed("generate", "--model", "runs/3", "--length", "8", "-n", "2", "--seed", "3", "--save")

    before, after = (json.loads((outputs(number) / "samples.json").read_text()) for number in (1, 4))
    assert [sample["seed"] for sample in before + after] == [3, 3, 3, 3]
    assert [sample["text"] for sample in before] != [sample["text"] for sample in after]
    assert sorted(path.name for path in outputs(3).iterdir()) == ["output", "report.html", "report.json"]

    record = json.loads(succeed("info", "3", "--json"))
    assert record["spec"]["kind"] == "finetune"
    assert {mount["source"] for mount in record["mounts"]} == {"runs/2/data.txt"}
    lineage = succeed("lineage", "4")
    assert [int(number) for number in re.findall(r"\brun (\d+)", lineage)] == [4, 3, 2]
    points = json.loads(succeed("metrics", "3", "held_out_loss", "--json"))
    assert len(json.dumps(points)) > 50
    report = json.loads(succeed("report", "3", "--json"))
    assert report["tuned"]["held_out"]["loss"] < report["base"]["held_out"]["loss"]


def test_what_generate_saves_is_what_it_prints(inputs):
    words = ["generate", "My", "--model", inputs[1], "--length", "9", "--seed", "5", "--precision", "float32"]
    plain = succeed(*words)
    recorded = succeed(*words, "--save")
    assert plain.strip() in recorded
    (sample,) = json.loads((outputs(1) / "samples.json").read_text())
    assert sample["text"].strip() == plain.strip()


def test_score_saves_its_figures(inputs):
    text, base = inputs
    plain = json.loads(succeed("score", text, "--split", "lines", "--model", base, "--json"))
    succeed("score", text, "--split", "lines", "--model", base, "--save")
    saved = json.loads((outputs(1) / "score.json").read_text())
    assert saved["total"] == pytest.approx(plain["total"])


def test_the_first_interrupt_saves_and_resume_is_a_new_run_that_goes_on(inputs):
    text, base = inputs
    text = text.rename(text.with_name("hf_jokes_dataset_v2.txt"))  # which begins as tokens of hf do
    endless = ["--epochs", "4000", "--patience", "0", "--eval-every", "100000", "--save-every", "20"]
    process = Started("finetune", text, "--model", base, *SETTINGS, *endless)
    for line in process.stderr:
        if "eval loss" in line:
            break
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "To resume: conjure finetune --resume runs/1" in out
    assert (outputs(1) / "output.training").is_dir()
    stopped = json.loads(succeed("info", "1", "--json"))
    assert stopped["status"] == "stopped"

    resumed = Started("finetune", "--resume", "runs/1")
    run = Run(Home.from_environment(), 2)
    wait_until(lambda: run.home.run_folder(2).is_dir() and any(run.metrics("loss")), "the first step")
    resumed.send_signal(signal.SIGINT)
    resumed.communicate()
    assert next(iter(run.metrics("loss"))).step > 1
    assert (outputs(2) / "output" / "tokenizer.json").is_file()


def test_a_second_interrupt_aborts_and_what_was_written_can_be_recovered(inputs):
    text, base = inputs
    process = Started("finetune", text, "--model", base, *SETTINGS, "--epochs", "4000", "--eval-every", "5")
    for _ in range(2):  # the first evaluation's checkpoint is there when the second one is made
        next(line for line in process.stderr if "eval loss" in line)
    # Stopped in its tracks it cannot obey the first signal, so the second has something to do.
    trainer = next(p for p in psutil.process_iter(["environ", "cmdline"]) if _is_trainer(p))
    trainer.suspend()
    process.send_signal(signal.SIGINT)
    next(line for line in process.stdout if "press ^C again to abort" in line)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 128 + signal.SIGKILL
    assert json.loads(succeed("info", "1", "--json"))["status"] == "killed"
    succeed("recover", "1")
    assert (outputs(1) / "output" / "config.json").is_file()


def _is_trainer(process):
    """Whether it is the command of a run in this test's home."""
    environ, words = process.info["environ"] or {}, process.info["cmdline"] or []
    own = environ.get("CONJURE_HOME") == os.environ["CONJURE_HOME"] and "CONJURE_RUN" in environ
    return own and "finetune" in words


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["finetune", "runs/9/data.txt"], "runs/9 does not exist"),
        (["finetune", "--resume", "runs/9"], "run 9"),
        (["finetune", "-"], "standard input cannot be recorded"),
        (["finetune", "nowhere.csv"], "nowhere.csv does not exist"),
        (["finetune", "TEXT", "--output", "there"], "--output needs --no-run"),
        (["finetune", "TEXT", "--epochs", "0"], "epochs must be above 0, not 0"),
        (["generate", "--model", "runs/9"], "runs/9 does not exist"),
        (["report", "9"], "runs/9 does not exist"),
    ],
)
def test_a_mistake_is_told_before_a_run_gets_a_number(inputs, arguments, sentence):
    done = conjure(*(str(inputs[0]) if word == "TEXT" else word for word in arguments))
    assert done.returncode in (1, 2)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(succeed("ps", "--json")) == []


def test_inside_a_run_a_fine_tune_belongs_to_that_run(inputs, monkeypatch):
    monkeypatch.setenv("PATH", f"{CONJURE.parent}:{os.environ['PATH']}")
    text, base = inputs
    command = f"conjure finetune {text} --model {base} --max-steps 3 {' '.join(SETTINGS)}"
    succeed("run", "-m", text, command)
    assert (outputs(1) / "output" / "config.json").is_file()
    assert (outputs(1) / "report.html").is_file()
    assert len(json.loads(succeed("ps", "--json"))) == 1


def test_a_demo_that_is_stopped_says_how_to_go_on():
    demo = Terminal("demo")
    demo.read_until("Run is running")
    demo.process.send_signal(signal.SIGINT)
    assert demo.close() == 130
    assert "The demo was stopped at step 1. What to do next:" in demo.shown
    for command in ("info 1", "ps"):
        assert f"  conjure {command} " in demo.shown
        succeed(*command.split())
    assert "  conjure demo " in demo.shown


def test_the_demo_needs_no_python_on_the_path(conjure_home, tmp_path, monkeypatch):
    """As installed by pipx, or in a virtual environment that is not activated."""
    monkeypatch.setenv("PATH", str(tmp_path))
    home = Home(conjure_home)
    steps = story(home)
    next(steps)
    run = Run(home, submit(home, steps.send(1).spec).record.number)
    run.wait(check=True)
    assert [line.split()[1] for line in run.logs()] == ["jokes,"]
