"""A head in 16 bits: centred in parts, so that scores are not blurred where logits lie far from zero."""

import numpy as np
import pytest
import torch

from conjure.lm.generation import torch_scorer
from conjure.lm.generation.score import Windows, score_documents
from conjure.lm.generation.torch_scorer import TorchScorer
from conjure.lm.models.decoder import Decoder
from conjure.lm.nn import centred_head as module
from conjure.lm.nn.centred_head import centred_head, scoring_head
from conjure.lm.training import trainer as training
from support.models import TEXTS, tiny_model, tiny_tokenizer
from support.training import tiny_trainer


def shift(model: Decoder) -> Decoder:
    """The model, its logits as far from zero as GPT-2's, with weights that bfloat16 has."""
    row = 20 * torch.randn(model.config.n_embd, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter + row if parameter is model.head_weight else parameter)
            parameter.copy_(parameter.bfloat16())
    return model


def plainly(weight):
    return weight


@pytest.mark.parametrize("rows", [7, 300, 1000])
def test_it_is_centred_in_parts(rows, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", rows)
    weight = shift(tiny_model()).head_weight.bfloat16()
    centred, mean = centred_head(weight)
    exact = weight.float() - weight.float().mean(0)
    torch.testing.assert_close(mean, weight.float().mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(centred, exact.bfloat16(), rtol=0.01, atol=1e-4)


def test_a_head_in_float32_is_scored_with_as_it_is():
    weight = tiny_model().head_weight
    assert scoring_head(weight) is weight


def test_scores_in_bfloat16_are_not_blurred(monkeypatch):
    def logprobs(model: Decoder) -> np.ndarray:
        scorer = TorchScorer(model)
        scores = score_documents(scorer, tiny_tokenizer(), TEXTS, Windows.of(scorer))
        return np.concatenate([score.token_logprobs for score in scores])

    model = shift(tiny_model(n_embd=64))
    exact = logprobs(model)
    centred = logprobs(model.to(torch.bfloat16))
    monkeypatch.setattr(torch_scorer, "scoring_head", plainly)
    plain = logprobs(model)
    assert np.abs(centred - exact).mean() < np.abs(plain - exact).mean() / 2


def test_nor_is_the_loss_on_held_out_text(monkeypatch):
    def loss(dtype: torch.dtype) -> float:
        trainer = tiny_trainer(dtype=dtype)
        shift(trainer.model)
        return trainer.eval_loss()

    exact, centred = loss(torch.float32), loss(torch.bfloat16)
    monkeypatch.setattr(training, "scoring_head", plainly)
    plain = loss(torch.bfloat16)
    assert abs(centred - exact) < abs(plain - exact) / 2
