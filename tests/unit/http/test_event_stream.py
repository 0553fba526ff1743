"""Streams of events: what is sent, and that makers of events are closed when their client goes."""

import asyncio
import json
import threading
from contextlib import suppress

import pytest
from starlette.routing import Route

from conjure.http import event_stream
from conjure.http.access_control import AccessRules
from conjure.http.application import application
from conjure.http.errors import HttpError, JsonResponse
from conjure.http.event_stream import DONE, EventStream, event, until_disconnected
from support.http_servers import running

_closed = threading.Event()
_waits = threading.Event()


async def _three():
    for number in range(3):
        yield event({"number": number})
    yield DONE


async def _endless():
    try:
        yield event({})
        _waits.set()
        await asyncio.Event().wait()
    finally:
        _closed.set()


async def _failing():
    yield event({"number": 0})
    raise HttpError(503, "shutting down")


async def _breaking():
    yield event({"number": 0})
    raise ZeroDivisionError("/secret")


async def _slow():
    await asyncio.sleep(0.1)
    yield event({})


_MAKERS = {"three": _three, "endless": _endless, "failing": _failing, "breaking": _breaking, "slow": _slow}


async def _stream(request):
    return EventStream(_MAKERS[request.path_params["name"]]())


async def _wait(request):
    async def work():
        try:
            _waits.set()
            await asyncio.Event().wait()
        finally:
            _closed.set()

    return JsonResponse(await until_disconnected(request.receive, work()))


@pytest.fixture(scope="module")
def client():
    routes = [Route("/stream/{name}", _stream), Route("/wait", _wait)]
    with running(application(routes, AccessRules())) as client:
        yield client


def test_events_are_framed_and_not_kept(client):
    answer = client.get("/stream/three")
    assert (
        answer.content
        == b'data: {"number":0}\n\ndata: {"number":1}\n\ndata: {"number":2}\n\ndata: [DONE]\n\n'
    )
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize("path", ["/stream/endless", "/wait"])
def test_when_the_client_goes_the_work_ends(client, path):
    _closed.clear()
    _waits.clear()
    connection = client.open()
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n\r\n".encode())
    assert _waits.wait(30)
    assert not _closed.is_set()
    connection.close()
    assert _closed.wait(30)


def test_errors_end_a_stream_with_an_event(client):
    assert client.get("/stream/failing").events[1]["error"]["message"] == "shutting down"
    broken = client.get("/stream/breaking")
    assert broken.events[1]["error"]["type"] == "server_error"
    assert b"secret" not in broken.content


def test_a_fault_of_the_server_in_a_stream_is_logged(client, caplog):
    client.get("/stream/breaking")
    client.get("/stream/failing")
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]


def test_silence_is_filled_with_comments(client, monkeypatch):
    monkeypatch.setattr(event_stream, "_PING_AFTER_S", 0.01)
    content = client.get("/stream/slow").content
    assert content.startswith(b": ping\n\n")
    assert content.endswith(b"data: {}\n\n")
    assert b"id:" not in content


async def _many():
    try:
        while True:
            yield event({})
    finally:
        _closed.set()


def test_no_comment_is_sent_while_an_event_is_being_sent(monkeypatch):
    monkeypatch.setattr(event_stream, "_PING_AFTER_S", 0.01)
    _closed.clear()

    async def receive():
        await asyncio.Event().wait()

    sent = []

    async def send(message):
        sent.append(message)
        if len(sent) > 2:  # what the connection holds back
            await asyncio.Event().wait()

    async def stream():
        with suppress(TimeoutError):
            await asyncio.wait_for(EventStream(_many())({}, receive, send), 0.1)

    asyncio.run(stream())
    assert _closed.is_set()
    assert len(sent) == 3
    assert sent[-1]["more_body"]


def test_text_stays_text():
    text = 'line\n\ndata: forged\r\n "quoted" é \x85 \u2028 \u2029'
    framed = event({"text": text})
    assert framed.count(b"\n") == 2
    assert len(framed.decode().splitlines()) == 2
    assert "é" in framed.decode()
    assert json.loads(framed.removeprefix(b"data: ")) == {"text": text}
