import json
import math
import shutil
from dataclasses import replace

import pytest
import torch

import conjure
from conjure.cli.language_model.training_view import plan_lines
from conjure.errors import CheckpointError, TrainingError, UsageError
from conjure.lm.checkpoints.adapters import apply_adapter
from conjure.lm.checkpoints.model_resolver import resolve_model
from conjure.lm.report.report_schema import report_from_json
from conjure.lm.training import preparation
from conjure.lm.training.distributed.process_group import ProcessGroup
from conjure.lm.training.events import Evaluated, Finished, Sampled, Saved, SavePoint, StepDone
from conjure.lm.training.finetune import FinetuneResult, _save_state, finetune, make_trainer, train
from conjure.lm.training.history import History, Trained
from conjure.lm.training.preparation import prepare
from conjure.lm.training.request import FinetuneRequest
from conjure.lm.training.state import load_training_facts, state_folder
from conjure.recipes import metrics
from support.models import tiny_checkpoint
from support.tuning import OPTIONS, tuning_inputs

pytestmark = pytest.mark.slow  # each trains a model


@pytest.fixture
def inputs(tmp_path, short_reports):
    return tuning_inputs(tmp_path)


def tune(inputs, output, **changes):
    """Fine-tune with small settings; returns the result and every event."""
    data, model = inputs
    events = []
    options = {**OPTIONS, "split": "lines", **changes}
    result = finetune(data, model=model, output=output, on_event=events.append, **options)
    return result, events


def loss_curve(events):
    return [
        (type(event).__name__, event.step, event.loss)
        for event in events
        if isinstance(event, StepDone | Evaluated)
    ]


def test_it_lowers_the_held_out_loss_and_leaves_a_checkpoint(inputs, tmp_path):
    result, events = tune(inputs, tmp_path / "tuned")
    assert result.loss_after < result.loss_before
    assert result.reason == "completed"
    assert events[-1] == Finished(result.steps, "completed") or isinstance(events[-1], Saved)
    tuned = conjure.load(result.checkpoint)
    assert tuned.generate("My", max_new_tokens=3, seed=1)[0].token_ids
    assert not state_folder(result.checkpoint).exists()
    training = json.loads((result.checkpoint / "training.json").read_text())
    assert training["settings"]["epochs"] == 4
    assert (result.checkpoint / "README.md").read_text().startswith("---\n")


def test_settings_that_were_left_open_are_told_as_they_were_decided(inputs, tmp_path):
    model = tiny_checkpoint(tmp_path / "dropped", embd_pdrop=0.1, resid_pdrop=0.1)
    opened = {"learning_rate": None, "block_size": None, "batch_size": 1000, "grad_accumulation": 2}
    opened |= {"eval_every": None, "save_every": None, "sample_every": None}
    result, _ = tune((inputs[0], model), tmp_path / "tuned", **opened, max_steps=1)
    plan = result.plan
    decided = {
        "learning_rate": plan.learning_rate,
        "dropout": 0.1,
        "mask_records": False,
        "block_size": plan.block_size,
        "batch_size": plan.blocks,
        "grad_accumulation": 2,
        "blocks_per_step": plan.blocks,
        "eval_every": 1,
        "save_every": 1,
        "sample_every": 1,
    }
    for name in ("training.json", "report.json"):
        settings = json.loads((result.checkpoint / name).read_text())["settings"]
        assert {each: settings[each] for each in decided} == decided, name
    assert '<th scope="row">dropout</th><td>0.1</td>' in (result.checkpoint / "report.html").read_text()


def test_the_best_weights_are_kept_not_the_last(inputs, tmp_path):
    result, events = tune(inputs, tmp_path / "tuned", learning_rate=0.3, epochs=8, eval_every=1)
    best = min((event for event in events if isinstance(event, Evaluated)), key=lambda event: event.loss)
    assert result.best_step == best.step < result.steps
    saved = [event.step for event in events if isinstance(event, Saved)]
    assert saved[-1] == best.step


