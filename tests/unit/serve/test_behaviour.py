"""How the server behaves: a bounded queue, clients that go, models that are loaded late, routes beside."""

import http.client
import json
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import pytest

from conjure.http.access_control import AccessRules
from conjure.http.api_keys import ApiKeys
from conjure.http.generation.service import Limits
from conjure.serve import api
from conjure.serve.api import OPEN_PATHS
from conjure.serve.token_texts import LegacyLogprobs
from support.api_servers import registry_of, serving
from support.models import tiny_checkpoint, tiny_tokenizer

KEY = "0123456789abcdef-key"
_LONG = {"model": "tiny", "prompt": "My", "max_tokens": 4000, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"), context_length=4096)


@pytest.fixture(scope="module")
def client(folder):
    with serving({"tiny": folder}) as client:
        yield client


def test_long_bodies_are_not_written_to_the_log_in_the_event_loop(client, monkeypatch, caplog):
    threads = []

    def recorded(body):
        threads.append(threading.current_thread().daemon)
        return json.dumps(body)

    monkeypatch.setattr(client.api, "_log_prompts", True)
    monkeypatch.setattr(api, "json", SimpleNamespace(dumps=recorded))
    caplog.set_level("INFO", "conjure.serve.bodies")
    for prompt in ("My", "My" * 5000):
        client.post("/v1/completions", {"model": "tiny", "prompt": prompt, "max_tokens": 1})
    assert threads == [False, True]
    assert len(caplog.records) == 2


class _Stream:
    """A stream that is open until it is dropped."""

    def __init__(self, client, **fields):
        self._connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)
        body = json.dumps(_LONG | fields).encode()
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", "/v1/completions", body, headers)
        self.answer = self._connection.getresponse()
        assert self.answer.status == 200
        assert self.answer.readline().startswith(b"data: ")

    def drop(self, *, reset=False):
        if reset:  # as when a program is killed
            linger = struct.pack("ii", 1, 0)
            self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.answer.close()
        self._connection.close()


def _until(condition):
    """Wait for what another thread does; the test's own time limit ends a wait for nothing."""
    while not condition():
        time.sleep(0.001)


def _running(client):
    return sum(client.service.running.values())


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_goes_frees_its_rows(client, reset):
    stream = _Stream(client, n=5)
    _until(lambda: _running(client) == 5)
    stream.drop(reset=reset)
    _until(lambda: _running(client) == 0)
    assert client.service.waiting == 0


