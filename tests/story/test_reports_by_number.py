"""Reports by run number: a model that learned nothing, and several fine-tunes compared."""

import json

import pytest

from conjure.core.home import Home
from conjure.errors import NotFoundError, UsageError
from conjure.recipes.comparison_inputs import base_trainings, tuned_models
from conjure.recipes.report import learned_nothing
from conjure.runs.lifecycle.open_store import open_store
from support.terminal import conjure
from support.tuning import tuning_inputs

SETTINGS = ["--split", "lines", "--block-size", "16", "--batch-size", "4", "--sample-every", "0"]


def run(*arguments, status=0):
    done = conjure(*map(str, arguments))
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture
def tuned(tmp_path):
    """Tunes the tiny model on a text in a run."""
    text, base = tuning_inputs(tmp_path)

    def tune(*options):
        done = run("finetune", text, "--model", base, *SETTINGS, *options)
        return done.stdout + done.stderr

    return tune


def test_where_nothing_was_learned_nobody_congratulates(tuned):
    shown = tuned("--learning-rate", "1", "--max-steps", "2", "--schedule", "constant")
    assert "Run 1 complete" in shown
    assert "🎉" not in shown
    report = run("report", "1").stdout
    assert "Nothing was learned: the result is the base model, unchanged." in report
    assert "✔" not in report


def test_fine_tunes_are_compared_by_number(tuned, tmp_path):
    assert "🎉" in tuned("--learning-rate", "3e-3", "--epochs", "2")
    tuned("--learning-rate", "1e-3", "--epochs", "1")
    run("run", "true")
    home = Home.from_environment()
    with open_store(home) as store:
        assert not learned_nothing(home, store.get(1))

    models = tuned_models(home, ["1", "runs/2"])
    assert [model.run for model in models] == [1, 2]
    assert all(len(model.trainings) == 1 and model.trainings[0].data for model in models)
    with pytest.raises(UsageError, match="run 1 is named twice"):
        tuned_models(home, ["1", "runs/1"])
    with pytest.raises(NotFoundError, match="run 3 has no tuned model"):
        tuned_models(home, ["1", "3"])
    with pytest.raises(UsageError, match="nothing-here is not a run"):
        tuned_models(home, ["1", "nothing-here"])

    page = tmp_path / "compared.html"
    shown = run("report", "1", "2", "--output", page).stdout
    compared = json.loads(run("report", "1", "2", "--json").stdout)
    assert [one["run"] for one in compared["runs"]] == [1, 2]
    assert compared["headline"] in shown
    assert compared["headline"] in page.read_text("utf-8")
    assert 0 < compared["scored"] <= compared["candidates"]


def test_what_the_base_was_trained_on_is_not_called_unseen(tuned, tmp_path):
    tuned("--max-steps", "2", "--holdout", "0.1")
    text = tmp_path / "jokes.txt"
    options = [*SETTINGS, "--max-steps", "2", "--eval-every", "1", "--holdout", "0.5"]
    run("finetune", text, "--model", "runs/1", *options)
    facts = json.loads(run("report", "2", "--json").stdout)["held_out_facts"]
    assert facts["base_files"] == []
    assert 0 < facts["seen_by_base"] == facts["records"] - facts["scored_records"]

    home = Home.from_environment()
    (training,) = base_trainings(home, "runs/1")
    assert training == tuned_models(home, ["1"])[0].trainings[0]
    assert base_trainings(home, "sprite") == base_trainings(home, "runs/99") == ()