def test_a_base_that_cannot_be_bettered_is_kept_as_it_is(inputs, tmp_path):
    good, _ = tune(inputs, tmp_path / "good")
    inputs = (inputs[0], good.checkpoint)
    result, events = tune(inputs, tmp_path / "tuned", learning_rate=1.0, max_steps=4, eval_every=1)
    assert result.best_step == 0
    assert [event.step for event in events if isinstance(event, Saved)] == [0]
    base, tuned = conjure.load(good.checkpoint).model, conjure.load(result.checkpoint).model
    assert all(torch.equal(one, tuned.state_dict()[name]) for name, one in base.state_dict().items())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_stopped_and_resumed_equals_unbroken(inputs, tmp_path, precision):
    options = {"precision": precision, "dropout": 0.1}
    unbroken, events = tune(inputs, tmp_path / "unbroken", **options)
    data, model = inputs
    request = FinetuneRequest(
        data=[data], model=model, output=tmp_path / "broken", split="lines", **{**OPTIONS, **options}
    )
    prepared, before = prepare(request), []
    before.extend(train(prepared, should_stop=lambda: len(before) > 0 and before[-1].step == 7))
    trained = before[-1]
    assert isinstance(trained, Trained)
    assert (trained.interrupted, trained.steps) == (True, 7)
    assert before[-2] == Finished(7, "interrupted")
    assert FinetuneResult.of(prepared, trained, None).loss_after is None
    assert state_folder(request.output).exists()
    resumed, after = tune(inputs, tmp_path / "broken", resume=True, **options)
    assert loss_curve(before) + loss_curve(after) == loss_curve(events)
    assert resumed.loss_before == unbroken.loss_before
    assert resumed.loss_after == unbroken.loss_after
    assert resumed.history.train == unbroken.history.train
    assert not state_folder(request.output).exists()


def test_resume_refuses_another_training_and_says_what_differs(inputs, tmp_path):
    data, model = inputs
    request = FinetuneRequest(data=[data], model=model, output=tmp_path / "out", split="lines", **OPTIONS)
    list(train(prepare(request), should_stop=lambda: True))
    with pytest.raises(UsageError, match=r"learning_rate was 0\.003 and is 0\.1; seed was 42 and is 7"):
        tune(inputs, tmp_path / "out", resume=True, learning_rate=0.1, seed=7)


def test_resume_refuses_another_text_to_measure_on(inputs, tmp_path):
    validation = tmp_path / "validation.txt"
    validation.write_text("A line of its own.\nAnother one, quite unlike it.\n")
    data, model = inputs
    request = FinetuneRequest(
        data=[data], model=model, output=tmp_path / "out", split="lines", validation=validation, **OPTIONS
    )
    list(train(prepare(request), should_stop=lambda: True))
    validation.write_text("A line of its own.\nAnother one, which was put here later.\n")
    with pytest.raises(UsageError, match="validation_data was"):
        list(train(prepare(replace(request, resume=True))))


def test_the_micro_batch_that_was_used_is_kept(inputs, tmp_path):
    data, model = inputs
    request = FinetuneRequest(data=[data], model=model, output=tmp_path / "out", split="lines", **OPTIONS)
    prepared = prepare(request)
    trainer = make_trainer(prepared)
    trainer.settings = replace(trainer.settings, micro_batch=1)  # as where memory did not suffice
    _save_state(prepared, trainer, History())
    assert prepare(replace(request, resume=True)).plan.micro_batch == 1


def test_several_processes_have_to_agree_on_the_number_format(inputs, tmp_path):
    class Group(ProcessGroup):
        """One process, which says what it would compare with others."""

        def agree(self, settings):
            raise TrainingError(settings["dtype"])

    data, model = inputs
    options = {**OPTIONS, "precision": "bfloat16", "split": "lines"}
    prepared = prepare(FinetuneRequest(data=[data], model=model, output=tmp_path / "out", **options))
    with pytest.raises(TrainingError, match="bfloat16"):
        next(train(prepared, group=Group()))


