"""``POST /v1/chat/completions``: for models with a template, and what is said of those without one."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from conjure.lm.text.chat.encoding import ChatEncoder
from conjure.lm.text.chat.formats import Message
from conjure.lm.text.chat.template import ChatTemplate
from conjure.lm.text.tokenizer import Tokenizer
from support.api_servers import serving
from support.chats import FAMILIES, chat_checkpoint
from support.models import tiny_checkpoint

_MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "the cat?"}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = chat_checkpoint(tmp_path_factory.mktemp("chat") / "chat", FAMILIES["chatml"])
    return {"chat": folder, "base": tiny_checkpoint(tmp_path_factory.mktemp("base"))}


@pytest.fixture(scope="module")
def client(folders):
    with serving(folders) as client:
        yield client


@pytest.fixture(scope="module")
def ask(client):
    def ask(**fields):
        body = {"model": "chat", "messages": _MESSAGES, "seed": 1, "max_tokens": 12, **fields}
        answer = client.post("/v1/chat/completions", body)
        assert answer.status == 200, answer.content
        return answer.json

    return ask


def _complete(client, folders, **fields):
    """The same by the completions route, with the ids of the rendered conversation."""
    encoder = ChatEncoder.of(Tokenizer.from_folder(folders["chat"]), model="chat")
    prompt = encoder.prompt([Message("system", "Be kind."), Message("user", "the cat?")])
    body = {"model": "chat", "prompt": prompt, "seed": 1, "max_tokens": 12, **fields}
    return client.post("/v1/completions", body).json


def test_an_answer_is_the_completion_of_the_rendered_conversation(client, ask, folders):
    chat, plain = ask(n=2, temperature=0.8), _complete(client, folders, n=2, temperature=0.8)
    assert [choice["message"]["content"] for choice in chat["choices"]] == [
        choice["text"] for choice in plain["choices"]
    ]
    assert [choice["finish_reason"] for choice in chat["choices"]] == [
        choice["finish_reason"] for choice in plain["choices"]
    ]
    assert chat["usage"] == plain["usage"]
    assert chat["object"] == "chat.completion"
    assert all(choice["message"]["role"] == "assistant" for choice in chat["choices"])


def test_contents_may_be_parts_and_max_completion_tokens_counts(ask):
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "cat?", "image_url": None}]
    whole = ask()["choices"][0]["message"]["content"]
    assert (
        ask(messages=[_MESSAGES[0], {"role": "user", "content": parts}])["choices"][0]["message"]["content"]
        == whole
    )
    assert ask(max_completion_tokens=3, max_tokens=9, ignore_eos=True)["usage"]["completion_tokens"] == 3


def test_an_answer_can_be_sent_back_with_its_nulls(ask):
    message = ask()["choices"][0]["message"]
    assert message["refusal"] is None
    assert ask(messages=[*_MESSAGES, message, _MESSAGES[1]])["choices"]


def test_a_template_that_takes_long_holds_nobody_up(client, ask, monkeypatch):
    begun, may_go_on, in_time = threading.Event(), threading.Event(), []
    render = ChatTemplate.render

    def slow(self, *arguments, **options):
        begun.set()
        in_time.append(may_go_on.wait(10))
        return render(self, *arguments, **options)

    monkeypatch.setattr(ChatTemplate, "render", slow)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(ask)
        assert begun.wait(30)
        assert client.get("/health").status == 200
        may_go_on.set()
        assert answer.result()["choices"]
    assert all(in_time)


def test_a_conversation_that_is_much_too_long_is_not_rendered_for_each_answer(client, monkeypatch):
    rendered = []
    render = ChatTemplate.render

    def counted(self, *arguments, **options):
        rendered.append(arguments)
        return render(self, *arguments, **options)

    monkeypatch.setattr(ChatTemplate, "render", counted)
    turns = [{"role": role, "content": "cat " * 100} for role in ("user", "assistant")] * 40
    answer = client.post("/v1/chat/completions", {"model": "chat", "messages": [*turns, _MESSAGES[1]]})
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
    assert len(rendered) == 2  # with and without marks


def test_without_a_limit_an_answer_may_fill_the_context(ask):
    usage = ask(max_tokens=None, ignore_eos=True)["usage"]
    assert usage["total_tokens"] == 256


def test_logprobs_have_the_shape_of_chats(ask):
    (choice,) = ask(logprobs=True, top_logprobs=2)["choices"]
    content = choice["logprobs"]["content"]
    spelled = b"".join(bytes(each["bytes"]) for each in content).decode("utf-8", "replace")
    assert spelled.startswith(choice["message"]["content"])
    for each in content:
        assert set(each) == {"token", "logprob", "bytes", "top_logprobs"}
        assert len(each["top_logprobs"]) == 2
        assert set(each["top_logprobs"][0]) == {"token", "logprob", "bytes"}
    assert all(not each["top_logprobs"] for each in ask(logprobs=True)["choices"][0]["logprobs"]["content"])
    assert ask()["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("fields", [{}, {"n": 2}, {"logprobs": True}, {"stop": ["e"]}])
def test_a_stream_says_the_same(client, ask, fields):
    whole = ask(**fields)["choices"]
    body = {"model": "chat", "messages": _MESSAGES, "seed": 1, "max_tokens": 12, "stream": True, **fields}
    events = client.post("/v1/chat/completions", body | {"stream_options": {"include_usage": True}}).events
    assert events.pop() == "[DONE]"
    usage = events.pop()
    assert (usage["choices"], usage["usage"]["prompt_tokens"] > 0) == ([], True)
    for choice in whole:
        own = [chunk["choices"][0] for chunk in events if chunk["choices"][0]["index"] == choice["index"]]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(each["delta"].get("content", "") for each in own) == choice["message"]["content"]
        assert [each["finish_reason"] for each in own] == [None] * (len(own) - 1) + [choice["finish_reason"]]
        assert own[-1]["delta"] == {}
        logprobs = [token for each in own if each["logprobs"] for token in each["logprobs"]["content"]]
        assert logprobs == (choice["logprobs"] or {"content": []})["content"]
    assert {chunk["object"] for chunk in events} == {"chat.completion.chunk"}


def test_a_base_model_is_pointed_to_completions(client):
    answer = client.post("/v1/chat/completions", {"model": "base", "messages": _MESSAGES})
    assert (answer.status, answer.error["code"]) == (400, "no_chat_template")
    assert "/v1/completions" in answer.error["message"]


def test_a_template_that_is_given_turns_chat_on(folders):
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    body = {"messages": [{"role": "user", "content": "My dog"}], "seed": 1, "max_tokens": 5}
    with serving({"base": folders["base"]}, chat_template=template) as client:
        chat = client.post("/v1/chat/completions", {"model": "base", **body}).json
        plain = {"model": "base", "prompt": "user: My dog\nassistant:", "seed": 1, "max_tokens": 5}
        text = client.post("/v1/completions", plain).json["choices"][0]["text"]
    assert chat["choices"][0]["message"]["content"] == text


def test_an_answer_ends_where_a_template_that_is_given_ends_its_turns(tmp_path):
    chatml = FAMILIES["chatml"]
    folder = chat_checkpoint(tmp_path / "chat", replace(chatml, eos="<|endoftext|>", template=""))
    (end,) = Tokenizer.from_folder(folder).encode("<|im_end|>", allow_special=True)
    body = {"model": "chat", "messages": _MESSAGES, "max_tokens": 12, "logit_bias": {str(end): 100}}
    with serving({"chat": folder}, chat_template=chatml.template) as client:
        answer = client.post("/v1/chat/completions", body).json
        assert client.get("/tokenizer_info").json["chat_template"] == chatml.template
    assert answer["usage"]["completion_tokens"] == 1
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_a_template_that_no_conversation_can_use_is_the_model_s_fault(folders):
    with serving({"base": folders["base"]}, chat_template=[{"name": "tools", "template": "x"}]) as client:
        answer = client.post("/v1/chat/completions", {"model": "base", "messages": _MESSAGES})
    assert (answer.status, answer.error["code"]) == (500, "model_failed")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": []}]}, "messages"),
        ({"messages": [{"role": "user", "content": "a", "x": 1}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": None, "refusal": None}]}, "messages"),
        ({"messages": [_MESSAGES[1]] * 1001}, "messages"),
        ({"messages": [{"role": "user", "content": "cat " * 400}]}, "messages"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
        ({"tools": [{}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 2}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 10**9}, "messages"),
        ({"functions": []}, "functions"),
        ({"prompt": "a"}, "prompt"),
        ({"temperature": 3}, "temperature"),
    ],
)
def test_bad_values_are_refused_by_name(client, fields, param):
    answer = client.post("/v1/chat/completions", {"model": "chat", "messages": _MESSAGES} | fields)
    assert (answer.status, answer.error["param"]) == (400, param), answer.content
    assert len(json.dumps(answer.error)) < 600