def test_a_client_that_goes_before_a_plain_answer_frees_its_rows_too(client):
    body = json.dumps(_LONG | {"stream": False}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    _until(lambda: _running(client) == 1)
    connection.close()
    _until(lambda: _running(client) == 0)
    assert client.service.waiting == 0


def test_many_dropped_connections_leave_nothing(client):
    threads = threading.active_count()
    for number in range(60):
        stream = _Stream(client, n=2, stream=True)
        stream.drop(reset=number % 2 == 0)
    _until(lambda: _running(client) == 0)
    assert client.service.waiting == 0
    assert not client.service._open
    assert threading.active_count() <= threads + 8  # of the pool that encodes long prompts, at most
    assert client.post("/v1/completions", {"model": "tiny", "prompt": "a"}).status == 200


def test_a_full_queue_refuses_before_the_body_is_read(folder):
    with serving({"tiny": folder}, limits=Limits(most_rows=1, most_waiting=1)) as client:
        first = _Stream(client)
        waiting = threading.Thread(
            target=client.post, args=["/v1/completions", _LONG | {"stream": False, "max_tokens": 1}]
        )
        waiting.start()
        _until(lambda: client.service.waiting == 1)
        refused = client.request("POST", "/v1/completions", b"no JSON", {"Content-Type": "text/plain"})
        assert (refused.status, refused.error["code"]) == (429, "queue_full")
        assert refused.error["type"] == "rate_limit_error"
        assert refused.headers["Retry-After"] == "1"
        assert client.get("/ready").status == 429
        assert client.get("/health").status == 200
        first.drop()
        waiting.join()
        _until(lambda: client.service.waiting == 0)
        assert client.get("/ready").status == 200


def test_two_requests_at_once_find_the_one_slot_and_the_one_place_in_the_queue(folder):
    with serving({"tiny": folder}, limits=Limits(most_rows=1, most_waiting=1)) as client:
        # Neither has sent its body when the other comes, so neither can have begun.
        connections = [http.client.HTTPConnection("127.0.0.1", client.port, timeout=60) for _ in range(2)]
        body = json.dumps({"model": "tiny", "prompt": "a", "max_tokens": 1}).encode()
        for number, connection in enumerate(connections, start=1):
            connection.putrequest("POST", "/v1/completions")
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            _until(lambda number=number: client.service.waiting == number)
        assert client.post("/v1/completions", {}).status == 429
        for connection in connections:
            connection.send(body)
        assert [connection.getresponse().status for connection in connections] == [200, 200]
        for connection in connections:
            connection.close()


class _HeldReader:
    """Scores once it may."""

    def __init__(self, reader, may_read):
        self._reader, self._may_read = reader, may_read
        self.context_length = reader.context_length

    def read(self, texts):
        assert self._may_read.wait(60)
        yield from self._reader.read(texts)


def test_requests_for_scores_wait_in_the_queue_too(folder):
    may_read = threading.Event()
    body = {"model": "tiny", "prompt": "My", "max_tokens": 0, "echo": True, "logprobs": 0}
    with (
        serving({"tiny": folder}, limits=Limits(most_rows=1, most_waiting=1)) as client,
        ThreadPoolExecutor() as pool,
    ):
        model = client.api.registry.loaded["tiny"]
        model._exact = _HeldReader(model.exact(), may_read)
        try:
            first = pool.submit(client.post, "/v1/completions", body)
            _until(lambda: _running(client) == 1 and client.service.waiting == 0)
            second = pool.submit(client.post, "/v1/completions", body)
            _until(lambda: client.service.waiting == 1)
            assert client.post("/v1/completions", body).status == 429
            assert _value(client, "num_requests_running") == 1
            assert _value(client, "num_requests_waiting") == 1
        finally:
            may_read.set()
        assert [first.result().status, second.result().status] == [200, 200]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_long_to_make_holds_nobody_up(client, monkeypatch, stream):
    begun, may_go_on, in_time = threading.Event(), threading.Event(), []
    add_prompt = LegacyLogprobs.add_prompt

    def slow(self, *arguments):
        begun.set()
        in_time.append(may_go_on.wait(10))
        add_prompt(self, *arguments)

    monkeypatch.setattr(LegacyLogprobs, "add_prompt", slow)
    body = {"model": "tiny", "prompt": "My", "max_tokens": 1, "echo": True, "logprobs": 1, "stream": stream}
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(client.post, "/v1/completions", body)
        assert begun.wait(30)
        assert client.get("/health").status == 200
        may_go_on.set()
        assert answer.result().status == 200
    assert in_time == [True]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"echo": True, "logprobs": 20}, "logprobs"),
        ({"prompt_logprobs": 20}, "prompt_logprobs"),
        ({"echo": True, "logprobs": 0, "prompt_logprobs": 20}, "prompt_logprobs"),
    ],
)
def test_more_logprobs_of_prompts_than_an_answer_may_have_are_refused(client, fields, param):
    body = {"model": "tiny", "prompt": [[1] * 4000] * 14, "max_tokens": 0, **fields}
    answer = client.post("/v1/completions", body)
    assert (answer.status, answer.error["param"]) == (400, param)
    assert f"{param} makes 1,120,000 log-probabilities of prompts" in answer.error["message"]


def test_draining_takes_nothing_new_and_aborting_ends_streams(folder):
    with serving({"tiny": folder}) as client:
        stream = _Stream(client)
        client.service.drain()
        answer = client.post("/v1/completions", {"model": "tiny", "prompt": "a"})
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert stream.answer.readline() == b"\n"
        client.api.service._loop.call_soon_threadsafe(client.service.abort)
        rest = stream.answer.read()
        assert b"the server is shutting down" in rest
        assert b"[DONE]" not in rest.rpartition(b"error")[2]
        stream.drop()