def test_it_saves_as_often_as_asked(inputs, tmp_path):
    data, model = inputs
    request = FinetuneRequest(data=[data], model=model, output=tmp_path / "out", split="lines", **OPTIONS)
    assert make_trainer(prepare(replace(request, save_every=7))).settings.save_every == 7
    assert make_trainer(prepare(request)).settings.save_every > 0


def test_it_notes_the_base_it_started_from(inputs, tmp_path):
    result, _ = tune(inputs, tmp_path / "tuned", max_steps=1, lora=2, lora_output="adapter")
    base = resolve_model(inputs[1])
    training = json.loads((result.checkpoint / "training.json").read_text())
    assert training["base"] == {
        "name": str(inputs[1]),
        "kind": "folder",
        "revision": None,
        "sha256": base.sha256,
    }
    assert apply_adapter(base, tmp_path / "tuned.adapter").folder.is_dir()
    with pytest.raises(CheckpointError, match="was trained on"):
        apply_adapter(resolve_model(result.checkpoint), tmp_path / "tuned.adapter")


def asked(inputs, output, **changes):
    """A request with small settings."""
    data, model = inputs
    return FinetuneRequest(data=[data], model=model, output=output, split="lines", **{**OPTIONS, **changes})


def interrupted(inputs, output, **changes):
    """A training that was stopped after its first step; the request that resumes it."""
    request = asked(inputs, output, **changes)
    list(train(prepare(request), should_stop=lambda: True))
    return replace(request, resume=True)


class TestWhatIsThereAlready:
    """A result is kept until there is something better than the base model; an empty folder is none."""

    def adapter_alone(self, inputs, output):
        """An adapter beside where `output` was; its weights."""
        tune(inputs, output, max_steps=1, lora=2, lora_output="adapter")
        shutil.rmtree(output)
        return (output.parent / "out.adapter" / "adapter_model.safetensors").read_bytes()

    @pytest.mark.parametrize(
        "options", [{}, {"holdout": 0}, {"holdout": 0, "lora": 2, "lora_output": "adapter"}], ids=str
    )
    def test_an_empty_folder_is_no_result(self, inputs, tmp_path, options):
        for name in ("out", "out.adapter"):
            (tmp_path / name).mkdir()
        interrupted(inputs, tmp_path / "out", **options)
        assert conjure.load(tmp_path / "out").generate("My", max_new_tokens=1)
        assert any((tmp_path / "out.adapter").iterdir()) == ("lora" in options)

    def test_without_held_out_text_an_interruption_leaves_an_earlier_result(self, inputs, tmp_path):
        tune(inputs, tmp_path / "out", holdout=0, max_steps=2)
        interrupted(inputs, tmp_path / "out", holdout=0, seed=7)
        training = json.loads((tmp_path / "out" / "training.json").read_text())
        assert (training["settings"]["seed"], training["step"]) == (42, 2)

    def test_an_adapter_is_a_result_of_a_training_of_adapters(self, inputs, tmp_path):
        before = self.adapter_alone(inputs, tmp_path / "out")
        interrupted(inputs, tmp_path / "out", lora=2, lora_output="adapter")
        assert (tmp_path / "out.adapter" / "adapter_model.safetensors").read_bytes() == before
        assert not (tmp_path / "out").exists()

    def test_to_another_training_an_adapter_is_nothing(self, inputs, tmp_path):
        self.adapter_alone(inputs, tmp_path / "out")
        interrupted(inputs, tmp_path / "out", lora=2)
        assert conjure.load(tmp_path / "out").generate("My", max_new_tokens=1)

    def test_a_result_that_was_not_measured_is_not_taken_for_this_training_s(self, inputs, tmp_path):
        tune(inputs, tmp_path / "out", holdout=0, max_steps=1)
        result, events = tune(inputs, tmp_path / "out", learning_rate=1e-30, max_steps=1)
        assert [event.step for event in events if isinstance(event, Saved)] == [0]
        base, kept = (conjure.load(folder).model.state_dict() for folder in (inputs[1], result.checkpoint))
        assert all(torch.equal(weight, kept[name]) for name, weight in base.items())


