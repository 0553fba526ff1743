"""A small Hugging Face on the loopback interface: repositories are folders.

Speaks what `huggingface_hub` asks for when it looks a model up, lists it and downloads it.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit


class FakeHub:
    """Serves folders as model repositories.

    Attributes:
        repositories: Repository name to the folder of its only revision.
        gated: Names that answer only people who accepted the terms.
        requests: Paths asked for so far.
        url: Where it listens.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Path] = {}
        self.gated: set[str] = set()
        self.requests: list[str] = []
        self.url = ""

    def commit(self, name: str) -> str:
        """The commit a repository is at: changes with its files."""
        digest = hashlib.sha1(name.encode())
        for path in sorted(self.repositories[name].rglob("*")):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path."""
        self.requests.append(path)
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
        api = parts[:2] == ["api", "models"]
        parts = parts[2:] if api else parts
        name = next(
            (name for name in self.repositories if parts[: name.count("/") + 1] == name.split("/")), None
        )
        if name is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if name in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        rest = parts[name.count("/") + 1 :]
        commit, folder = self.commit(name), self.repositories[name]
        if len(rest) > 1 and rest[1] not in ("main", commit):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if not api:
            return self._file(folder / "/".join(rest[2:]), commit)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        if rest[:1] == ["tree"]:
            listing = [
                {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0" * 40}
                for path in files
            ]
            return 200, {}, json.dumps(listing).encode()
        info = {"id": name, "sha": commit, "siblings": [{"rfilename": path.name} for path in files]}
        return 200, {}, json.dumps(info).encode()

    @staticmethod
    def _file(path: Path, commit: str) -> tuple[int, dict[str, str], bytes]:
        if not path.is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        content = path.read_bytes()
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, content


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Run the hub while the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
