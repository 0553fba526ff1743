"""Sliding windows: every token scored once, tails included, from as much context as was promised."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conjure.lm.generation.torch_scorer import TorchScorer
from support.models import tiny_model
from support.scoring import score_ids

MODEL = tiny_model(context_length=12)


@st.composite
def protocols(draw: st.DrawFn) -> tuple[int, int]:
    context = draw(st.integers(1, 12))
    return context, draw(st.integers(1, context))


@settings(max_examples=60)
@given(st.lists(st.integers(0, 299), min_size=1, max_size=40), protocols())
def test_each_token_is_scored_once_from_the_first_window_that_reaches_it(ids, protocol):
    context, stride = protocol
    sequence = [0, *ids]

    actual = score_ids(TorchScorer(MODEL), ids, start_id=0, context=context, stride=stride)

    assert len(actual) == len(ids)
    for position, token in enumerate(ids):
        begin = 0 if position < context else -(-(position - context + 1) // stride) * stride
        assert begin == 0 or position - begin + 1 >= context - stride + 1, "less context than promised"
        with torch.no_grad():
            logits = MODEL.head(MODEL(torch.tensor([sequence[begin : position + 1]]))[0, -1])
        assert abs(actual[position] - logits.log_softmax(0)[token]) < 1e-4