def test_the_state_is_saved_on_the_way(inputs, tmp_path):
    request = asked(inputs, tmp_path / "out")
    events = train(prepare(request))
    assert next(event for event in events if isinstance(event, SavePoint)).step == request.save_every
    next(events)  # by now what the save point called for is done
    events.close()
    assert load_training_facts(state_folder(request.output))["progress"]["step"] == request.save_every


def test_processes_compare_what_they_start_from_and_part_in_the_end(inputs, tmp_path):
    class Watched(ProcessGroup):
        finished = False

        def agree(self, settings):
            self.agreed = settings

        def finish(self):
            self.finished = True

    fresh, resumed = Watched(), Watched()
    list(train(prepare(asked(inputs, tmp_path / "out")), group=fresh, should_stop=lambda: True))
    assert {name: fresh.agreed[name] for name in ("step", "best_loss", "seed")} == {
        "step": 0,
        "best_loss": math.inf,
        "seed": 42,
    }
    assert fresh.finished
    history = load_training_facts(state_folder(tmp_path / "out"))["history"]
    list(train(prepare(asked(inputs, tmp_path / "out", resume=True)), group=resumed))
    assert (resumed.agreed["step"], resumed.agreed["best_loss"]) == (1, history["held_out"][0][1])


@pytest.mark.parametrize(
    ("parameters", "tokens"), [(1 << 20, 1 << 16), (1 << 25, 1 << 15), (1 << 40, 1 << 14)]
)
def test_an_evaluation_of_a_large_model_reads_fewer_tokens(inputs, tmp_path, parameters, tokens):
    prepared = prepare(asked(inputs, tmp_path / "out"))
    large = replace(prepared, plan=replace(prepared.plan, parameters=parameters))
    assert make_trainer(large).settings.eval_blocks * prepared.plan.block_size == tokens


def test_resume_refuses_another_base_of_the_same_name(inputs, tmp_path):
    request = interrupted(inputs, tmp_path / "out")
    was = resolve_model(inputs[1]).sha256
    tiny_checkpoint(inputs[1], seed=1)
    now = resolve_model(inputs[1]).sha256
    with pytest.raises(UsageError) as refused:
        prepare(request)
    words = f"the interrupted training started from {inputs[1]} {was[:8]}, but this is {inputs[1]} {now[:8]}"
    assert str(refused.value) == words
    assert refused.value.hint == "use that model to continue, or omit resume to start again"
    tiny_checkpoint(inputs[1])
    assert prepare(request).base_noted["sha256"] == was


def test_resume_of_an_older_training_refuses_a_base_of_another_shape(inputs, tmp_path):
    request = interrupted(inputs, tmp_path / "out")
    progress = state_folder(tmp_path / "out") / "progress.json"
    facts = json.loads(progress.read_text())
    progress.write_text(json.dumps({name: facts[name] for name in facts if name not in ("base", "conjure")}))
    tiny_checkpoint(inputs[1], seed=1)
    prepare(request)  # it may be the same, as far as anybody can tell
    tiny_checkpoint(inputs[1], n_layer=3)
    with pytest.raises(UsageError, match="started from a model with another shape than"):
        prepare(request)


def test_resume_without_a_state_says_so(inputs, tmp_path):
    with pytest.raises(conjure.ConjureError, match="there is no unfinished training in") as caught:
        tune(inputs, tmp_path / "out", resume=True)
    assert "resume" in caught.value.hint


