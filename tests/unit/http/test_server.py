"""Listening and ending: real sockets, real signals."""

import asyncio
import http.client
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.responses import Response
from starlette.routing import Route

import support
from conjure.errors import UsageError
from conjure.http import connections, server
from conjure.http.access_control import AccessRules
from conjure.http.api_keys import ApiKeys
from conjure.http.application import application
from conjure.http.errors import JsonResponse
from conjure.http.event_stream import EventStream, event
from conjure.http.request_body import read_json_object
from conjure.http.server import DRAIN_S, address_of, listen
from support.http_servers import running


@contextmanager
def _streaming(kind):
    """A server process with one stream open: the process, and the answer being read."""
    script = f"{support.__path__[0]}/stream_server.py"
    process = subprocess.Popen([sys.executable, script, kind], stdout=subprocess.PIPE, text=True)
    try:
        port = int(process.stdout.readline().rsplit(":", 1)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/stream")
        answer = connection.getresponse()
        assert b"begun" in answer.readline()
        yield process, answer
        connection.close()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_a_stream_finish(number):
    with _streaming("short") as (process, answer):
        process.send_signal(number)
        assert b"ended" in answer.read()
        assert process.stdout.read().split() == ["drain", "over"]
        assert process.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_one_ends_it_at_once(number):
    with _streaming("long") as (process, answer):
        process.send_signal(number)
        assert process.stdout.readline() == "drain\n"
        process.send_signal(number)
        assert b"ended" in answer.read()
        assert process.stdout.read().split() == ["abort", "over"]
        assert process.wait() == 0


def test_draining_ends_in_time(monkeypatch):
    """What does not finish is ended after the time that is stated."""
    assert 5 <= DRAIN_S <= 30
    monkeypatch.setattr(server, "DRAIN_S", 0.1)
    aborted = asyncio.Event()

    async def events():
        yield event({"text": "begun"})
        await aborted.wait()
        yield event({"text": "ended"})

    async def stream(request):
        return EventStream(events())

    app = application([Route("/stream", stream)], AccessRules())
    with running(app, server.Shutdown(lambda: None, aborted.set)) as client:
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)
        connection.request("GET", "/stream")
        answer = connection.getresponse()
        assert b"begun" in answer.readline()
    assert b"ended" in answer.read()
    connection.close()


def test_a_taken_port_is_told():
    with listen("127.0.0.1", 0, has_key=False) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1 port {port}"):
            listen("127.0.0.1", port, has_key=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_beyond_loopback_a_key_is_needed(host):
    with pytest.raises(UsageError, match="no API key is set"):
        listen(host, 0, has_key=False)
    with listen(host, 0, has_key=True) as bound:
        assert address_of(bound).startswith(("http://127.0.0.1:", "http://[::1]:"))


@pytest.mark.parametrize("host", ["", "300.1.1.1", "a" * 300, "\udcff"])
def test_hosts_that_are_none(host):
    with pytest.raises(UsageError, match="not an address of this machine"):
        listen(host, 0, has_key=False)


def test_silent_and_slow_connections_are_closed(monkeypatch):
    monkeypatch.setattr(connections, "HEADERS_TIMEOUT_S", 0.2)
    with running(application([], AccessRules())) as client:
        with client.open() as silent:
            assert silent.recv(1) == b""
        with client.open() as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nHos")
            assert slow.recv(1) == b""


def test_too_many_connections_are_told_to_come_later(monkeypatch):
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 2)
    with running(application([], AccessRules())) as client:
        with client.open() as first, client.open() as second:
            for each in (first, second):
                each.sendall(b"GET / HTTP/1.1\r\n")
            refused = client.raw(b"GET / HTTP/1.1\r\n\r\n")
            assert refused.startswith(b"HTTP/1.1 503 Service Unavailable")
            assert b"Retry-After: 1" in refused
        assert client.get("/").status == 404


