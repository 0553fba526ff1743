"""``POST /v1/completions`` against a real server on a tiny model: every field, and what its answer means."""

import json

import pytest

from conjure.lm.language_model import load
from support.api_servers import serving
from support.chats import FAMILIES, chat_checkpoint
from support.models import tiny_checkpoint, tiny_tokenizer

_PROMPT = "My dog ate"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"), context_length=64)


@pytest.fixture(scope="module")
def library(folder):
    return load(folder)


@pytest.fixture(scope="module")
def client(folder):
    with serving({"tiny": folder}) as client:
        yield client


@pytest.fixture(scope="module")
def ask(client):
    def ask(**fields):
        answer = client.post("/v1/completions", {"model": "tiny", "prompt": _PROMPT, "seed": 1, **fields})
        assert answer.status == 200, answer.content
        return answer.json

    return ask


@pytest.fixture(scope="module")
def refuse(client):
    def refuse(**fields):
        answer = client.post("/v1/completions", {"model": "tiny", "prompt": _PROMPT, **fields})
        assert answer.status == 400, answer.content
        assert answer.error["type"] == "invalid_request_error"
        return answer.error

    return refuse


def _texts(answer):
    return [choice["text"] for choice in answer["choices"]]


def _joined(client, **fields):
    """What a stream's chunks say in all, by index."""
    body = {"model": "tiny", "prompt": _PROMPT, "seed": 1, "stream": True, **fields}
    events = client.post("/v1/completions", body).events
    assert events.pop() == "[DONE]"
    texts, logprobs, finished, ids = {}, {}, {}, {}
    for chunk in events:
        for choice in chunk["choices"]:
            index = choice["index"]
            texts[index] = texts.get(index, "") + choice["text"]
            ids.setdefault(index, []).extend(choice.get("token_ids", []))
            if choice["logprobs"] is not None:
                for name, values in choice["logprobs"].items():
                    logprobs.setdefault(index, {}).setdefault(name, []).extend(values)
            assert index not in finished
            if choice["finish_reason"] is not None:
                finished[index] = choice["finish_reason"]
    return texts, logprobs, finished, ids, events


def test_a_text_is_what_the_library_generates_with_the_same_seed(ask, library):
    answer = ask(max_tokens=12, n=3, temperature=0.9, top_k=20, top_p=0.9, min_p=0.01, repetition_penalty=1.2)
    settings = {"temperature": 0.9, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2}
    samples = library.generate(_PROMPT, max_new_tokens=12, num_samples=3, seed=1, **settings)
    assert _texts(answer) == [sample.text for sample in samples]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["object"] == "text_completion"
    assert answer["model"] == "tiny"
    assert answer["seed"] == 1


def test_defaults_are_those_of_the_api(ask, library):
    answer = ask()
    assert answer["usage"]["completion_tokens"] <= 16
    (sample,) = library.generate(_PROMPT, max_new_tokens=16, seed=1, top_k=0)
    assert _texts(answer) == [sample.text]
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + len(sample.token_ids)


def test_a_drawn_seed_is_told_and_repeats_the_text(ask):
    first = ask(seed=None, max_tokens=20)
    assert _texts(ask(seed=first["seed"], max_tokens=20)) == _texts(first)
    assert ask(seed=None)["seed"] != first["seed"]


def test_prompts_in_four_forms(ask):
    ids = tiny_tokenizer().encode(_PROMPT)
    alone = _texts(ask())[0]
    assert _texts(ask(prompt=[_PROMPT])) == [alone]
    assert _texts(ask(prompt=ids)) == [alone]
    assert _texts(ask(prompt=[ids, ids[:2]]))[0] == alone
    several = ask(prompt=["The baker", _PROMPT], n=2)
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2, 3]
    assert _texts(several)[2] == alone


def test_no_prompt_is_the_start_of_a_document(ask):
    end = tiny_tokenizer().end_of_text_id
    texts = [_texts(ask(prompt=prompt)) for prompt in ("", None, [end], "<|endoftext|>", [[end]])]
    assert texts == [texts[0]] * 5


