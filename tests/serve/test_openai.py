"""The official client, with its types validated strictly, for every field of completions."""

import openai
import pytest
from openai.types import Completion, Model

_PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def client(address):
    # Strict: an answer that does not fit the client's types is an error, not a shape of its own.
    with openai.OpenAI(
        base_url=address, api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


@pytest.fixture(scope="module")
def lenient(address):
    """As the client is by default: OpenAI itself sends two nulls that its own types have not."""
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"prompt": [_PROMPT, "The dog"]},
        {"prompt": [1, 2, 3]},
        {"prompt": [[1, 2, 3], [4]]},
        {"n": 3, "best_of": 4},
        {"temperature": 0},
        {"temperature": 0.5, "top_p": 0.9},
        {"logprobs": 5},
        {"stop": [".", "\n"]},
        {"stop": "."},
        {"logit_bias": {"8191": -100}},
        {"presence_penalty": 1.0, "frequency_penalty": 0.5},
        {"user": "someone"},
        {"echo": True},
        {"extra_body": {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "min_tokens": 3}},
        {"extra_body": {"ignore_eos": True, "stop_token_ids": [8191], "truncate_prompt_tokens": 3}},
        {"extra_body": {"return_token_ids": True, "return_tokens_as_token_ids": True}, "logprobs": 1},
    ],
)
def test_every_field_makes_the_round_trip(client, fields):
    answer = client.completions.create(
        **{"model": "sprite", "prompt": _PROMPT, "max_tokens": 6, "seed": 1} | fields
    )
    assert isinstance(answer, Completion)
    prompts = fields.get("prompt", _PROMPT)
    several = isinstance(prompts, list) and not isinstance(prompts[0], int)
    assert len(answer.choices) == (len(prompts) if several else 1) * fields.get("n", 1)
    assert all(choice.finish_reason in ("stop", "length") for choice in answer.choices)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    again = client.completions.create(
        **{"model": "sprite", "prompt": _PROMPT, "max_tokens": 6, "seed": 1} | fields
    )
    assert [choice.text for choice in again.choices] == [choice.text for choice in answer.choices]


def test_echoed_logprobs(lenient):
    answer = lenient.completions.create(model="sprite", prompt=_PROMPT, max_tokens=2, echo=True, logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs.token_logprobs[0] is None
    assert answer.choices[0].text.startswith(_PROMPT)
    assert "".join(logprobs.tokens[:-2]) == _PROMPT
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])


def test_a_stream_joins_to_the_text(lenient):
    fields = {"model": "sprite", "prompt": _PROMPT, "max_tokens": 30, "seed": 5}
    whole = lenient.completions.create(**fields)
    chunks = list(lenient.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], whole.usage.completion_tokens)


def test_models(client):
    (model,) = client.models.list().data
    assert isinstance(model, Model)
    assert client.models.retrieve("sprite") == model


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"temperature": 3}, openai.BadRequestError, "temperature"),
        ({"suffix": "x"}, openai.BadRequestError, "suffix"),
        ({"max_tokens": 10_000}, openai.BadRequestError, "prompt"),
        ({"model": "other"}, openai.NotFoundError, "model"),
        ({"extra_body": {"guided": 1}}, openai.BadRequestError, "guided"),
    ],
)
def test_errors_are_the_clients_own(client, fields, error, param):
    with pytest.raises(error) as caught:
        client.completions.create(**{"model": "sprite", "prompt": _PROMPT} | fields)
    assert caught.value.param == param
    assert caught.value.request_id.startswith("req-")


def test_chat_points_a_base_model_to_completions(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="sprite", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.code == "no_chat_template"
    assert "/v1/completions" in str(caught.value)


def test_a_conversation_goes_on_with_the_answer_as_it_came(chat_address):
    with openai.OpenAI(base_url=chat_address, api_key="none", max_retries=0) as client:
        messages = [{"role": "user", "content": "Tell me of a dog."}]
        for question in ("And then?", "How did it end?"):
            answer = client.chat.completions.create(model="sprite", messages=messages, max_tokens=8, seed=1)
            messages += [answer.choices[0].message, {"role": "user", "content": question}]
        assert answer.usage.completion_tokens <= 8
