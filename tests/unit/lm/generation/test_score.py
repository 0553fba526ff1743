"""Scoring equals what a person would compute token by token, by hand."""

import math
from types import SimpleNamespace

import pytest
import torch

from conjure.errors import UsageError
from conjure.lm.generation.engines.all_logits import NativePositions
from conjure.lm.generation.engines.native import NativeEngine
from conjure.lm.generation.engines.torch_all_logits import TorchPositions
from conjure.lm.generation.score import (
    PositionScorer,
    Score,
    Scorer,
    Tally,
    Windows,
    score,
    score_documents,
)
from conjure.lm.generation.torch_scorer import TorchScorer
from conjure.lm.models.decoder import Decoder
from conjure.lm.native import status
from support.engines import native_weights
from support.models import tiny_model, tiny_tokenizer
from support.scoring import score_ids

CONTEXT = 16
START = 7


@pytest.fixture(scope="module")
def model() -> Decoder:
    return tiny_model(context_length=CONTEXT)


@pytest.fixture(scope="module", params=["torch", "positions in torch", "native"])
def scorer(request, model) -> Scorer:
    if request.param == "torch":
        return TorchScorer(model)
    if request.param == "positions in torch":
        return PositionScorer(TorchPositions(model))
    found = status()
    assert found.library is not None, found.reason
    return PositionScorer(NativePositions(NativeEngine(native_weights(model, "float32"), found)))


def random_ids(count: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 256, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def brute_force(model: Decoder, ids: list[int], start: int, context: int, stride: int) -> torch.Tensor:
    """Each token by a forward pass of its own, from the first window that reaches it."""
    sequence = [start, *ids]
    logprobs = []
    for position, token in enumerate(ids):
        begin = 0
        while position >= begin + context:
            begin += stride
        hidden = model(torch.tensor([sequence[begin : position + 1]]))
        logprobs.append(model.head(hidden[0, -1]).double().log_softmax(0)[token])
    return torch.stack(logprobs)


@pytest.mark.parametrize(
    ("context", "stride"), [(16, 8), (16, 16), (16, 1), (5, 3), (1, 1), (None, None), (9, None)]
)
@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 61])
def test_every_token_equals_its_own_forward_pass(model, scorer, tokens, context, stride):
    ids = random_ids(tokens)
    expected_context = context or CONTEXT
    expected = brute_force(model, ids, START, expected_context, stride or expected_context // 2)

    actual = score_ids(scorer, ids, start_id=START, context=context, stride=stride)

    assert torch.allclose(torch.from_numpy(actual).double(), expected, atol=1e-5)


def test_total_is_the_sum_over_the_text_after_a_start_token(model, scorer):
    result = score(scorer, tiny_tokenizer(), "Well, well.")

    assert result.token_ids == tiny_tokenizer().encode("Well, well.")
    assert len(result.token_logprobs) == len(result.token_ids)
    expected = brute_force(model, result.token_ids, tiny_tokenizer().end_of_text_id, CONTEXT, 8)
    assert result.total == pytest.approx(expected.sum().item(), abs=1e-4)
    assert result.tally == Tally(result.total, tokens=len(result.token_ids), words=2, bytes=11)
    assert result.windows == Windows(context=16, stride=8)


def test_documents_in_one_batch_score_as_alone(model, scorer):
    texts = ["a", "Twelve bytes", "", "ж" * 30, "x" * 100, "a"]

    together = list(score_documents(scorer, tiny_tokenizer(), texts, Windows.of(model)))

    alone = [score(scorer, tiny_tokenizer(), text) for text in texts]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.token_logprobs == pytest.approx(other.token_logprobs, abs=1e-5)


def test_many_documents_are_scored_in_order_and_in_bounded_groups(model, monkeypatch):
    monkeypatch.setattr("conjure.lm.generation.score._GROUP_CHARACTERS", 50)
    monkeypatch.setattr("conjure.lm.generation.torch_scorer._TOGETHER", 32)
    consumed = 0

    def texts():
        nonlocal consumed
        for number in range(100):
            consumed += 1
            yield str(number) * 5

    scores = score_documents(TorchScorer(model), tiny_tokenizer(), texts(), Windows.of(model))

    decode = tiny_tokenizer().decode
    assert decode(next(scores).token_ids) == "00000"
    assert consumed <= 10, "the whole corpus was read before the first result"
    assert [decode(one.token_ids) for one in scores] == [str(number) * 5 for number in range(1, 100)]


def test_every_token_is_reported_once_as_work_goes_on(model, scorer):
    reported: list[int] = []
    texts = ["x" * 90, "ab", "", "He ate the clock."]

    scores = list(score_documents(scorer, tiny_tokenizer(), texts, Windows.of(model), report=reported.append))

    assert sum(reported) == sum(len(one.token_ids) for one in scores)


def test_perplexities_are_of_the_sums_not_means_of_means():
    short, long = Tally(-10.0, tokens=2, words=1, bytes=4), Tally(-20.0, tokens=18, words=9, bytes=76)

    both = short + long

    assert both == Tally(-30.0, 20, 10, 80)
    assert both.loss == 1.5
    assert both.perplexity == pytest.approx(math.exp(1.5))
    assert both.word_perplexity == pytest.approx(math.exp(3.0))
    assert both.bits_per_byte == pytest.approx(30 / 80 / math.log(2))


def test_no_text_has_probability_one_and_no_perplexity(model):
    result = score(TorchScorer(model), tiny_tokenizer(), "")

    assert (result.token_ids, result.token_logprobs, result.total) == ([], [], 0.0)
    assert math.isnan(result.perplexity)


def test_an_impossible_token_gives_an_infinite_perplexity_instead_of_an_overflow():
    assert Tally(-1e6, tokens=1, words=1, bytes=1).perplexity == math.inf


def test_dropout_is_off_while_scoring_and_back_afterwards(model):
    model.train()
    try:
        first = score(TorchScorer(model), tiny_tokenizer(), "Dropout would change this.")
        second = score(TorchScorer(model), tiny_tokenizer(), "Dropout would change this.")
        assert model.training
    finally:
        model.eval()
    assert first.token_logprobs == second.token_logprobs


@pytest.mark.parametrize(
    ("context", "stride", "words"),
    [
        (0, None, "context must be from 1 to the model's 16 tokens, not 0"),
        (17, None, "context must be from 1 to the model's 16 tokens, not 17"),
        (8, 9, "stride must be from 1 to the context, not 9"),
        (8, 0, "stride must be from 1 to the context, not 0"),
        (
            99,
            0,
            "16 tokens, not 99; stride must be from 1 to the context, not 0",
        ),
    ],
)
def test_windows_out_of_range_are_refused_all_at_once(model, context, stride, words):
    with pytest.raises(UsageError) as caught:
        score(TorchScorer(model), tiny_tokenizer(), "x", context=context, stride=stride)
    assert words in str(caught.value)


@pytest.mark.parametrize(("limit", "context"), [(512, 512), (8192, 8192), (131_072, 8192)])
def test_a_very_long_context_is_read_whole_only_if_asked_for(limit, context):
    """One window of it would take many gigabytes."""
    model = SimpleNamespace(context_length=limit)
    assert Windows.of(model) == Windows(context, context // 2)
    assert Windows.of(model, limit) == Windows(limit, limit // 2)


def test_score_is_plain_data(model):
    result = score(TorchScorer(model), tiny_tokenizer(), "ab")

    assert isinstance(result, Score)
    assert all(type(value) is float and value <= 0 for value in result.token_logprobs)
    assert all(type(token) is int for token in result.token_ids)