_KEY = "0123456789abcdef-key"
_WITH_KEY = f"Authorization: Bearer {_KEY}\r\n"
_JSON = "Content-Type: application/json\r\n"


async def _read(request):
    return JsonResponse(await read_json_object(request, most_bytes=1000, timeout_s=0.1))


@pytest.mark.parametrize(
    ("status", "path", "headers"),
    [
        (401, "/read", "Content-Length: 100\r\n"),
        (404, "/none", f"{_WITH_KEY}Content-Length: 100\r\n"),
        (408, "/read", f"{_WITH_KEY}{_JSON}Content-Length: 100\r\n"),
        (413, "/read", f"{_WITH_KEY}{_JSON}Content-Length: 10000\r\n"),
        (415, "/read", f"{_WITH_KEY}Content-Length: 100\r\n"),
    ],
)
def test_a_request_that_was_answered_keeps_no_connection_by_its_body(monkeypatch, status, path, headers):
    monkeypatch.setattr(connections, "HEADERS_TIMEOUT_S", 0.3)
    rules = AccessRules(authenticated=ApiKeys([_KEY]).accept)
    app = application([Route("/read", _read, methods=["POST"])], rules)
    with running(app) as client, client.open() as connection:
        host = f"Host: 127.0.0.1:{client.port}\r\n"
        connection.sendall(f"POST {path} HTTP/1.1\r\n{host}{headers}\r\n".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, bool(answer.read())) == (status, True)
        connection.sendall(b"{")
        assert connection.recv(1) == b""


def _with_small_buffers(connection):
    """The kernel holds next to nothing of what the other side has not read."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        connection.setsockopt(socket.SOL_SOCKET, option, 4096)
    return connection


@contextmanager
def _asking(path):
    """A connection whose client has asked for much and not read it yet."""

    async def whole(request):
        return Response(b"x" * request.path_params["size"])

    async def events():
        while True:
            yield event({"text": "x" * 1000})
            await asyncio.sleep(0)

    async def stream(request):
        return EventStream(events())

    app = application([Route("/whole/{size:int}", whole), Route("/stream", stream)], AccessRules())
    bound = _with_small_buffers(listen("127.0.0.1", 0, has_key=False))
    with running(app, bound=bound) as client, _with_small_buffers(socket.socket()) as connection:
        connection.settimeout(60)
        connection.connect(("127.0.0.1", client.port))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n\r\n".encode())
        yield connection


@pytest.mark.parametrize("path", ["/whole/60000", "/whole/8000000", "/stream"])
def test_a_client_that_reads_nothing_is_given_up(monkeypatch, path):
    closed = threading.Event()
    connection_lost = connections.BoundedConnection.connection_lost

    def note(self, error):
        connection_lost(self, error)
        closed.set()

    monkeypatch.setattr(connections.BoundedConnection, "connection_lost", note)
    monkeypatch.setattr(connections, "WRITE_TIMEOUT_S", 0.1)
    with _asking(path):
        assert closed.wait(30)


def test_a_client_that_reads_slowly_gets_everything(monkeypatch):
    timeout = 0.3
    monkeypatch.setattr(connections, "WRITE_TIMEOUT_S", timeout)
    with _asking("/whole/700000") as connection:
        began, received = time.monotonic(), b""
        while b"\r\n\r\n" not in received or len(received.partition(b"\r\n\r\n")[2]) < 700_000:
            piece = connection.recv(4096)
            assert piece
            received += piece
            time.sleep(0.005)
        assert time.monotonic() - began > 2 * timeout  # or the test shows nothing


def test_connections_leave_nothing_open():
    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    with running(application([], AccessRules())) as client:
        client.get("/")
        before, threads = descriptors(), threading.active_count()
        for _ in range(200):
            client.open().close()
        client.get("/")
        assert descriptors() <= before + 2  # one of each side may still be closing
        assert threading.active_count() == threads
