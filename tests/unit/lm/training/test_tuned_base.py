"""A fine-tune of a fine-tune: what its base was trained on is not unseen."""

import json

import pytest

from conjure.cli.language_model.training_view import result_lines
from conjure.lm.report.compared_records import Training
from conjure.lm.training.base_model_comparison import measure, write_report
from conjure.lm.training.finetune import FinetuneResult, finetune, run_training
from conjure.lm.training.preparation import prepare
from conjure.lm.training.request import FinetuneRequest
from support.models import tiny_checkpoint
from support.texts import ONE_LINERS
from support.tuning import OPTIONS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short_reports")]  # each trains models

SETTINGS = {**OPTIONS, "split": "lines", "max_steps": 4, "eval_every": 2, "learning_rate": 3e-3}


def write_lines(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def tuned(tmp_path):
    """A model tuned on half of the lines, none held out; and its training."""
    data = write_lines(tmp_path / "first.txt", ONE_LINERS[:20])
    request = FinetuneRequest(
        data=[data],
        output=tmp_path / "first",
        model=tiny_checkpoint(tmp_path / "base"),
        **{**SETTINGS, "holdout": 0},
    )
    run_training(prepare(request))
    facts = json.loads((tmp_path / "first" / "training.json").read_text())
    training = Training(data=(str(data),), settings=request.settings(), train_sha256=facts["train_sha256"])
    return tmp_path / "first", training


def details(folder):
    report = json.loads((folder / "report.json").read_text())
    return report["verdict"]["findings"][0]["detail"]


def measured(tmp_path, tuned, lines):
    model, training = tuned
    data = write_lines(tmp_path / "second.txt", lines)
    prepared = prepare(
        FinetuneRequest(data=[data], output=tmp_path / "second", model=model, **{**SETTINGS, "holdout": 0.5})
    )
    trained = run_training(prepared)
    comparison = measure(prepared, trained, base_trainings=(training,))
    write_report(prepared, trained, comparison, prepared.output)
    return prepared, trained, comparison


def test_what_the_base_was_trained_on_is_left_out_and_counted(tmp_path, tuned):
    prepared, trained, comparison = measured(tmp_path, tuned, ONE_LINERS)
    facts = comparison.facts(prepared)
    unseen = set(comparison.held_out.texts)
    assert unseen <= set(ONE_LINERS[20:])
    assert facts.records == prepared.split.heldout.records
    assert 0 < facts.seen_by_base == facts.records - len(unseen) < facts.records
    assert facts.base_files == ()
    assert (
        f"{facts.seen_by_base} other held-out records are not counted, because the base model was trained on"
        in details(prepared.output)
    )
    lines = "\n".join(result_lines(FinetuneResult.of(prepared, trained, comparison), None))
    assert f", without {facts.seen_by_base} that the base model was trained on" in lines


def test_where_the_base_was_trained_on_everything_nothing_is_measured(tmp_path, tuned):
    prepared, _, comparison = measured(tmp_path, tuned, ONE_LINERS[:20])
    facts = comparison.facts(prepared)
    assert facts.nothing_comparable
    assert facts.seen_by_base == facts.records > 0
    assert comparison.held_out.texts == ()


def test_a_base_that_is_no_known_fine_tune_is_named(tmp_path, tuned):
    data = write_lines(tmp_path / "second.txt", ONE_LINERS)
    result = finetune(data, output=tmp_path / "second", model=tuned[0], **SETTINGS)
    assert result.held_out.base_files == ("first.txt",)
    sentence = "The base model was itself tuned on first.txt, and that data may include held-out text."
    assert sentence in details(tmp_path / "second")
    first = finetune(data, output=tmp_path / "third", model=tmp_path / "base", **SETTINGS)
    assert first.held_out.base_files == ()


def test_what_a_known_base_was_trained_on_is_left_out_from_python_too(tmp_path, tuned):
    model, training = tuned
    data = write_lines(tmp_path / "second.txt", ONE_LINERS)
    settings = {**SETTINGS, "holdout": 0.5}
    result = finetune(data, output=tmp_path / "second", model=model, base_trainings=(training,), **settings)
    assert result.held_out.base_files == ()
    assert 0 < result.held_out.seen_by_base < result.held_out.records


def test_data_that_are_gone_cannot_be_compared(tmp_path, tuned):
    (tmp_path / "first.txt").unlink()
    prepared, _, comparison = measured(tmp_path, tuned, ONE_LINERS)
    facts = comparison.facts(prepared)
    assert (facts.seen_by_base, facts.base_files) == (0, ("first.txt",))
