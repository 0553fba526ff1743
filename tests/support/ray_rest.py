"""A stand-in for a Ray cluster's REST interface: it keeps jobs, and a test says what becomes of them.

Main entry: `RayRest`. What the real one answers is held by tests/cluster/test_ray.py.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from conjure.core.config import ExecutorSettings

_GIB = 1 << 30


class RayRest:
    """A cluster of one node, until a test says otherwise."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, object]] = {}
        self.nodes = {"a": {"CPU": [0.0, 2.0], "memory": [0.0, 4.0 * _GIB]}}
        self.is_up = True
        self.moved_to: str | None = None
        self.refuses: list[str] = []
        self.fails: list[str] = []
        self.outputs: dict[str, str] = {}
        self.on_submission: Callable[[str], None] = lambda _: None
        self.tokens: list[str | None] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    @classmethod
    @contextmanager
    def running(cls) -> Iterator["RayRest"]:
        """One that answers while the block lasts."""
        rest = cls()
        thread = threading.Thread(target=rest._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield rest
        finally:
            rest._server.shutdown()
            rest._server.server_close()
            thread.join()

    def settings(self, **given: object) -> ExecutorSettings:
        """How a configuration names it."""
        return ExecutorSettings("gpu", "ray", self.address, **given)

    def set(self, **facts: object) -> None:
        """Change what is so: ``is_up``, ``nodes``, or the jobs that it ``refuses`` or ``fails`` to take."""
        for name, value in facts.items():
            setattr(self, name, value)

    def begin(self, job: str, node: str | None = None) -> None:
        """Let a job run."""
        self._change(job, "RUNNING")
        self.jobs[job]["driver_node_id"] = node

    def complete(self, job: str) -> None:
        """Let a job end well."""
        self._change(job, "SUCCEEDED", 0)

    def fail(self, job: str, exit_code: int, message: str = "") -> None:
        """Let a job end so by itself."""
        self._change(job, "FAILED", exit_code, message)

    def lose(self, job: str) -> None:
        """Let a job be lost with its node."""
        self._change(job, "FAILED", message="the node died")

    def _change(self, job: str, status: str, exit_code: int | None = None, message: str = "") -> None:
        self.jobs[job] |= {"status": status, "driver_exit_code": exit_code, "message": message}

    def answer(self, method: str, path: str, body: dict[str, object] | None) -> tuple[int, object]:
        """What it says."""
        if not self.is_up:
            return 503, "away"
        if path == "/api/cluster_status":
            return 200, {"data": {"clusterStatus": {"loadMetricsReport": {"usageByNode": self.nodes}}}}
        if path == "/api/jobs/" and method == "GET":
            return 200, list(self.jobs.values())
        if path == "/api/jobs/" and body is not None:
            name = str(body["submission_id"])
            if name in self.refuses:
                return 400, "no such runtime environment"
            if name in self.fails:
                return 503, "away"
            if name in self.jobs:
                return 500, f"ValueError: Job with submission_id {name} already exists. Use another."
            self.jobs[name] = {**body, "status": "PENDING", "message": "", "driver_exit_code": None}
            self.on_submission(name)
            return 200, {"submission_id": name}
        job = path.removeprefix("/api/jobs/").removesuffix("/logs")
        if job in self.outputs:
            return 200, {"logs": self.outputs[job]}
        return 404, "no such page"


def _handler(rest: RayRest) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._respond("GET", None)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self._respond("POST", json.loads(self.rfile.read(length) or b"null"))

        def _respond(self, method: str, body: dict[str, object] | None) -> None:
            rest.tokens.append(self.headers.get("Authorization"))
            status, content = rest.answer(method, self.path, body)
            data = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(status if rest.moved_to is None else 302)
            if rest.moved_to is not None:
                self.send_header("Location", rest.moved_to + self.path)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
