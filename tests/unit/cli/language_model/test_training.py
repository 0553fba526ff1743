"""A training in this process, which may be one of several."""

from types import SimpleNamespace

from conjure.cli.language_model import training
from conjure.lm.training.request import FinetuneRequest


def test_what_memory_decides_is_decided_by_the_first_process(monkeypatch):
    asked, trained = [], []

    def prepare(request, micro_batch, **_):
        asked.append((request.block_size, micro_batch))
        return SimpleNamespace(without_base_weights=lambda: "without the base's weights")

    monkeypatch.setattr(training, "prepare", prepare)
    monkeypatch.setattr(training, "run_training", lambda prepared, **_: trained.append(prepared))
    decided = {"block_size": 256, "micro_batch": 2, "chat_date": None}
    group = SimpleNamespace(settings_of_leader=lambda: decided)
    assert training._follow(FinetuneRequest(data=["novel.txt"], output="tuned"), group) == 0
    assert asked == [(256, 2)]
    assert trained == ["without the base's weights"]
