"""Scores against transformers' loss on the same tokens."""

import pytest
import torch
from transformers import GPT2LMHeadModel

from conjure.lm.checkpoints.pretrained import load_checkpoint
from conjure.lm.generation.score import Windows, score_documents
from conjure.lm.generation.torch_scorer import TorchScorer
from support.models import TEXTS, tiny_checkpoint


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_total_is_the_loss_of_transformers_times_the_tokens(tmp_path, seed):
    folder = tiny_checkpoint(tmp_path / "model", seed, context_length=128)
    model, tokenizer = load_checkpoint(folder)
    reference = GPT2LMHeadModel.from_pretrained(folder)

    for text, result in zip(
        TEXTS, score_documents(TorchScorer(model), tokenizer, TEXTS, Windows.of(model)), strict=True
    ):
        ids = torch.tensor([[tokenizer.end_of_text_id, *tokenizer.encode(text)]])
        with torch.no_grad():
            loss = reference(ids, labels=ids).loss.item()
        assert result.tally.loss == pytest.approx(loss, rel=1e-5)
        assert result.total == pytest.approx(-loss * len(result.token_ids), rel=1e-5)
