"""What a model can recite is what it would write, token for token."""

import pytest
import torch

from conjure.lm.generation.generate import generate
from conjure.lm.generation.request import GenerationRequest
from conjure.lm.report.extraction import LONGEST, SHORTEST, extracted_share
from conjure.lm.report.report_schema import ExtractedShare
from support.models import tiny_model, tiny_tokenizer


def greedy_text(model, prompt: str, tokens: int) -> list[int]:
    request = GenerationRequest(prompts=[prompt], max_new_tokens=tokens, temperature=0.0, seed=0)
    return generate(model, tiny_tokenizer(), request)[0].token_ids


def test_it_is_what_greedy_writing_gives():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    start = tokenizer.encode("the moon and the sun a")
    half = tokenizer.encode("the moon and the sun and so on it went until")[:10]
    ids = torch.tensor([[tokenizer.end_of_text_id, *half]])
    for _ in range(10):
        with torch.no_grad():
            ids = torch.cat([ids, model.head(model(ids))[:, -1:].argmax(-1)], 1)
    recited = tokenizer.decode(ids[0, 1:].tolist())
    if tokenizer.encode(recited) != ids[0, 1:].tolist():
        pytest.fail("choose another beginning: its text has other tokens")
    wrong = tokenizer.decode([*ids[0, 1:-1].tolist(), start[0]])
    texts = [recited, wrong, recited, "short"]
    assert extracted_share(model, tokenizer, texts) == ExtractedShare(3, 2)


def test_records_that_are_too_short_are_not_tried():
    assert extracted_share(tiny_model(), tiny_tokenizer(), ["short", ""]) is None
    assert extracted_share(tiny_model(), tiny_tokenizer(), []) is None


def test_progress_counts_the_tokens_that_are_read():
    read = []
    texts = ["one record of some words and then some more of them, or so it seems " * 20] * 30
    share = extracted_share(tiny_model(), tiny_tokenizer(), texts, on_progress=read.append)
    assert share is not None
    assert share.records == 30
    assert sum(read) == 30 * min(LONGEST, tiny_model().config.context_length)
    assert SHORTEST <= LONGEST