def test_seeded_texts_are_the_same_in_company(client):
    body = {"model": "tiny", "prompt": "The baker", "seed": 7, "max_tokens": 30, "logprobs": 1}
    alone = client.post("/v1/completions", body).json["choices"]
    noise = [_Stream(client, n=3, max_tokens=3000, prompt=[5] * length) for length in (1, 90, 700)]
    for _ in range(5):
        (choice,) = client.post("/v1/completions", body).json["choices"]
        assert choice["text"] == alone[0]["text"]
        logprobs = choice["logprobs"]["token_logprobs"]
        assert logprobs == pytest.approx(alone[0]["logprobs"]["token_logprobs"], abs=1e-5)
    for stream in noise:
        stream.drop()


def test_the_tokenizer_is_served(client):
    tokenizer = tiny_tokenizer()
    answer = client.post("/tokenize", {"prompt": "My dog 😀"}).json
    assert answer["tokens"] == tokenizer.encode("My dog 😀")
    assert (answer["count"], answer["max_model_len"]) == (len(answer["tokens"]), 4096)
    assert client.post("/detokenize", {"tokens": answer["tokens"]}).json == {"prompt": "My dog 😀"}
    end = {"prompt": "<|endoftext|>", "model": "tiny", "add_special_tokens": False}
    assert client.post("/tokenize", end).json["tokens"] == [tokenizer.end_of_text_id]
    strings = client.post("/tokenize", {"prompt": "a b", "return_token_strs": True}).json["token_strs"]
    assert len(strings) == len(tokenizer.encode("a b"))
    info = client.get("/tokenizer_info").json
    assert (info["eos_token"], info["chat_template"]) == ("<|endoftext|>", None)


@pytest.mark.parametrize(
    ("path", "body"),
    [("/tokenize", {}), ("/tokenize", {"prompt": 1}), ("/tokenize", {"prompt": "\ud800"}),
     ("/tokenize", {"prompt": "a", "text": 1}), ("/detokenize", {}), ("/detokenize", {"tokens": [300]}),
     ("/detokenize", {"tokens": ["1"]}), ("/detokenize", {"tokens": 1})],
)  # fmt: skip
def test_bad_requests_for_the_tokenizer_are_refused(client, path, body):
    assert client.post(path, body).status == 400


def test_models_are_listed(client):
    (model,) = client.get("/v1/models").json["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("tiny", "model", 4096)
    assert client.get("/v1/models/tiny").json == model
    missing = client.get("/v1/models/some/other")
    assert (missing.status, missing.error["code"]) == (404, "model_not_found")


def _value(client, name):
    """A metric's value, over all labels."""
    lines = client.get("/metrics").content.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"conjure:{name}"))


def test_metrics_count_what_was_served(client):
    value = partial(_value, client)
    before = {
        name: value(name) for name in ("requests_total", "prompt_tokens_total", "generation_tokens_total")
    }
    client.post(
        "/v1/completions", {"model": "tiny", "prompt": [1, 2, 3], "max_tokens": 4, "ignore_eos": True}
    )
    assert value("requests_total") == before["requests_total"] + 1
    assert value("prompt_tokens_total") == before["prompt_tokens_total"] + 3
    assert value("generation_tokens_total") == before["generation_tokens_total"] + 4
    assert value("time_to_first_token_seconds_count") > 0
    assert value("inter_token_latency_seconds_count") >= 3
    assert value("num_requests_waiting") == 0
    assert client.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")


@pytest.mark.parametrize(
    "fields", [{}, {"stream": True}, {"max_tokens": 0, "echo": True}, {"stream": True, "n": 2, "logprobs": 1}]
)
def test_metrics_time_answers_that_are_complete(client, fields):
    before = _value(client, "e2e_request_latency_seconds_count")
    client.post("/v1/completions", {"model": "tiny", "prompt": "My", "max_tokens": 2} | fields)
    # A stream's client can be faster than what the server does after it.
    _until(lambda: _value(client, "e2e_request_latency_seconds_count") == before + 1)
    _Stream(client).drop()
    _until(lambda: not client.service._open)
    assert _value(client, "e2e_request_latency_seconds_count") == before + 1


def test_routes_that_clients_get_wrong_are_named(client):
    for path, right in (("/completions", "/v1/completions"), ("/v1/tokenize", "/tokenize")):
        assert right in client.post(path, {}).error["message"]


