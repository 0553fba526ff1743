"""The fine-tunes to compare, where what one was trained on can no longer be read."""

import pytest

from conjure.errors import CheckpointError, NotFoundError
from conjure.recipes.comparison_inputs import tuned_models
from conjure.recipes.resource_lookup import is_resource
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import Ending, EndReason
from support.casting import add_run, finish


@pytest.mark.parametrize("content", ['{"settings"', "[]", '{"settings": "fast"}', "{}"])
def test_a_damaged_training_file_is_one_sentence(home, content):
    with SqliteDatabase.open(home.create()) as store:
        run = add_run(store, "conjure", kind="finetune")
        finish(store, run.number, Ending(EndReason.COMPLETED, 0))
    folder = RunFolder.of(home, run.number).outputs / "output"
    folder.mkdir(parents=True)
    (folder / "training.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"run 1 cannot be compared: output/training\.json,") as refused:
        tuned_models(home, ["1"])
    assert refused.value.fix == "conjure verify 1"


@pytest.mark.parametrize("name", ["2", "#2", "runs/2", "last", "last~0", "runs/last"])
def test_a_run_is_named_as_everywhere(home, name):
    with SqliteDatabase.open(home.create()) as store:
        for _ in range(2):
            finish(store, add_run(store).number, Ending(EndReason.COMPLETED, 0))
        RunFolder.of(home, 2).outputs.mkdir(parents=True)
    with pytest.raises(NotFoundError, match="run 2 has no tuned model"):
        tuned_models(home, [name])


@pytest.mark.parametrize(("has_runs", "expected"), [(True, True), (False, False)])
def test_last_is_a_resource_where_there_are_runs(home, has_runs, expected):
    if has_runs:
        SqliteDatabase.open(home.create()).close()
    assert [is_resource(home, name) for name in ("last", "last~1/data.txt", "lasting", "./last")] == [
        expected,
        expected,
        False,
        False,
    ]