@pytest.mark.parametrize("stream", [False, True])
def test_echo_and_logprobs_have_the_prompts_values(client, ask, library, stream):
    fields = {"echo": True, "logprobs": 2, "max_tokens": 3}
    ids = tiny_tokenizer().encode(_PROMPT)
    if stream:
        texts, logprobs, *_ = _joined(client, **fields)
        text, logprobs = texts[0], logprobs[0]
    else:
        (choice,) = ask(**fields)["choices"]
        text, logprobs = choice["text"], choice["logprobs"]
    assert text.startswith(_PROMPT)
    count = len(logprobs["tokens"])
    assert [len(values) for values in logprobs.values()] == [count] * 4
    assert count == len(ids) + 3
    assert "".join(logprobs["tokens"][: len(ids)]) == _PROMPT
    assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
    scored = library.score(_PROMPT).token_logprobs  # after an end of text, which is not the same
    assert logprobs["token_logprobs"][1] != pytest.approx(scored[1], abs=1e-4)
    exact = library.logits([ids])[0].log_softmax(1)
    for place, token_id in enumerate(ids[1:]):
        assert logprobs["token_logprobs"][place + 1] == pytest.approx(exact[place, token_id].item(), abs=1e-5)
        assert len(logprobs["top_logprobs"][place + 1]) in (2, 3)
        assert max(logprobs["top_logprobs"][place + 1].values()) == pytest.approx(
            exact[place].max().item(), abs=1e-5
        )
    assert logprobs["text_offset"][0] == 0
    assert logprobs["text_offset"][len(ids)] == len(_PROMPT)


def test_what_evaluation_programs_send(ask, library):
    """One token, greedy, echoed: a token's value is the very number in `top_logprobs` if it is likeliest."""
    ids = [tiny_tokenizer().encode(text) for text in ("My dog ate the clock", "The baker quit", "猫は")]
    answer = ask(prompt=ids, max_tokens=1, temperature=0, logprobs=1, echo=True)
    for prompt, choice in zip(ids, answer["choices"], strict=True):
        logprobs = choice["logprobs"]
        assert len(logprobs["tokens"]) == len(prompt) + 1
        exact = library.logits([prompt])[0].log_softmax(1)
        for place, token_id in enumerate(prompt[1:]):
            greedy = logprobs["token_logprobs"][place + 1] == max(
                logprobs["top_logprobs"][place + 1].values()
            )
            assert greedy == (exact[place].argmax().item() == token_id)
        assert logprobs["token_logprobs"][-1] == max(logprobs["top_logprobs"][-1].values())


def test_echo_alone_and_max_tokens_0(ask):
    assert _texts(ask(echo=True, max_tokens=0)) == [_PROMPT]
    (choice,) = ask(echo=True, max_tokens=0, logprobs=0)["choices"]
    assert choice["finish_reason"] == "length"
    assert "".join(choice["logprobs"]["tokens"]) == _PROMPT
    assert all(len(top) == 1 for top in choice["logprobs"]["top_logprobs"][1:])
    without = _texts(ask(max_tokens=5))[0]
    assert _texts(ask(max_tokens=5, echo=True)) == [_PROMPT + without]


def test_without_echo_offsets_count_the_prompt(ask):
    (choice,) = ask(max_tokens=4, logprobs=1)["choices"]
    assert choice["logprobs"]["text_offset"][0] == len(_PROMPT)
    assert len(choice["logprobs"]["tokens"]) == 4


_ids, _END = tiny_tokenizer().encode, tiny_tokenizer().end_of_text_id


@pytest.mark.parametrize(
    ("prompt", "text", "offsets"),
    [
        ("<|endoftext|>", "<|endoftext|>", [0]),
        ("", "", [0]),  # what it is read after is no part of it
        ([_END], "<|endoftext|>", [0]),
        ([*_ids("My dog"), _END, *_ids("The")], "My dog<|endoftext|>The", None),
        ("猫は 😀 <|endoftext|>", "猫は 😀 <|endoftext|>", None),
        (_ids("😁")[:1], "\ufffd", [0]),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_offsets_are_where_tokens_begin_with_or_without_echo(client, ask, prompt, text, offsets, stream):
    def asked(**fields):
        fields = {"prompt": prompt, "max_tokens": 2, "logprobs": 0, "ignore_eos": True, **fields}
        if not stream:
            (choice,) = ask(**fields)["choices"]
            return choice["text"], choice["logprobs"]
        texts, logprobs, *_ = _joined(client, **fields)
        return texts[0], logprobs[0]

    alone, (echoed, both) = asked()[1], asked(echo=True)
    of_prompt = both["text_offset"][:-2]
    assert both["text_offset"][-2:] == alone["text_offset"]
    assert echoed.startswith(text)
    assert alone["text_offset"][0] == len(text)
    assert offsets is None or of_prompt == offsets
    ends = [*of_prompt[1:], alone["text_offset"][0]]
    for token, start, end in zip(both["tokens"][:-2], of_prompt, ends, strict=True):
        assert token.startswith("bytes:") or echoed[start:end] in (token, "")


def test_offsets_do_not_count_the_space_that_a_tokenizer_puts_before_a_text(tmp_path):
    folder = chat_checkpoint(tmp_path / "llama", FAMILIES["llama2"])
    with serving({"llama": folder}) as client:

        def ask(**fields):
            fields = {"model": "llama", "max_tokens": 1, "logprobs": 0, "seed": 1, **fields}
            return client.post("/v1/completions", fields).json["choices"][0]

        ids = client.post("/tokenize", {"prompt": "the cat", "model": "llama"}).json["tokens"]
        for prompt, text, start in (("the cat", "the cat", [0, 0]), (ids, "<s> the cat", [0, 3])):
            echoed = ask(prompt=prompt, echo=True)
            offsets = echoed["logprobs"]["text_offset"]
            assert echoed["text"].startswith(text)
            assert offsets[:2] == start
            assert offsets[-1] == ask(prompt=prompt)["logprobs"]["text_offset"][0] == len(text)
            for token, a, b in zip(echoed["logprobs"]["tokens"][2:], offsets[2:], offsets[3:], strict=False):
                assert token == echoed["text"][a:b]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"logprobs": 1},
        {"n": 2, "prompt": [_PROMPT, "The"]},
        {"stop": ["e", "a"]},
        {"echo": True, "logprobs": 0},
        {"max_tokens": 0, "echo": True},
        {"max_tokens": 0, "echo": True, "logprobs": 1},
    ],
)
def test_a_stream_says_the_same(client, ask, fields):
    fields = {"max_tokens": 12, **fields}
    whole = ask(**fields)["choices"]
    texts, logprobs, finished, _, events = _joined(client, **fields)
    assert [texts[choice["index"]] for choice in whole] == [choice["text"] for choice in whole]
    assert [finished[choice["index"]] for choice in whole] == [choice["finish_reason"] for choice in whole]
    for choice in whole:
        assert logprobs.get(choice["index"]) == choice["logprobs"]
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in events}) == 1