def test_every_route_needs_the_key_but_health(folder):
    rules = AccessRules(authenticated=ApiKeys([KEY]).accept, open_paths=OPEN_PATHS)
    with serving({"tiny": folder}, rules=rules) as client:
        paths = [route.path.replace("{name:path}", "tiny") for route in client.api.routes()]
        assert "/v1/completions" in paths
        for path in paths:
            for method in ("GET", "POST", "HEAD", "OPTIONS"):
                opened = path == "/health"
                assert (client.request(method, path).status == 401) != opened
        bearer = {"Authorization": f"Bearer {KEY}"}
        assert client.post("/v1/completions", {"model": "tiny", "prompt": "a"}, bearer).status == 200


class TestModels:
    """Several models, loaded when they are first asked for."""

    def test_others_are_loaded_when_they_are_named(self, tmp_path):
        folders = {name: tiny_checkpoint(tmp_path / name, seed=seed) for seed, name in enumerate("ab")}
        with serving(folders) as client:
            assert list(client.api.registry.loaded) == ["a"]
            texts = {}
            for name in "abab":
                body = {"model": name, "prompt": "My", "seed": 1, "max_tokens": 20}
                text = client.post("/v1/completions", body).json["choices"][0]["text"]
                assert texts.setdefault(name, text) == text
            assert texts["a"] != texts["b"]
            assert sorted(client.api.registry.loaded) == ["a", "b"]

    def test_what_was_given_as_the_source_is_a_name_too(self, tmp_path):
        folder = tiny_checkpoint(tmp_path / "a")
        with serving({"a": folder}) as client:
            answer = client.post("/v1/completions", {"model": str(folder), "prompt": "My"}).json
            assert answer["model"] == str(folder)

    def test_one_that_cannot_be_loaded_is_told_without_its_path(self, tmp_path):
        good, bad = tiny_checkpoint(tmp_path / "good"), tiny_checkpoint(tmp_path / "bad")
        (bad / "model.safetensors").write_bytes(b"damaged")
        with serving({"good": good, "bad": bad}) as client:
            answer = client.post("/v1/completions", {"model": "bad", "prompt": "My"})
            assert (answer.status, answer.error["code"]) == (500, "model_failed")
            assert str(tmp_path) not in answer.error["message"]
            assert client.post("/v1/completions", {"model": "good", "prompt": "My"}).status == 200

    def test_looking_one_up_holds_nobody_up_and_is_done_once(self, tmp_path):
        folder, version = tiny_checkpoint(tmp_path / "a"), [0]
        begun, may_go_on, in_time = threading.Event(), threading.Event(), []
        registry = registry_of({"a": folder}, links_version=lambda: version[0])

        def find(source):
            if version[0]:
                begun.set()
                in_time.append(may_go_on.wait(10))
            return folder

        registry._find = find
        with serving({}, registry=registry) as client, ThreadPoolExecutor() as pool:
            version[0] = 1
            body = {"model": "a", "prompt": "My"}
            answers = [pool.submit(client.post, "/v1/completions", body) for _ in range(2)]
            assert begun.wait(30)
            _until(lambda: client.service.waiting == 2)
            assert client.get("/health").status == 200
            may_go_on.set()
            assert [answer.result().status for answer in answers] == [200, 200]
        assert in_time == [True]

    def test_a_link_that_moves_takes_effect_for_new_requests(self, tmp_path):
        old, new = (
            tiny_checkpoint(tmp_path / "old", context_length=4096),
            tiny_checkpoint(tmp_path / "new", seed=5),
        )
        where = [old]
        registry = registry_of({"jokes": old}, links_version=lambda: where[0])
        registry._find = lambda source: where[0]
        with serving({}, registry=registry) as client:
            running = _Stream(client, model="jokes")
            body = {"model": "jokes", "prompt": "My", "seed": 1, "max_tokens": 10}
            before = client.post("/v1/completions", body).json["choices"][0]["text"]
            where[0] = new
            after = client.post("/v1/completions", body).json["choices"][0]["text"]
            assert after != before
            assert running.answer.readline() is not None
            assert sum(client.service.running.values()) == 1  # the old one goes on
            running.drop()
            _until(lambda: len(client.service._workers) == 1)
