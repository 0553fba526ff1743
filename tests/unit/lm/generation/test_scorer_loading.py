"""Which engine scores: torch only where it is worth its start."""

import pytest

from conjure.lm.generation.score import PositionScorer, Windows, score_documents
from conjure.lm.generation.scorer_loading import load_scorer
from conjure.lm.generation.torch_scorer import TorchScorer
from conjure.lm.native.library import INSTRUCTIONS
from support.native import native_status

TEXTS = ["The dog asked for a table for two.", "It rained.", "Nobody knew where the umbrella was. " * 40]


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("much", [False, True])
def test_torch_scores_many_texts_where_registers_are_narrow(instructions, much, monkeypatch):
    native_status(instructions, monkeypatch)
    wide = INSTRUCTIONS.index(instructions) >= INSTRUCTIONS.index("avx512vnni")
    expected = PositionScorer if wide or not much else TorchScorer
    assert isinstance(load_scorer("sprite", much=much).scorer, expected)


def test_torch_scores_without_the_native_engine(monkeypatch):
    monkeypatch.setenv("CONJURE_NATIVE", "off")
    assert isinstance(load_scorer("sprite", much=True).scorer, TorchScorer)


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_all_give_the_same_scores(instructions, monkeypatch):
    monkeypatch.setenv("CONJURE_NATIVE", "off")
    by_torch = load_scorer("sprite", much=True)
    native_status(instructions, monkeypatch)
    native = load_scorer("sprite", much=True)
    for one, other in zip(*(list(scores(each)) for each in (by_torch, native)), strict=True):
        assert one.tally.total == pytest.approx(other.tally.total, rel=1e-5)


def scores(loaded):
    return score_documents(loaded.scorer, loaded.tokenizer, TEXTS, Windows.of(loaded.scorer))
