"""A fine-tune that goes on: with how many processes, on how many nodes."""

from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.errors import UsageError
from conjure.recipes.finetune_specs import resumed_spec
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import Ending, EndReason
from support.casting import OWNER, finish

WORDS = ("conjure", "finetune", "jokes.txt", "--distributed=2", "--epochs=3", "--nodes=3")
ON_NODES = RunSpec(WORDS, Path("/"), kind="finetune", distributed=2, nodes=3, on="gpu", labels=("jokes",))


@pytest.fixture
def home(tmp_path):
    """One with a fine-tune on three nodes that was stopped."""
    return home_with(tmp_path, ON_NODES)


def home_with(tmp_path, spec):
    """One with a fine-tune that was stopped."""
    home = Home(tmp_path / "home")
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


def test_a_trial_of_a_sweep_goes_on_with_its_values(tmp_path):
    words = ("conjure", "finetune", "jokes.txt", "--learning-rate=:learning-rate:")
    trial = RunSpec(words, Path("/"), kind="finetune", params={"learning-rate": "0.001"})
    spec = resumed_spec(home_with(tmp_path, trial), "runs/1")
    assert spec.command[2:] == ("jokes.txt", "--learning-rate=0.001", "--resume")


@pytest.mark.parametrize(
    ("withheld", "where"), [("command", "its command"), ("params.password", "params password")]
)
def test_a_fine_tune_with_a_secret_is_not_resumed(tmp_path, withheld, where):
    spec = RunSpec(WORDS, Path("/"), kind="finetune", withheld=(withheld,))
    with pytest.raises(UsageError, match=f"has a secret in {where}, "):
        resumed_spec(home_with(tmp_path, spec), "runs/1")