def test_freezing_leaves_the_embeddings_and_first_blocks_alone(inputs, tmp_path):
    result, _ = tune(inputs, tmp_path / "tuned", freeze=1)
    base, tuned = (conjure.load(folder).model.state_dict() for folder in (inputs[1], result.checkpoint))
    changed = {name for name in base if not torch.equal(base[name], tuned[name])}
    assert changed
    assert all(name.startswith(("blocks.1.", "final_norm.")) for name in changed)
    assert result.plan.trainable < result.plan.parameters


def test_one_record_is_enough(inputs, tmp_path):
    one = tmp_path / "one.txt"
    one.write_text("A single joke about a single sock, looking for its other half.")
    result, _ = tune((one, inputs[1]), tmp_path / "tuned", split=None)
    assert result.plan.held_out_method == "tail"
    assert "the last 10% of the tokens are held out" in result.plan.held_out_reason
    assert result.checkpoint.is_dir()


def test_without_held_out_text_the_last_weights_are_kept(inputs, tmp_path):
    result, events = tune(inputs, tmp_path / "tuned", holdout=0)
    assert (result.loss_before, result.loss_after) == (None, None)
    assert result.best_step == result.steps
    assert [event.step for event in events if isinstance(event, Saved)] == [result.steps]


def test_samples_come_with_evaluations_and_from_equal_seeds(inputs, tmp_path):
    _, events = tune(inputs, tmp_path / "tuned", sample_every=None, epochs=1)
    sampled = [event for event in events if isinstance(event, Sampled)]
    assert [event.step for event in sampled] == [
        e.step for e in events if isinstance(e, Evaluated) and e.step
    ]
    assert all(len(event.samples) == 3 for event in sampled)


@pytest.mark.parametrize(("every", "steps"), [(3, [4, 6, 10, 12, 16]), (4, [4, 8, 12, 16]), (7, [8, 14])])
def test_samples_come_with_the_first_evaluation_after_so_many_steps(inputs, tmp_path, every, steps):
    _, events = tune(inputs, tmp_path / "tuned", sample_every=every, eval_every=2, max_steps=16)
    assert [event.step for event in events if isinstance(event, Sampled)] == steps


def test_memory_that_does_not_suffice_halves_the_micro_batch_to_the_same_losses(
    inputs, tmp_path, monkeypatch
):
    _, whole = tune(inputs, tmp_path / "whole", epochs=1, dropout=0)
    plan = prepare(
        FinetuneRequest(data=[inputs[0]], model=inputs[1], output=tmp_path / "x", split="lines", **OPTIONS)
    ).plan
    monkeypatch.setattr(preparation, "available_bytes", lambda device: int((plan.memory_bytes - 1) / 0.9))
    result, parts = tune(inputs, tmp_path / "parts", epochs=1, dropout=0)
    assert result.plan.micro_batch < result.plan.batch_size == 4
    for one, other in zip(loss_curve(whole), loss_curve(parts), strict=True):
        assert other[2] == pytest.approx(one[2], rel=1e-5)


def test_a_block_larger_than_the_context_is_refused(inputs, tmp_path):
    with pytest.raises(UsageError, match="block_size is 64; the model's context is 32 tokens"):
        tune(inputs, tmp_path / "tuned", block_size=64)


def test_each_group_counts_once_on_the_way_and_in_the_end(inputs, tmp_path):
    lines = inputs[0].read_text().splitlines()
    many = tmp_path / "many.txt"
    many.write_text("\n".join([*lines, *(line.upper() for line in lines for _ in range(3))]))
    result, _ = tune((many, inputs[1]), tmp_path / "tuned", epochs=1)
    facts = result.held_out
    assert (facts.records, facts.scored_records) == (4 * facts.groups, 4 * facts.scored_groups)
    assert (result.plan.data.records, result.plan.data.distinct) == (4 * len(lines), len(lines))
    report = json.loads((result.checkpoint / "report.json").read_text())
    assert report["held_out_facts"]["groups"] == report["held_out"]["units"] == facts.groups
    assert report["held_out"]["records"] == 4 * facts.groups
    assert report["tuned"]["held_out"]["loss"] == result.loss_after
    assert report["held_out"]["change"] == pytest.approx(result.loss_after - result.loss_before)


