"""A server ends when it is told to, whatever its models and predictors are at: real processes and signals."""

import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

import support


@contextmanager
def _stuck(call):
    """A server process one call of which never returns: the process, and its port."""
    script = f"{support.__path__[0]}/stuck_server.py"
    process = subprocess.Popen([sys.executable, script, call], stdout=subprocess.PIPE, text=True)
    try:
        yield process, int(process.stdout.readline().rsplit(":", 1)[1])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("call", ["resolve_model", "load_served_model", "prepare"])
def test_a_signal_ends_it_while_it_gets_ready(call, number):
    with _stuck(call) as (process, _):
        assert process.stdout.readline() == "called\n"
        process.send_signal(number)
        assert process.wait(30) == 0
        assert process.stdout.read() == ""  # it was not ready


@pytest.mark.parametrize(
    ("call", "request_line", "body"),
    [("predict", "POST /predict", b"{}"), ("health", "GET /health", b""), ("metrics", "GET /metrics", b"")],
)
def test_a_predictor_that_hangs_is_waited_for_no_longer_than_stated(call, request_line, body):
    with _stuck(call) as (process, port), socket.create_connection(("127.0.0.1", port)) as connection:
        assert process.stdout.readline() == "ready\n"
        headers = f"Host: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        connection.sendall(f"{request_line} HTTP/1.1\r\n{headers}\r\n\r\n".encode() + body)
        assert process.stdout.readline() == "called\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
