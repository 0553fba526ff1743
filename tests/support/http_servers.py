"""Real servers for tests: an application on a free loopback port, and a client that sends what it is told."""

import http.client
import json
import socket
import threading
from contextlib import contextmanager

from conjure.http.server import HttpServer, Shutdown, listen


class Client:
    """Sends requests to one server, each on a connection of its own."""

    def __init__(self, port):
        self.port = port

    def request(self, method, path, body=None, headers=None, *, host=None):
        """The answer, with `.json` where it is JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        if isinstance(body, dict | list):
            body = json.dumps(body).encode()
            headers = {"Content-Type": "application/json", **(headers or {})}
        if host is not None:
            headers = {"Host": host, **(headers or {})}
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        return Answer(response.status, response.headers, content)

    def get(self, path, headers=None, **more):
        return self.request("GET", path, headers=headers, **more)

    def post(self, path, body, headers=None, **more):
        return self.request("POST", path, body, headers, **more)

    def open(self):
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def raw(self, data):
        """What comes back for bytes, until the server closes the connection."""
        with self.open() as connection:
            connection.sendall(data)
            received = b""
            while piece := connection.recv(65536):
                received += piece
        return received


class Answer:
    """One answer."""

    def __init__(self, status, headers, content):
        self.status, self.headers, self.content = status, headers, content

    @property
    def json(self):
        return json.loads(self.content)

    @property
    def error(self):
        return self.json["error"]

    @property
    def events(self):
        """The data of each event of a stream, JSON but for the last."""
        blocks = self.content.decode().split("\n\n")
        assert blocks.pop() == ""
        data = [block.removeprefix("data: ") for block in blocks if not block.startswith(":")]
        return [each if each == "[DONE]" else json.loads(each) for each in data]


@contextmanager
def running(app, shutdown=None, *, bound=None):
    """A client of `app`, which is served until the block ends, on a free port or the one that is `bound`."""
    bound = bound or listen("127.0.0.1", 0, has_key=False)
    server = HttpServer(app, bound, shutdown or Shutdown(lambda: None, lambda: None))
    ready = threading.Event()
    thread = threading.Thread(target=server.run, args=[ready.set])
    thread.start()
    assert ready.wait(30)
    try:
        yield Client(bound.getsockname()[1])
    finally:
        server.end()
        thread.join(30)
        assert not thread.is_alive()
