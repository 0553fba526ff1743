"""`conjure finetune` as installed: what it prints, how it ends, what a kill leaves."""

import json
import signal
import time
from pathlib import Path

import pytest

import conjure
from conjure.lm.training.state import state_folder
from support.terminal import Started
from support.terminal import conjure as run_command
from support.tuning import tuning_inputs

ARGUMENTS = ["--split", "lines", "--block-size", "16", "--batch-size", "4", "--learning-rate", "3e-3"]


@pytest.fixture
def inputs(tmp_path):
    return tuning_inputs(tmp_path)


def finetune(inputs, output, *arguments, data=None):
    given = data or inputs[0]
    return run_command("finetune", given, "--no-run", "--model", inputs[1], "--output", output, *arguments)


def test_the_plan_the_progress_the_change_and_the_next_command(inputs, tmp_path):
    done = finetune(inputs, tmp_path / "tuned", *ARGUMENTS, "--epochs", "2")
    assert done.returncode == 0, done.stderr
    for word in ("Model ", "Text ", "Split ", "Steps ", "Rate ", "Machine "):
        assert word in done.stderr
    assert "step 0: eval loss" in done.stderr
    assert "On held-out text" in done.stdout
    assert f"Next:   conjure generate --model {tmp_path / 'tuned'}" in done.stdout
    assert (tmp_path / "tuned" / "report.html").read_text("utf-8").startswith("<!doctype html>")
    assert "\r" not in done.stderr


def test_json_is_one_object(inputs, tmp_path):
    done = finetune(inputs, tmp_path / "tuned", *ARGUMENTS, "--epochs", "2", "--json")
    result = json.loads(done.stdout)
    assert result["loss_after"] < result["loss_before"]
    assert result["reason"] == "completed"
    assert result["plan"]["data"]["records"] == 40


def start(inputs, output, *arguments):
    return Started(*inputs, output, *arguments, module="support.tuning")


def wait_for(process, event):
    for line in process.stdout:
        if line.startswith(event):
            return
    raise AssertionError(f"it ended without {event}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_saves_and_says_how_to_go_on(inputs, tmp_path, number):
    output = tmp_path / "tuned"
    command = ["finetune", "--no-run", inputs[0], "--model", inputs[1], "--output", output, *ARGUMENTS]
    # Long enough that it would still be at it, were it not for the signal.
    process = Started(*command, "--epochs", "5000", "--patience", "0", "--eval-every", "100000")
    for line in process.stderr:
        if line.startswith("step 0"):
            break
    time.sleep(0.5)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == 128 + number
    assert "saving" in err
    assert "To resume: the same command with --resume" in out
    assert state_folder(output).is_dir()
    assert conjure.load(output).config.n_layer == 2


# An event after which the kill strikes: before the first save of a state, between saves, while one is likely.
@pytest.mark.parametrize("event", ["Saved 0", "SavePoint 5", "StepDone 17"])
def test_a_kill_leaves_a_loadable_checkpoint_and_training_goes_on(inputs, tmp_path, event):
    output = tmp_path / "tuned"
    process = start(inputs, output)
    wait_for(process, event)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert conjure.load(output).config.n_layer == 2
    saved_a_state = state_folder(output).exists()
    resumed = start(inputs, output, *(["--resume"] if saved_a_state else []))
    events = resumed.communicate()[0].splitlines()
    assert resumed.returncode == 0
    assert events[-1].startswith(("Finished", "Saved"))
    assert not state_folder(output).exists()


def test_a_cyrillic_text_comes_through_whole(tmp_path, inputs):
    text = Path(__file__).parents[2] / "examples" / "cyrillic" / "rasskazy.txt"
    done = finetune(inputs, tmp_path / "tuned", *ARGUMENTS, "--epochs", "1", data=text)
    assert done.returncode == 0, done.stderr
    assert "60 records" in done.stderr
    tuned = conjure.load(tmp_path / "tuned")
    original = text.read_text("utf-8")
    assert tuned.tokenizer.decode(tuned.tokenizer.encode(original)) == original
    score = run_command("score", text, "--split", "lines", "--model", tmp_path / "tuned", "--json")
    assert score.returncode == 0, score.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--epochs", "0"], 2, "--epochs must be above 0, not 0"),
        (["--learning-rate", "fast"], 2, "'fast' is neither a number nor auto"),
        (["--block-size", "4096"], 2, "--block-size is 4096; the model's context is 32 tokens"),
        (["--column", "Joke"], 2, "--column 'Joke' needs a table"),
        (["--freeze", "9"], 2, "--freeze is 9; the model has 2 blocks"),
        (["--resume"], 1, "there is no unfinished training"),
        (["--model", "no-such-model-anywhere"], 1, "no-such-model-anywhere"),
    ],
)
def test_a_mistake_gets_one_sentence_and_its_status(inputs, tmp_path, arguments, status, sentence):
    done = finetune(inputs, tmp_path / "tuned", "--split", "lines", *arguments)
    assert done.returncode == status
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_full_disk_is_one_sentence_before_any_training(inputs, tmp_path):
    occupied = tmp_path / "tuned"
    occupied.write_text("a file, where a folder should go")
    done = finetune(inputs, occupied, *ARGUMENTS)
    assert done.returncode == 1
    assert "is a file" in done.stderr
    assert "step 1 " not in done.stderr