def test_usage_comes_last_and_only_when_asked_for(client, ask):
    usage = ask(max_tokens=5)["usage"]
    *_, events = _joined(client, max_tokens=5, stream_options={"include_usage": True})
    assert (events[-1]["choices"], events[-1]["usage"]) == ([], usage)
    assert all(chunk["usage"] is None for chunk in events[:-1])
    *_, events = _joined(client, max_tokens=5)
    assert not any("usage" in chunk for chunk in events)


def test_stop_strings_end_a_text_and_are_told(ask):
    whole = _texts(ask(max_tokens=30))[0]
    stop = whole[5:7]
    (choice,) = ask(max_tokens=30, stop=stop)["choices"]
    assert choice["text"] == whole[: whole.index(stop)]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    (choice,) = ask(max_tokens=30, stop=["no such text", stop])["choices"]
    assert choice["stop_reason"] == stop


def test_token_ids_that_stop(ask):
    (choice,) = ask(max_tokens=30, return_token_ids=True)["choices"]
    token_id = choice["token_ids"][4]
    (stopped,) = ask(max_tokens=30, stop_token_ids=[token_id], return_token_ids=True)["choices"]
    first = choice["token_ids"].index(token_id)
    assert stopped["token_ids"] == choice["token_ids"][: first + 1]
    assert (stopped["finish_reason"], stopped["stop_reason"]) == ("stop", token_id)
    assert stopped["prompt_token_ids"] == tiny_tokenizer().encode(_PROMPT)


def test_end_of_text_can_be_banned_forced_and_ignored(ask):
    end = tiny_tokenizer().end_of_text_id
    forced = {str(end): 100}
    (choice,) = ask(max_tokens=5, logit_bias=forced, temperature=0)["choices"]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("", "stop", None)
    (later,) = ask(max_tokens=5, logit_bias=forced, temperature=0, min_tokens=3, return_token_ids=True)[
        "choices"
    ]
    assert later["token_ids"].index(end) == 3
    (ignored,) = ask(max_tokens=5, logit_bias=forced, temperature=0, ignore_eos=True, return_token_ids=True)[
        "choices"
    ]
    assert ignored["token_ids"] == [end] * 5
    assert ignored["text"] == ""
    (banned,) = ask(max_tokens=40, logit_bias={str(end): -100}, return_token_ids=True)["choices"]
    assert end not in banned["token_ids"]


def test_penalties_work_on_what_was_generated(ask):
    ids = ask(max_tokens=30, temperature=0, return_token_ids=True)["choices"][0]["token_ids"]
    assert len(set(ids)) < len(ids)
    for penalty in ({"presence_penalty": 2}, {"frequency_penalty": 2}):
        other = ask(max_tokens=30, temperature=0, return_token_ids=True, **penalty)["choices"][0]["token_ids"]
        assert other[0] == ids[0]  # nothing was generated before it
        assert len(set(other)) > len(set(ids))


