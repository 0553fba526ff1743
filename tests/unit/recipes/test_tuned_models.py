"""The models that runs have tuned, as a registry."""

from conjure.core.home import Home
from conjure.recipes.tuned_models import tuned_models
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.schema.record import MountFacts
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import RunStatus
from conjure.runs.telemetry.metrics import Summary
from support.casting import add_run, advance
from support.models import tiny_checkpoint


def _mount(resource, target):
    return MountFacts(resource=resource, target=target, read_only=True, source=resource)


def _tune(store, *, mounts=(), loss=None):
    """A fine-tune whose model is there; its number."""
    run = add_run(store, "conjure", kind="finetune")
    advance(store, run.number, RunStatus.RUNNING)
    store.set_facts(run.number, mounts=tuple(mounts))
    folder = RunFolder(store.home.run_folder(run.number)).outputs / "output"
    folder.parent.mkdir(parents=True)
    tiny_checkpoint(folder)
    if loss is not None:
        store.set_summaries(run.number, [Summary("held_out_loss", 1, 5, loss, loss, loss)])
    return run.number


def test_without_a_home_there_are_none(tmp_path):
    assert list(tuned_models(Home(tmp_path / "none"))) == []


def test_each_says_what_it_was_tuned_on_and_its_links(tmp_path):
    with SqliteDatabase.open(Home(tmp_path / "home").create()) as store:
        add_run(store, "true")
        add_run(store, "conjure", kind="finetune")  # which saved nothing
        number = _tune(
            store,
            mounts=[_mount("datasets/1/jokes.csv", "jokes.csv"), _mount("runs/9/output", "model")],
            loss=3.25,
        )
        store.set_link("jokes", f"runs/{number}")
        store.set_link("other", "runs/1")
        (model,) = tuned_models(store.home)
    assert (model.name, model.base, model.data) == (f"runs/{number}", "runs/9", ("jokes.csv",))
    assert (model.held_out_loss, model.links) == (3.25, ("jokes",))
