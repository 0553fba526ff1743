"""What a fine-tune is planned to be, before anything is trained."""

from dataclasses import replace

import pytest

from conjure.lm.training import preparation
from conjure.lm.training.finetune import _save_state, make_trainer
from conjure.lm.training.history import History
from conjure.lm.training.preparation import prepare
from conjure.lm.training.request import FinetuneRequest
from support.tuning import OPTIONS, tuning_inputs


@pytest.fixture
def asked(tmp_path):
    data, model = tuning_inputs(tmp_path)
    options = OPTIONS | {"batch_size": 8}
    return FinetuneRequest(data=[data], model=model, output=tmp_path / "tuned", split="lines", **options)


@pytest.mark.parametrize(("distributed", "nodes", "threads"), [(4, None, 4), (2, 2, 8)])
def test_the_processes_of_a_node_share_its_cores(asked, distributed, nodes, threads, monkeypatch):
    monkeypatch.setattr(preparation, "usable_cores", lambda: 16)
    plan = prepare(replace(asked, distributed=distributed, nodes=nodes)).plan
    assert (plan.processes, plan.threads) == (4, threads)


@pytest.mark.parametrize(("saved", "goes_on_with"), [(8, 2), (4, 4)])
def test_passes_too_few_to_share_are_made_smaller_when_a_training_goes_on(asked, saved, goes_on_with):
    """The blocks of a step in one pass leave nothing for the second of two processes."""
    prepared = prepare(asked)
    assert prepared.plan.batch_size == 8
    trainer = make_trainer(prepared)
    trainer.settings = replace(trainer.settings, micro_batch=saved)
    _save_state(prepared, trainer, History())
    assert prepare(replace(asked, resume=True, distributed=2)).plan.micro_batch == goes_on_with
