"""Generation against transformers: the same greedy text, the same distribution to sample from."""

import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from conjure.lm.checkpoints.pretrained import load_checkpoint, save_checkpoint
from conjure.lm.generation.generate import generate
from conjure.lm.generation.request import GenerationRequest, SamplingSettings
from conjure.lm.generation.sampling import candidates, without_repetition
from support.models import tiny_checkpoint, tiny_config, tiny_model, tiny_tokenizer
from support.oracle import reference_model

PROMPTS = ["My dog ate", "Why did the scarecrow win", "猫", "He"]
SHAPES = {"tiny": {}, "deep": {"n_layer": 4, "n_embd": 24, "n_head": 3}, "wide": {"n_embd": 64, "n_head": 4}}


@pytest.fixture(scope="module", params=SHAPES)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parity") / request.param
    return tiny_checkpoint(folder, context_length=64, **SHAPES[request.param])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"repetition_penalty": 1.7}, {"repetition_penalty": 1.7}),
        ({"no_repeat_ngram": 2}, {"no_repeat_ngram_size": 2}),
        (
            {"repetition_penalty": 1.2, "no_repeat_ngram": 3},
            {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3},
        ),
    ],
    ids=["plain", "penalty", "ngram", "both"],
)
def test_greedy_text_and_logprobs_are_identical(folder, ours, theirs):
    model, tokenizer = load_checkpoint(folder)
    reference, reference_tokenizer = (
        GPT2LMHeadModel.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )

    samples = generate(
        model, tokenizer, GenerationRequest(prompts=PROMPTS, temperature=0, max_new_tokens=40, **ours)
    )

    for prompt, sample in zip(PROMPTS, samples, strict=True):
        encoded = reference_tokenizer(prompt, return_tensors="pt")
        expected = reference.generate(
            **encoded,
            do_sample=False,
            max_new_tokens=40,
            pad_token_id=tokenizer.end_of_text_id,
            output_logits=True,
            return_dict_in_generate=True,
            **theirs,
        )
        new_ids = expected.sequences[0, encoded["input_ids"].shape[1] :]
        assert sample.token_ids == new_ids.tolist()
        assert sample.text == reference_tokenizer.decode(new_ids, skip_special_tokens=True)
        logprobs = torch.cat(expected.logits).log_softmax(1).gather(1, new_ids[:, None]).squeeze(1)
        assert sample.logprobs == pytest.approx(logprobs.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 0},
        {"top_k": 0, "temperature": 0.6},
        {"top_k": 7},
        {"top_k": 0, "top_p": 0.8},
        {"top_k": 0, "min_p": 0.05},
        {"top_k": 40, "top_p": 0.9, "min_p": 0.02, "temperature": 1.7},
        {"top_k": 12, "top_p": 0.7, "temperature": 0.5, "repetition_penalty": 1.4, "no_repeat_ngram": 2},
    ],
    ids=str,
)
def test_the_distribution_sampled_from_is_theirs(settings):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 300, generator=generator) * 3
    history = torch.randint(0, 300, (8, 30), generator=generator)
    wanted = SamplingSettings(**settings)

    ids, scores = candidates(without_repetition(logits.numpy(), history.tolist(), wanted), wanted)

    shares = torch.from_numpy(scores).softmax(1)
    ours = torch.zeros(8, 300, dtype=torch.float64).scatter(1, torch.from_numpy(ids.copy()), shares)
    theirs = their_processors(wanted)(history, logits.clone()).double().softmax(1)
    assert torch.equal(ours > 0, theirs > 0)
    assert torch.allclose(ours, theirs, atol=1e-6)


def their_processors(settings: SamplingSettings) -> LogitsProcessorList:
    """transformers' processors for these settings, in the order its own `generate` has them."""
    chain = [
        RepetitionPenaltyLogitsProcessor(settings.repetition_penalty),
        NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram) if settings.no_repeat_ngram else None,
        TemperatureLogitsWarper(float(settings.temperature)),
        TopKLogitsWarper(settings.top_k) if settings.top_k else None,
        TopPLogitsWarper(settings.top_p) if settings.top_p < 1 else None,
        MinPLogitsWarper(settings.min_p) if settings.min_p else None,
    ]
    return LogitsProcessorList([processor for processor in chain if processor is not None])


def test_their_generate_puts_its_processors_in_that_order():
    model = reference_model(tiny_config())
    settings = model.generation_config
    settings.update(do_sample=True, repetition_penalty=1.4, no_repeat_ngram_size=2)
    settings.update(temperature=0.5, top_k=9, top_p=0.5, min_p=0.1)

    processors = model._get_logits_processor(generation_config=settings, input_ids_seq_length=3)

    ours = SamplingSettings(
        repetition_penalty=1.4, no_repeat_ngram=2, temperature=0.5, top_k=9, top_p=0.5, min_p=0.1
    )
    assert [type(processor) for processor in processors] == [
        type(processor) for processor in their_processors(ours)
    ]


def test_an_ended_document_ends_for_both(tmp_path):
    """The ids agree to the last, which is the end-of-text token."""
    model, tokenizer = tiny_model(seed=3), tiny_tokenizer()
    with torch.no_grad():  # a model that ends soon
        model.embedding.weight[tokenizer.end_of_text_id] += 1.5 * model.final_norm.bias
    save_checkpoint(tmp_path / "model", model, tokenizer)
    reference = GPT2LMHeadModel.from_pretrained(tmp_path / "model")

    samples = generate(model, tokenizer, GenerationRequest(prompts=PROMPTS, temperature=0, max_new_tokens=20))

    reasons = {sample.finish_reason for sample in samples}
    assert reasons == {"end_of_text", "length"}, "the test needs texts that end and texts that do not"
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        ids = torch.tensor([tokenizer.encode(prompt)])
        expected = reference.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=20,
            pad_token_id=tokenizer.end_of_text_id,
        )
        assert sample.token_ids == expected[0, ids.shape[1] :].tolist()