def test_best_of_takes_the_likeliest_by_token(ask):
    def mean(choice):
        values = choice["logprobs"]["token_logprobs"]
        return sum(values) / len(values)

    every = ask(n=4, logprobs=0, max_tokens=8)
    best = ask(n=2, best_of=4, logprobs=0, max_tokens=8)
    expected = sorted(every["choices"], key=mean, reverse=True)[:2]
    assert _texts(best) == [choice["text"] for choice in expected]
    assert [choice["index"] for choice in best["choices"]] == [0, 1]
    assert best["usage"] == every["usage"]


def test_prompt_logprobs_and_tokens_as_ids(ask):
    ids = tiny_tokenizer().encode(_PROMPT)
    (choice,) = ask(prompt_logprobs=1, max_tokens=2, logprobs=1, return_tokens_as_token_ids=True)["choices"]
    assert choice["prompt_logprobs"][0] is None
    for token_id, entry in zip(ids[1:], choice["prompt_logprobs"][1:], strict=True):
        assert entry[str(token_id)]["rank"] >= 1
        assert entry[str(token_id)]["decoded_token"] == tiny_tokenizer().decode([token_id])
    assert all(token.startswith("token_id:") for token in choice["logprobs"]["tokens"])


def test_pieces_of_characters_are_spelled_by_their_bytes(ask):
    logprobs = ask(prompt="😀", echo=True, logprobs=1, max_tokens=0)["choices"][0]["logprobs"]
    assert any(token.startswith("bytes:\\x") for token in logprobs["tokens"])
    assert "\ufffd" not in json.dumps(logprobs, ensure_ascii=False)


def test_long_prompts_are_refused_or_cut(ask, refuse):
    error = refuse(prompt=[1] * 60, max_tokens=5)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    assert "64 tokens" in error["message"]
    assert ask(prompt=[1] * 59, max_tokens=5)["usage"]["prompt_tokens"] == 59
    assert ask(prompt=[*[1] * 100, 2, 3], truncate_prompt_tokens=2)["usage"]["prompt_tokens"] == 2
    assert ask(prompt=[1] * 100, truncate_prompt_tokens=-1, max_tokens=4)["usage"]["prompt_tokens"] == 60
    cut = ask(prompt=_PROMPT, truncate_prompt_tokens=2, echo=True, max_tokens=0)
    assert _PROMPT.endswith(_texts(cut)[0])


_HUGE = 10**18


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best": 1}, "best"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": _HUGE}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "1"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 999_999}, "temperature"),
        ({"temperature": [1]}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"top_p": 1e308}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"n": 0}, "n"),
        ({"n": _HUGE}, "n"),
        ({"n": 128, "prompt": ["a"] * 3}, "n"),
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"best_of": 128, "prompt": ["a"] * 3}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"echo": 1}, "echo"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["a"] * 65}, "stop"),
        ({"stop": ["a" * 1001]}, "stop"),
        ({"stop": 1}, "stop"),
        ({"stop_token_ids": [300]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"300": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"1": None}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"logit_bias": {str(number): 0 for number in range(1025)}}, "logit_bias"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"min_tokens": 17}, "min_tokens"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 65}, "truncate_prompt_tokens"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [300]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [[1], "a"]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": ["a"] * 257}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"model": None}, "model"),
        ({"model": 1}, "model"),
    ],
)
def test_bad_values_are_refused_by_name(refuse, fields, param):
    error = refuse(**fields)
    assert error["param"] == param
    assert param in error["message"]
    assert len(error["message"]) < 400


def test_a_slip_is_answered_with_the_right_name(refuse):
    error = refuse(max_token=5)
    assert (error["param"], error["code"]) == ("max_token", "unknown_field")
    assert "did you mean max_tokens" in error["message"]


def test_fields_for_the_services_own_use_are_ignored(ask):
    assert ask(user="u", metadata={"a": "b"}, store=True, service_tier="auto", suffix=None)["choices"]


def test_unknown_models_are_not_found(client):
    for name in ("other", "../tiny", "sprite", "gpt2", "/etc", "runs/1"):
        answer = client.post("/v1/completions", {"model": name, "prompt": "a"})
        assert (answer.status, answer.error["code"], answer.error["param"]) == (
            404,
            "model_not_found",
            "model",
        )


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 2, "top_k": 0},
        {"temperature": 1e-300},
        {"top_p": 1e-300},
        {"top_p": 0},
        {"top_k": 2**31 - 1},
        {"min_p": 1},
        {"repetition_penalty": 0.01},
        {"repetition_penalty": 100},
        {"logit_bias": {str(number): -100 for number in range(300)}},
        {"seed": -(2**63)},
        {"seed": 2**64 - 1},
        {"n": 128, "max_tokens": 1},
    ],
)
def test_extreme_values_within_bounds_are_served(ask, fields):
    assert ask(**{"max_tokens": 4, **fields})["choices"]
