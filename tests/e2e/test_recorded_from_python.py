"""Language-model work recorded as runs from Python: the same runs as from the command line."""

import json

import pytest

from conjure.errors import NotFoundError, UsageError
from support.models import tiny_checkpoint
from support.texts import ONE_LINERS

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


def test_nothing_gets_a_number_that_cannot_be_done(client, tmp_path):
    with pytest.raises(NotFoundError):
        client.finetune(tmp_path / "missing.csv")
    with pytest.raises(UsageError, match="epochs is -1"):
        client.finetune(__file__, epochs=-1)
    with pytest.raises(UsageError, match="either a text or files"):
        client.score()
    assert client.runs() == []
