"""Both models of a fine-tune are measured, and what comes of it is told and written."""

import json
from dataclasses import replace

import pytest

from conjure.lm.training import base_model_comparison
from conjure.lm.training.base_model_comparison import measure, write_report
from conjure.lm.training.finetune import run_training
from conjure.lm.training.preparation import prepare
from conjure.lm.training.request import FinetuneRequest
from support.tuning import OPTIONS, tuning_inputs

pytestmark = pytest.mark.usefixtures("short_reports")


@pytest.fixture
def asked(tmp_path, monkeypatch):
    monkeypatch.setattr(base_model_comparison, "_REPORT_TOKENS", 8)
    data, model = tuning_inputs(tmp_path)
    options = {**OPTIONS, "max_steps": 1}
    return FinetuneRequest(data=[data], model=model, output=tmp_path / "tuned", split="lines", **options)


def test_both_models_are_measured_in_turn_and_the_page_is_named(asked):
    prepared, told = prepare(asked), []
    trained = run_training(prepared)
    comparison = measure(prepared, trained, lambda which, share: told.append((which, share)))
    done = dict(told)
    assert list(done) == ["the base model", "the tuned model"]
    assert 0.9 < min(done.values()) <= max(done.values()) <= 1
    page = write_report(prepared, trained, comparison, prepared.output)
    assert page == prepared.output / "report.html"
    assert page.is_file()


def test_where_nothing_is_held_out_no_text_can_have_been_seen(asked):
    (asked.model / "training.json").write_text(json.dumps({"settings": {}}))
    prepared = prepare(replace(asked, holdout=0))
    assert prepared.base_files == ("other text",)
    comparison = measure(prepared, run_training(prepared))
    facts = comparison.facts(prepared)
    assert (facts.records, facts.groups, facts.seen_by_base, facts.base_files) == (0, 0, 0, ())
    assert comparison.tally(comparison.after) is None
