"""Names of models and data in Python mean what they mean on the command line."""

from typing import Any

import pytest

import conjure
from conjure.errors import NotFoundError
from conjure.recipes import model_api
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import Ending, EndReason
from support.casting import add_run, finish
from support.tuning import OPTIONS, tuning_inputs


@pytest.fixture
def data(home, tmp_path):
    """A file and a model to train on; and run 1, whose output is `held.txt`."""
    with SqliteDatabase.open(home.create()) as store:
        number = add_run(store).number
        finish(store, number, Ending(EndReason.COMPLETED, exit_code=0))
    outputs = RunFolder.of(home, number).outputs
    outputs.mkdir()
    (outputs / "held.txt").write_text("A cow.\nTwo cows.\nThree cows.\n")
    return tuning_inputs(tmp_path)


@pytest.mark.usefixtures("short_reports")
def test_a_fine_tune_is_measured_on_a_file_of_a_run(data, tmp_path):
    text, model = data
    output = tmp_path / "tuned"
    options = {**OPTIONS, "split": "lines", "max_steps": 1}
    result = conjure.finetune(text, model=model, output=output, validation="runs/1/held.txt", **options)
    assert result.held_out is not None
    assert result.held_out.records == 3


def test_an_adapter_of_a_run_is_looked_for_in_the_run(data, tmp_path):
    text, model = data
    with pytest.raises(NotFoundError, match=r"runs/1/output\.adapter does not exist"):
        conjure.finetune(text, model=model, output=tmp_path / "tuned", adapter="runs/1/output.adapter")


def test_what_the_base_was_trained_on_is_passed_on(home, tmp_path, monkeypatch):
    known = {(home, "runs/3"): ("its trainings",)}
    asked: dict[str, Any] = {}
    monkeypatch.setattr(model_api, "base_trainings", lambda *place: known[place])
    monkeypatch.setattr(model_api.tuning, "finetune", lambda _, **options: asked.update(options))
    conjure.finetune("jokes.txt", model="runs/3", output=tmp_path / "tuned")
    assert asked["base_trainings"] == ("its trainings",)
