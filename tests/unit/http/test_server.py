"""Listening and ending: real sockets, real signals."""

import asyncio
import http.client
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.routing import Route

import support
from conjure.errors import UsageError
from conjure.http import connections, server
from conjure.http.access import AccessRules
from conjure.http.application import application
from conjure.http.event_stream import EventStream, event
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
