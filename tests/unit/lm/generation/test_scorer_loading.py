"""Loading a model for scoring: by which engine; in float32, or in bfloat16 with an error that is bounded."""

import numpy as np
import pytest

from conjure.errors import UsageError
from conjure.lm.generation import engine_loading
from conjure.lm.generation.engines.all_logits import NativePositions
from conjure.lm.generation.score import PositionScorer, Score, Windows, score_documents
from conjure.lm.generation.scorer_loading import LoadedScorer, load_positions, load_scorer
from conjure.lm.generation.torch_scorer import TorchScorer
from conjure.lm.native.library import INSTRUCTIONS
from support.models import TEXTS, tiny_checkpoint
from support.native import native_status


def scores(loaded: LoadedScorer) -> list[Score]:
    return list(score_documents(loaded.scorer, loaded.tokenizer, TEXTS, Windows.of(loaded.scorer)))


@pytest.mark.parametrize("much", [False, True])
def test_bfloat16_is_off_by_little(much):
    exact, rounded = load_scorer("sprite", much=much), load_scorer("sprite", much=much, precision="bfloat16")
    assert (exact.precision, rounded.precision) == ("float32", "bfloat16")
    assert isinstance(rounded.scorer, TorchScorer)
    exact_scores, rounded_scores = scores(exact), scores(rounded)
    errors = np.abs(
        np.concatenate([score.token_logprobs for score in rounded_scores])
        - np.concatenate([score.token_logprobs for score in exact_scores])
    )
    assert 1e-5 < errors.mean() < 0.04, "of a token's log-probability, in nats"
    losses = [sum(score.total for score in group) for group in (exact_scores, rounded_scores)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)


def test_bfloat16_needs_torch(tmp_path, monkeypatch):
    folder = tiny_checkpoint(tmp_path / "tiny")
    monkeypatch.setattr(engine_loading, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="needs torch for precision='bfloat16' here"):
        load_scorer(folder, much=False, precision="bfloat16")


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("much", [False, True])
def test_torch_scores_many_texts_where_the_engine_is_portable(instructions, much, monkeypatch):
    native_status(instructions, monkeypatch)
    expected = TorchScorer if much and instructions == "portable" else PositionScorer
    assert isinstance(load_scorer("sprite", much=much).scorer, expected)


def test_a_gpu_does_not_take_scoring_from_the_native_engine(tmp_path, monkeypatch):
    native_status("avx2", monkeypatch)
    monkeypatch.setattr(engine_loading, "gpu_is_there", lambda: True)
    assert isinstance(load_positions(tiny_checkpoint(tmp_path / "tiny")), NativePositions)


def test_torch_scores_without_the_native_engine(monkeypatch):
    monkeypatch.setenv("CONJURE_NATIVE", "off")
    assert isinstance(load_scorer("sprite", much=True).scorer, TorchScorer)


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_all_give_the_same_scores(instructions, monkeypatch):
    monkeypatch.setenv("CONJURE_NATIVE", "off")
    by_torch = load_scorer("sprite", much=True)
    native_status(instructions, monkeypatch)
    native = load_scorer("sprite", much=True)
    for one, other in zip(scores(by_torch), scores(native), strict=True):
        assert one.tally.total == pytest.approx(other.tally.total, rel=1e-5)
