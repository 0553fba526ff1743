"""What is kept of a training that was cut off, and what of the folder that it writes to."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

import conjure
from conjure.errors import CheckpointError, ConflictError, UsageError
from conjure.lm.checkpoints.model_resolver import resolve_model
from conjure.lm.training import finetune as module
from conjure.lm.training.events import Evaluated, Finished, Saved, StepDone
from conjure.lm.training.finetune import finetune, train
from conjure.lm.training.preparation import prepare
from conjure.lm.training.request import FinetuneRequest
from conjure.lm.training.state import state_folder
from support.tuning import OPTIONS, tuning_inputs

pytestmark = pytest.mark.slow  # each trains a model


@pytest.fixture
def inputs(tmp_path, short_reports):
    return tuning_inputs(tmp_path)


@pytest.fixture
def request_to(inputs):
    data, model = inputs

    def make(output, **changes):
        return FinetuneRequest(
            data=[data], model=model, output=output, split="lines", **{**OPTIONS, **changes}
        )

    return make


def tune(request):
    """Run a request to its end; the result and every event."""
    events = []
    options = {name: value for name, value in vars_of(request).items() if name not in ("data", "output")}
    return finetune(request.data, output=request.output, on_event=events.append, **options), events


def vars_of(request):
    return {name: getattr(request, name) for name in request.__dataclass_fields__}


def stop_after(request, step):
    """Train until so many steps are made, as a ^C does."""
    events = []
    prepared = prepare(request)
    events.extend(
        train(prepared, should_stop=lambda: any(isinstance(e, StepDone) and e.step == step for e in events))
    )
    return events


def training_of(folder):
    return json.loads((folder / "training.json").read_text())


def forget_which_records(request):
    """Make a state look like one of 0.1.0, which did not say what it was trained on."""
    progress = state_folder(request.output) / "progress.json"
    facts = json.loads(progress.read_text())
    del facts["agreement"]["train_sha256"], facts["conjure"]
    progress.write_text(json.dumps(facts))


def set_best_loss(request, loss):
    progress = state_folder(request.output) / "progress.json"
    facts = json.loads(progress.read_text())
    assert facts["progress"]["best_step"] == 10
    facts["progress"]["best_loss"] = loss
    progress.write_text(json.dumps(facts))


def same_weights(one, other):
    one, other = (conjure.load(folder).model.state_dict() for folder in (one, other))
    return all(torch.equal(weight, other[name]) for name, weight in one.items())


@pytest.mark.parametrize(
    ("reason", "options"),
    [("completed", {}), ("early_stop", {"patience": 1, "learning_rate": 0.3, "eval_every": 1})],
)
def test_a_training_that_fails_while_it_is_measured_is_measured_on_resume(
    request_to, tmp_path, monkeypatch, reason, options
):
    whole, _ = tune(request_to(tmp_path / "whole", **options))
    request = request_to(tmp_path / "cut", **options)

    def fail(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(module, "measure", fail)
        with pytest.raises(MemoryError):
            tune(request)
    assert state_folder(request.output).is_dir()
    result, events = tune(replace(request, resume=True))
    assert events == [Finished(whole.steps, reason)]
    assert (result.reason, result.loss_after, result.best_step) == (reason, whole.loss_after, whole.best_step)
    assert (request.output / "report.json").is_file()
    assert not state_folder(request.output).exists()


def test_a_state_that_cannot_be_saved_at_the_end_does_not_lose_the_report(request_to, tmp_path, monkeypatch):
    def fail(*_):
        raise CheckpointError("the disk is full")

    monkeypatch.setattr(module, "save_training_state", fail)
    result, _ = tune(request_to(tmp_path / "out", save_every=0))
    assert result.loss_after < result.loss_before
    assert (tmp_path / "out" / "report.json").is_file()


def test_without_the_best_checkpoint_a_resumed_training_still_saves_one(request_to, tmp_path):
    request = request_to(tmp_path / "out")
    stop_after(request, 13)
    shutil.rmtree(request.output)
    set_best_loss(request, 0.1)  # less than what comes later
    result, after = tune(replace(request, resume=True))
    evaluated = [event for event in after if isinstance(event, Evaluated)]
    assert evaluated[0].step == 13
    kept = training_of(request.output)
    assert (kept["step"], kept["eval_loss"]) == min(
        ((event.step, event.loss) for event in evaluated), key=lambda each: each[1]
    )
    assert result.best_step == kept["step"]


def test_a_checkpoint_that_a_later_start_replaced_is_bettered_again(request_to, tmp_path):
    request = request_to(tmp_path / "out")
    stop_after(replace(request, output=tmp_path / "other"), 1)
    stop_after(request, 13)
    assert training_of(request.output)["step"] == 10
    set_best_loss(request, 0.1)
    shutil.rmtree(request.output)
    shutil.copytree(tmp_path / "other", request.output)  # the base, as it was evaluated at step 0
    result, _ = tune(replace(request, resume=True))
    assert result.best_step == training_of(request.output)["step"] > 13


def test_a_checkpoint_saved_after_the_state_changes_nothing(request_to, tmp_path):
    unbroken = tune(request_to(tmp_path / "unbroken", patience=2))[1]
    request = request_to(tmp_path / "out", patience=2)
    stop_after(request, 8)
    older = tmp_path / "older"
    shutil.copytree(state_folder(request.output), older)
    stop_after(replace(request, resume=True), 12)
    assert training_of(request.output)["step"] == 10
    shutil.rmtree(state_folder(request.output))
    shutil.copytree(older, state_folder(request.output))
    _, events = tune(replace(request, resume=True))
    kinds = (Evaluated, Saved)
    assert [e for e in events if isinstance(e, kinds)] == [
        e for e in unbroken if isinstance(e, kinds) and e.step > 8
    ]


def test_a_start_over_an_unfinished_training_is_refused(request_to, tmp_path):
    request = request_to(tmp_path / "out")
    stop_after(request, 3)
    with pytest.raises(UsageError, match="there is an unfinished training in") as refused:
        prepare(request)
    assert refused.value.hint == "add resume=True to continue it, or remove that folder to start again"
    prepare(request, writes=False)
    shutil.rmtree(state_folder(request.output))
    prepare(request)


def test_the_folder_of_the_model_is_no_output(request_to, tmp_path, inputs):
    link = tmp_path / "link"
    link.symlink_to(inputs[1])
    before = resolve_model(inputs[1]).sha256
    for output in (inputs[1], link):
        with pytest.raises(UsageError, match="output is the folder of the model"):
            tune(request_to(output))
    assert resolve_model(inputs[1]).sha256 == before


def test_a_finished_checkpoint_is_not_replaced_by_the_untuned_model(request_to, tmp_path):
    output = tmp_path / "out"
    tune(request_to(output))
    kept = tmp_path / "kept"
    shutil.copytree(output, kept)
    events = stop_after(request_to(output, seed=1), 3)
    assert isinstance(events[-2], Finished)
    assert not any(isinstance(event, Saved) for event in events)
    assert same_weights(output, kept)
    result, events = tune(request_to(output, seed=1, resume=True))
    assert next(event for event in events if isinstance(event, Saved)).step == 10
    assert training_of(output)["settings"]["seed"] == 1
    assert result.best_step == training_of(output)["step"]


@pytest.mark.parametrize("lora", [None, 2])
def test_where_nothing_is_learned_the_result_is_the_base_in_the_end(request_to, tmp_path, lora):
    tune(request_to(tmp_path / "good"))
    options = {"lora": lora, "lora_output": "merged" if lora is None else "adapter"}
    output = tmp_path / "out"
    tune(request_to(output, seed=1, **options))
    request = request_to(output, max_steps=4, eval_every=1, learning_rate=1.0, **options)
    result, events = tune(replace(request, model=tmp_path / "good"))
    assert [event.step for event in events if isinstance(event, Saved)] == [0]
    assert (result.best_step, training_of(output)["step"]) == (0, 0)
    assert result.loss_after == result.loss_before
    assert same_weights(output, tmp_path / "good")
    if lora is not None:
        adapted = conjure.load(tmp_path / "good", adapter=tmp_path / "out.adapter").model.state_dict()
        base = conjure.load(tmp_path / "good").model.state_dict()
        assert all(torch.equal(weight, base[name]) for name, weight in adapted.items())


def test_an_output_that_cannot_be_written_is_refused_before_any_step(request_to, tmp_path):
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "thesis.txt").write_text("mine")
    with pytest.raises(ConflictError, match=r"which also contains 'thesis\.txt'"):
        prepare(request_to(occupied, holdout=0))
    with pytest.raises(CheckpointError, match=r"thesis\.txt is not a folder"):
        prepare(request_to(occupied / "thesis.txt" / "below" / "out", holdout=0))
    prepare(request_to(tmp_path / "new" / "below" / "out", holdout=0))
    assert not (tmp_path / "new").exists()


def test_an_output_in_a_folder_without_permission_is_refused(request_to, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: str(path) != str(tmp_path))
    with pytest.raises(CheckpointError, match=f"{tmp_path} is not writable"):
        prepare(request_to(tmp_path / "new" / "out", holdout=0))


def test_a_training_of_0_1_goes_on_where_it_was_on_the_same_records(request_to, tmp_path):
    request = request_to(tmp_path / "out")
    stop_after(request, 3)
    forget_which_records(request)
    assert tune(replace(request, resume=True))[0].reason == "completed"


def test_a_training_on_other_records_is_not_resumed(request_to, tmp_path, inputs):
    lines = inputs[0].read_text()
    inputs[0].write_text(lines * 2)  # of which 0.1.0 dropped none
    request = request_to(tmp_path / "out")
    stop_after(request, 3)
    prepared = prepare(replace(request, resume=True))
    forget_which_records(request)
    with pytest.raises(UsageError, match="the interrupted training was on other records") as refused:
        next(train(prepared))
    assert refused.value.hint == "install conjure 0.1.0 to continue it, or omit resume to start again"


def test_an_interrupted_training_without_held_out_text_leaves_a_model(request_to, tmp_path):
    request = request_to(tmp_path / "tuned", holdout=0)
    stop_after(request, 3)
    assert training_of(request.output)["step"] == 3
    conjure.load(request.output)
    _, events = tune(replace(request, resume=True))
    assert next(event.step for event in events if isinstance(event, StepDone)) == 4


def test_the_rate_is_the_one_it_began_with_whatever_checkpoint_is_there(request_to, tmp_path):
    tune(request_to(tmp_path / "tuned", learning_rate=1e-5))
    request = request_to(tmp_path / "tuned", learning_rate=None, seed=7)
    stop_after(request, 3)
    begun = prepare(replace(request, output=tmp_path / "other")).plan.learning_rate
    assert prepare(replace(request, resume=True)).plan.learning_rate == begun != 1e-5


def test_an_unfinished_training_of_0_1_keeps_the_rate_of_that_version(request_to, tmp_path):
    request = request_to(tmp_path / "tuned", learning_rate=None)
    stop_after(request, 3)
    progress = state_folder(request.output) / "progress.json"
    facts = json.loads(progress.read_text())
    del facts["learning_rate"]
    progress.write_text(json.dumps(facts))
    plan = prepare(replace(request, resume=True)).plan
    assert plan.learning_rate == pytest.approx(1e-3 * (plan.parameters / 1e7) ** -0.3, rel=0.05)


def test_dropout_of_one_training_is_not_the_default_of_the_next(request_to, tmp_path):
    result, _ = tune(request_to(tmp_path / "tuned", dropout=0.3, attention_dropout=0.2))
    again = prepare(replace(request_to(tmp_path / "again"), model=result.checkpoint))
    config = again.model.config
    assert (config.embedding_dropout, config.residual_dropout, config.attention_dropout) == (0.0, 0.0, 0.0)
