"""A fine-tune that goes on: with how many processes, on how many nodes."""

from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.recipes.finetune_specs import resumed_spec
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import Ending, EndReason
from support.casting import OWNER, finish

WORDS = ("conjure", "finetune", "jokes.txt", "--distributed=2", "--epochs=3", "--nodes=3")


@pytest.fixture
def home(tmp_path):
    """One with a fine-tune on three nodes that was stopped."""
    home = Home(tmp_path / "home")
    spec = RunSpec(WORDS, Path("/"), kind="finetune", distributed=2, nodes=3, on="gpu", labels=("jokes",))
    with SqliteDatabase.open(home) as store:
        number = store.create_run(
            spec, OWNER, lambda number: (home.runs / str(number)).mkdir(parents=True)
        ).number
        finish(store, number, Ending(EndReason.STOP_REQUESTED))
    (RunFolder.of(home, number).outputs / "output.training").mkdir(parents=True)
    return home


@pytest.mark.parametrize(
    ("given", "distributed", "nodes"),
    [
        ({}, 2, 3),
        ({"nodes": 4}, 2, 4),
        ({"distributed": 8}, 8, None),  # of another machine, whatever the cluster had
        ({"distributed": 8, "nodes": 2}, 8, 2),
    ],
)
def test_a_resumed_fine_tune_has_the_processes_it_had_or_is_given(home, given, distributed, nodes):
    spec = resumed_spec(home, "runs/1", **given)
    assert (spec.distributed, spec.nodes) == (distributed, nodes)
    places = [f"--distributed={distributed}", *([f"--nodes={nodes}"] if nodes is not None else [])]
    assert spec.command[2:] == ("jokes.txt", "--epochs=3", *places, "--resume")


def test_a_resumed_fine_tune_is_described_and_labelled_as_asked(home):
    spec = resumed_spec(home, "runs/1", description="better", labels=["best"])
    assert (spec.description, spec.labels) == ("better", ("best",))
    spec = resumed_spec(home, "runs/1")
    assert (spec.description, spec.labels) == ("resumed from run 1", ("jokes",))
