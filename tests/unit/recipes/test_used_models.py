"""Which models runs used, and what is said where those are others now: after an upgrade, the embedded one."""

import json
from pathlib import Path

import pytest

from conjure.cli.language_model.finetune import refuse_changed_base
from conjure.cli.main import _run
from conjure.errors import UsageError
from conjure.lm.checkpoints import model_resolver
from conjure.lm.checkpoints.model_resolver import resolve_model
from conjure.python_api import Run
from conjure.recipes.changed_models import changed_models
from conjure.recipes.used_models import UsedModel, models_of_one_name, used_models
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.database.sweep_rows import TrialClaim
from conjure.runs.schema.record import CodeFacts, MountFacts
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.spec import CodeChoice, RunSpec
from conjure.sweeps.sweep import Sweep
from support.casting import OWNER, ending_runs
from support.models import tiny_checkpoint
from support.sweeps import grid
from support.web_sites import visiting


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Where the embedded models are; there is a small one."""
    monkeypatch.setattr(model_resolver, "_embedded_root", lambda: tmp_path / "models")
    tiny_checkpoint(tmp_path / "models" / "sprite")
    return tmp_path / "models"


@pytest.fixture
def store(home):
    with SqliteDatabase.open(home.create()) as store:
        yield store


def recorded(store, kind, outputs, *words, mounts=(), trial=None):
    """A run of conjure that left these outputs, as JSON; its number."""
    command = ("conjure", kind, *(words or ("--model", "sprite")))
    run = store.create_run(
        RunSpec(command=command, folder=Path("/"), kind=kind, code=CodeChoice(none=True)),
        OWNER,
        lambda number: store.home.run_folder(number).mkdir(parents=True),
        trial=trial,
    )
    store.set_facts(run.number, mounts=tuple(mounts))
    for name, content in outputs.items():
        path = RunFolder.of(store.home, run.number).outputs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return run.number


def used(store, number):
    return used_models(store.home, store.get(number))


def changes(store, number):
    return [changed.difference for changed in changed_models(store.home, store.get(number))]


def test_each_kind_of_run_tells_what_it_used(store):
    sample = {"text": "a", "model_sha256": "11"}
    generated = recorded(store, "generate", {"samples.json": [sample, sample]})
    scored = recorded(store, "score", {"score.json": {"model_sha256": "22"}})
    figures = [{"model_sha256": "33"}, {"model_sha256": "44"}]
    mount = MountFacts("runs/3/output", "model", read_only=True, source="runs/3/output")
    compared = recorded(
        store, "score", {"score.json": figures}, "--compare", "sprite", "model", mounts=[mount]
    )
    noted = {"base": {"name": "sprite", "sha256": "55"}, "conjure": "0.2.0"}
    tuned = recorded(store, "finetune", {"output/training.json": noted}, "jokes.csv", "--model", "sprite")
    stopped = recorded(store, "finetune", {"output.training/progress.json": noted})
    assert used(store, generated) == [UsedModel("sprite", mounted=False, sha256="11")]
    assert used(store, scored) == [UsedModel("sprite", mounted=False, sha256="22")]
    assert used(store, compared) == [
        UsedModel("sprite", mounted=False, sha256="33"),
        UsedModel("runs/3", mounted=True, sha256="44"),
    ]
    base = [UsedModel("sprite", mounted=False, sha256="55", made_by="0.2.0")]
    assert used(store, tuned) == used(store, stopped) == base
    mount = MountFacts("runs/3/output.adapter", "a", read_only=True, source="runs/3/output.adapter")
    words = ("--model", "sprite", "--adapter=a")
    merged = recorded(store, "generate", {"samples.json": [sample]}, *words, mounts=[mount])
    assert used(store, merged) == [UsedModel("sprite with runs/3/output.adapter", mounted=False, sha256="11")]


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        ("generate", {}),
        ("generate", {"samples.json": [{"text": "of 0.1"}]}),
        ("generate", {"samples.json": "not what we wrote"}),
        ("score", {"score.json": ["nor this"]}),
        ("finetune", {"output/training.json": {"settings": {}}}),
        ("finetune", {"output/training.json": {"base": "nor this"}}),
    ],
)
@pytest.mark.usefixtures("models")
def test_a_run_that_wrote_nothing_down_tells_nothing(store, kind, outputs):
    number = recorded(store, kind, outputs)
    assert used(store, number) == [UsedModel("sprite", mounted=False, sha256=None)]
    assert changes(store, number) == []


def test_other_commands_use_none(store):
    assert used(store, recorded(store, "command", {"score.json": {"model_sha256": "22"}})) == []


def test_an_embedded_model_that_an_upgrade_replaced_is_another(store, models):
    was = resolve_model("sprite").sha256
    number = recorded(store, "generate", {"samples.json": [{"model_sha256": was}]})
    assert changes(store, number) == []
    tiny_checkpoint(models / "sprite", seed=1)
    now = resolve_model("sprite").sha256
    assert changes(store, number) == [f"sprite {was[:8]}, but this is sprite {now[:8]}"]


@pytest.mark.parametrize(
    ("words", "mounts"),
    [
        (("--model", "sprite", "--adapter=a"), []),
        (("--model", "no such model"), []),
        (("--model", "m"), [MountFacts("runs/3/output", "m", read_only=True, source="runs/3/output")]),
    ],
)
@pytest.mark.usefixtures("models")
def test_nothing_is_said_where_it_cannot_be_told(store, words, mounts):
    outputs = {"samples.json": [{"model_sha256": "11"}]}
    assert changes(store, recorded(store, "generate", outputs, *words, mounts=mounts)) == []


def test_a_tuned_model_of_an_earlier_version_tells_its_base_by_the_shape(store, models):
    number = recorded(store, "finetune", {})
    folder = RunFolder.of(store.home, number).outputs / "output"
    tiny_checkpoint(folder, seed=4)
    (folder / "training.json").write_text(json.dumps({"conjure": "0.1.0"}))
    assert changes(store, number) == []
    tiny_checkpoint(models / "sprite", n_layer=1)
    (change,) = changes(store, number)
    assert change.startswith("a model with another shape than sprite ")
    with pytest.raises(UsageError, match=rf"run {number} started from a model with another shape") as refused:
        refuse_changed_base(f"runs/{number}")
    assert refused.value.hint == f"install conjure 0.1.0, or start again: conjure rerun {number}"


def test_runs_that_used_different_models_of_one_name(store):
    def tuned(digest):
        return store.get(recorded(store, "finetune", {"output/training.json": {"base": {"sha256": digest}}}))

    old, new, again, older = tuned("11"), tuned("22"), tuned("11"), tuned(None)
    digests = {old.number: "11", new.number: "22", again.number: "11"}
    assert models_of_one_name(store.home, [old, new, again, older]) == {"sprite": digests}
    assert models_of_one_name(store.home, [old, again, older]) == {}


def scored_with_another_model(store):
    """A run that used another model than the one there is, and that can be repeated."""
    number = recorded(store, "score", {"score.json": {"model_sha256": "11" * 32}})
    store.set_facts(number, code=CodeFacts(tree=""))
    return number


@pytest.mark.usefixtures("models")
def test_a_rerun_on_the_command_line_says_so(store, capsys):
    number = recorded(store, "score", {"score.json": {"model_sha256": "11" * 32}})
    assert _run(["rerun", str(number)]) == 125  # its code was not recorded
    said = capsys.readouterr().err
    assert said.startswith(f"This is not the model of run {number}: that run used sprite 11111111, but this")


@pytest.mark.usefixtures("models")
def test_a_rerun_in_python_warns_of_it_where_it_is_called(store):
    number = recorded(store, "score", {"score.json": {"model_sha256": "11" * 32}})
    with (
        pytest.warns(UserWarning, match=rf"not the model of run {number}: .* used sprite 1{{8}}") as said,
        pytest.raises(UsageError, match="its code was not recorded"),
    ):
        Run(store.home, number).rerun()
    assert said[0].filename == __file__


@pytest.mark.usefixtures("models")
def test_a_rerun_in_the_page_says_so(store):
    number = scored_with_another_model(store)
    with ending_runs(store.home), visiting(store.home.root, allow_actions=True) as visitor:
        answer = visitor.post("/actions", {"action": "rerun", "runs": [number]})
    assert answer.json["runs"] == [number + 1]
    (note,) = answer.json["notes"]
    assert note.startswith(f"This is not the model of run {number}: that run used sprite 11111111, but this")


@pytest.mark.usefixtures("models")
def test_a_sweep_gets_no_trials_with_another_model(store, capsys):
    request = grid(2, ("conjure", "generate", "--model", "sprite", "--seed=:x:"))
    number = store.create_sweep(request.to_dict(), trials=2, parallel=1, rung_metric=None)
    outputs = {"samples.json": [{"model_sha256": "11" * 32}]}
    recorded(store, "generate", outputs, trial=TrialClaim(number, 0, 1, {"x": "0"}))
    assert _run(["sweep", "resume", str(number)]) == 2
    said, now = capsys.readouterr().err, resolve_model("sprite").sha256[:8]
    assert f"sweep {number} used sprite 11111111, but this is sprite {now};" in said
    assert "trials with both could not be compared" in said
    with pytest.raises(UsageError, match=f"sweep {number} used sprite 11111111"):
        Sweep(store.home, number).resume()


def test_info_shows_the_digest(store, capsys):
    number = recorded(store, "generate", {"samples.json": [{"model_sha256": "11" * 32}]})
    older = recorded(store, "generate", {"samples.json": [{}]})
    assert _run(["info", str(number)]) == 0
    assert f"sprite, weights sha256 {'11' * 32}" in capsys.readouterr().out
    assert _run(["info", str(number), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == [{"name": "sprite", "sha256": "11" * 32}]
    assert _run(["info", str(older)]) == 0
    assert "sha256" not in capsys.readouterr().out
