"""Language-model work recorded as runs from Python: the same runs as from the command line."""

import json
import os
import signal

import pytest

from conjure.errors import NotFoundError, UsageError
from conjure.runs.schema.run_folder import RunFolder
from support.casting import supervisor_of, wait_until
from support.models import tiny_checkpoint
from support.texts import ONE_LINERS
from support.tuning import OPTIONS, tuning_inputs

pytestmark = pytest.mark.slow


def test_a_fine_tune_then_samples_and_a_score_of_its_model(client, folder, tmp_path):
    (folder / "jokes.txt").write_text("\n".join(ONE_LINERS) + "\n")
    model = tiny_checkpoint(tmp_path / "base")
    tuned = client.finetune(
        "jokes.txt",
        model=model,
        split="lines",
        epochs=1,
        block_size=16,
        sample_every=0,
        labels=["jokes"],
        description="tiny",
    ).wait(check=True)
    record = tuned.record
    assert (record.spec.kind, record.labels, record.spec.description) == ("finetune", ("jokes",), "tiny")
    assert "--epochs=1" in record.spec.command
    assert tuned.metrics()["held_out_loss"].points == 1

    name = f"runs/{tuned.number}"
    samples = client.generate("My", model=name, num_samples=2, max_new_tokens=3, seed=1)
    scored = client.score("My dog", model=name)
    assert samples.wait(check=True).record.mounts[0].source_run == tuned.number
    samples.cp("samples.json", "samples")
    assert [one["prompt"] for one in json.loads((folder / "samples/samples.json").read_text())] == [
        "My",
        "My",
    ]
    scored.wait(check=True).cp("score.json", "scored")
    assert json.loads((folder / "scored/score.json").read_text())["tokens"] > 0


def test_a_fine_tune_goes_on_from_its_last_save_and_repeats_its_losses(client, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, model = tuning_inputs(tmp_path)
    options = OPTIONS | {"eval_every": 14, "save_every": 10, "split": "lines"}
    unbroken = client.finetune(data, model=model, **options)
    unbroken.wait(check=True)
    struck = client.finetune(data, model=model, run={"retry": 1}, **options)
    folder = RunFolder(client.home.run_folder(struck.number))
    wait_until((folder.work / "output.training").is_dir, "the first save")
    os.kill(supervisor_of(struck).pid, signal.SIGKILL)
    struck.wait(check=True)
    assert [each.end_reason for each in struck.record.attempts] == ["supervisor_died"]
    first, second = (curves(run) for run in (unbroken, struck))
    assert second == first
    for name in ("loss", "eval_loss", "grad_norm"):
        assert values(struck, name) == values(unbroken, name)


def test_a_fine_tune_lost_before_its_first_save_starts_anew_and_reports_each_step_once(client, tmp_path):
    data, model = tuning_inputs(tmp_path)
    lost = client.finetune(
        data, model=model, run={"retry": 1}, **OPTIONS | {"epochs": 2, "save_every": 0, "split": "lines"}
    )
    folder = RunFolder(client.home.run_folder(lost.number))
    wait_until((folder.work / "output").is_dir, "the first checkpoint, which training cannot go on from")
    os.kill(supervisor_of(lost).pid, signal.SIGKILL)
    lost.wait(check=True)
    assert [each.end_reason for each in lost.record.attempts] == ["supervisor_died"]
    for name in ("loss", "eval_loss"):
        steps = [step for step, _ in values(lost, name)]
        assert steps == sorted(set(steps))


def curves(run):
    """The losses that a run's checkpoint tells."""
    stored = json.loads(
        (RunFolder(run.home.run_folder(run.number)).outputs / "output/training.json").read_text()
    )
    return stored["history"]["train"], stored["history"]["held_out"], stored["step"]


def values(run, name):
    return [(point.step, point.value) for point in run.metrics(name)]


def test_nothing_gets_a_number_that_cannot_be_done(client, tmp_path):
    with pytest.raises(NotFoundError):
        client.finetune(tmp_path / "missing.csv")
    with pytest.raises(UsageError, match="epochs must be above 0, not -1"):
        client.finetune(__file__, epochs=-1)
    with pytest.raises(UsageError, match="either a text or files"):
        client.score()
    assert client.runs() == []
