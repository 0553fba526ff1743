"""The fine-tunes to compare, where what one was trained on can no longer be read."""

import pytest

from conjure.errors import CheckpointError
from conjure.recipes.comparison_inputs import tuned_models
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