def test_a_validation_file_is_measured_on_but_for_what_is_trained_on(inputs, tmp_path):
    lines = inputs[0].read_text().splitlines()
    validation = tmp_path / "validation.txt"
    validation.write_text(
        "\n".join([*(f"Quite another {line.split()[-1]}" for line in lines[:12]), lines[0]])
    )
    result, _ = tune(inputs, tmp_path / "tuned", validation=validation, epochs=1)
    assert result.plan.held_out_method == "file"
    assert (result.held_out.records, result.held_out.excluded_shared) == (12, 1)
    assert result.plan.data.records == len(lines)
    assert result.plan.train_tokens == result.plan.data.tokens


def test_where_all_held_out_text_is_trained_on_nothing_is_measured(inputs, tmp_path):
    same = tmp_path / "same.txt"
    same.write_text("The one line that there is.\n" * 60)
    result, _ = tune((same, inputs[1]), tmp_path / "tuned", epochs=1)
    assert (result.loss_before, result.loss_after) == (None, None)
    report = report_from_json((result.checkpoint / "report.json").read_text())
    assert report.held_out_facts.nothing_comparable
    assert report.held_out is None


@pytest.mark.parametrize(("options", "tokens"), [({}, 1), ({"dedup": "keep"}, 2), ({"dedup": "weight"}, 2)])
def test_dedup(inputs, tmp_path, options, tokens):
    lines = inputs[0].read_text().splitlines()
    twice = tmp_path / "twice.txt"
    twice.write_text("\n".join([*lines, *lines]))
    once, _ = tune(inputs, tmp_path / "once", epochs=1)
    plan = tune((twice, inputs[1]), tmp_path / "tuned", epochs=1, **options)[0].plan
    assert plan.train_tokens == tokens * once.plan.train_tokens
    left_out = "--dedup drop" in next(line for line in plan_lines(plan) if line.startswith("Split"))
    assert left_out == (plan.train_dropped > 0) == (tokens == 1)


def test_the_plan_says_what_is_left_out_of_a_validation_file(inputs, tmp_path):
    (tmp_path / "other.txt").write_bytes(b"A line of another text.\n\ncaf\xe9\nSee <|endoftext|> there.\n")
    request = FinetuneRequest(
        data=(inputs[0],),
        model=str(inputs[1]),
        output=tmp_path / "out",
        validation=tmp_path / "other.txt",
        split="lines",
    )
    lines = [line.strip() for line in plan_lines(prepare(request).plan)]
    said = [line for line in lines if line.startswith("validation file: ")]
    assert [line.split(" (")[0].removeprefix("validation file: ") for line in said] == [
        "1 × empty",
        "1 × wrong encoding",
        "<|endoftext|> occurs in the text once and is read as plain text",
    ]
    assert "other.txt, line 3" in said[1]


def test_the_held_out_loss_is_a_metric_logged_once_at_the_end(inputs, tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(metrics, "log_metric", lambda name, value, step: logged.append((name, value, step)))
    result, events = tune(inputs, tmp_path / "tuned", epochs=1)
    for event in events:
        metrics.report_metrics(event)
    metrics.report_result(result)
    assert [one for one in logged if one[0] == "held_out_loss"] == [
        ("held_out_loss", result.loss_after, result.best_step)
    ]
    evaluated = [(e.loss, e.step) for e in events if isinstance(e, Evaluated)]
    assert [one[1:] for one in logged if one[0] == "eval_loss"] == evaluated
