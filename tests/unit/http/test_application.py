"""Answers of every kind have one shape and protecting headers; bodies are bounded."""

import json
import threading

import pytest
from starlette.routing import Route

from conjure.errors import ContextLengthError, ModelError, NotFoundError, UsageError
from conjure.http import request_body
from conjure.http.access_control import AccessRules
from conjure.http.application import application
from conjure.http.errors import HttpError, JsonResponse, bad_value
from conjure.http.request_body import parse_json_object, read_json_object
from support.http_servers import running

_FAULTS = {
    "usage": UsageError("n is 0", hint="more"),
    "context": ContextLengthError("too long"),
    "missing": NotFoundError("no such model"),
    "model": ModelError("the logits are not numbers"),
    "bug": ZeroDivisionError("/secret/path"),
    "own": bad_value("n", "is 0"),
    "busy": HttpError(429, "busy", code="queue_full", headers={"Retry-After": "1"}),
}


async def _fail(request):
    raise _FAULTS[request.path_params["name"]]


async def _echo(request):
    return JsonResponse(await read_json_object(request, most_bytes=1000, timeout_s=0.5))


_parsing = []  # the threads that parsed


async def _parsed(request):
    await read_json_object(request)
    return JsonResponse({"in_the_loop": _parsing.pop() is threading.current_thread()})


@pytest.fixture(scope="module")
def client():
    post = ["POST"]
    routes = [
        Route("/fail/{name}", _fail),
        Route("/echo", _echo, methods=post),
        Route("/parsed", _parsed, methods=post),
    ]
    with running(application(routes, AccessRules(), advice={"/ehco": "/echo"})) as client:
        yield client


def test_long_bodies_are_not_parsed_in_the_event_loop(client, monkeypatch):
    def recorded(body):
        _parsing.append(threading.current_thread())
        return parse_json_object(body)

    monkeypatch.setattr(request_body, "parse_json_object", recorded)
    assert client.post("/parsed", {"a": "short"}).json["in_the_loop"]
    assert not client.post("/parsed", {"a": "long" * 4000}).json["in_the_loop"]


@pytest.mark.parametrize(
    ("name", "status", "type_", "code", "param"),
    [
        ("usage", 400, "invalid_request_error", None, None),
        ("context", 400, "invalid_request_error", "context_length_exceeded", None),
        ("missing", 404, "invalid_request_error", None, None),
        ("model", 500, "server_error", "model_failed", None),
        ("bug", 500, "server_error", "internal_error", None),
        ("own", 400, "invalid_request_error", None, "n"),
        ("busy", 429, "rate_limit_error", "queue_full", None),
    ],
)
def test_errors_have_one_shape(client, name, status, type_, code, param):
    answer = client.get(f"/fail/{name}")
    assert answer.status == status
    error = answer.error
    assert list(error) == ["message", "type", "param", "code"]
    assert (error["type"], error["code"], error["param"]) == (type_, code, param)
    assert "secret" not in error["message"]


def test_a_hint_is_told_and_headers_are_kept(client):
    assert client.get("/fail/usage").error["message"] == "n is 0 (more)"
    assert client.get("/fail/busy").headers["Retry-After"] == "1"


def test_unknown_routes_and_methods_are_answered_likewise(client):
    assert client.get("/nothing").error["message"] == "there is no route '/nothing'"
    assert client.get("/ehco").error["message"] == "there is no route '/ehco'; did you mean '/echo'?"
    answer = client.get("/echo")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert answer.error["message"] == "GET is not allowed for '/echo'"


@pytest.mark.parametrize("path", ["/fail/usage", "/nothing", "/echo"])
def test_every_answer_has_a_name_and_protecting_headers(client, path):
    headers = client.get(path).headers
    assert headers["x-request-id"].startswith("req-")
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers.get("server") is None


@pytest.mark.parametrize(("given", "kept"), [("abc-1", True), ("x" * 101, False), ("a b", False)])
def test_the_clients_own_request_id_is_kept_if_it_is_sane(client, given, kept):
    assert (client.get("/nothing", {"x-request-id": given}).headers["x-request-id"] == given) == kept


def test_bodies_come_back(client):
    assert client.post("/echo", {"a": [1, "é", "\ud800"]}).json == {"a": [1, "é", "\ud800"]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"a":NaN}', "NaN is not"),
        (b'{"a":-Infinity}', "-Infinity is not"),
        (b'{"a":1,"a":2}', "'a' more than once"),
        (b'{"a":\xff}', "not UTF-8"),
        (b"[" * 900, "nested too deeply|not JSON"),
        (b'{"a":' + b"9" * 900 + b"}", None),
    ],
)
def test_bodies_that_are_no_json_object_are_refused(client, body, words):
    answer = client.post("/echo", body, {"Content-Type": "application/json; charset=utf-8"})
    if words is None:
        assert answer.status == 200
        return
    assert answer.status == 400
    assert any(each in answer.error["message"] for each in words.split("|"))


@pytest.mark.parametrize("body", [b"[" * 10_000 + b"]" * 10_000, b'{"a":' + b"9" * 5000 + b"}"])
def test_extreme_json_is_refused(body):
    with pytest.raises(HttpError) as caught:
        parse_json_object(body)
    assert caught.value.status == 400


@pytest.mark.timeout(60)  # comparing every name with every other one would take hours
def test_a_name_given_twice_is_found_among_very_many():
    names = ",".join(f'"{number}":0' for number in range(300_000))
    with pytest.raises(HttpError, match="contains '299999' more than once"):
        parse_json_object(f'{{{names},"299999":0}}'.encode())


@pytest.mark.parametrize(
    "headers",
    [{}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"},
     {"Content-Type": "application/json", "Content-Encoding": "gzip"}],
)  # fmt: skip
def test_only_json_is_read(client, headers):
    assert client.post("/echo", b"{}", headers).status == 415


def test_large_bodies_are_refused_announced_or_not(client):
    announced = client.post("/echo", {"a": "x" * 1000})
    assert announced.status == 413
    start = f"POST /echo HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\nContent-Type: application/json\r\n"
    huge = client.raw(f"{start}Content-Length: {10**12}\r\nConnection: close\r\n\r\n".encode())
    assert huge.split()[1] == b"413"
    chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
    chunked = client.raw(
        f"{start}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode() + chunk * 2
    )
    assert chunked.split()[1] == b"413"


def test_a_body_that_does_not_come_is_not_waited_for(client):
    start = f"POST /echo HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\nContent-Type: application/json\r\n"
    answer = client.raw(f"{start}Content-Length: 100\r\nConnection: close\r\n\r\n{{".encode())
    assert answer.split()[1] == b"408"


def test_many_headers_are_refused(client):
    answer = client.get("/nothing", {f"x-{number}": "1" for number in range(101)})
    assert answer.status == 431
    assert answer.error["message"] == "the request has more than 100 headers"
    raw = client.raw(b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 10_000 + b"\r\n")
    assert raw.split()[1] in (b"400", b"431")


def test_what_is_no_http_is_answered_in_json(client):
    answer = client.raw(b"\x16\x03\x01 hello\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == b"400"
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
