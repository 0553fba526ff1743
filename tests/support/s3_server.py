"""A real S3-compatible server for tests: SeaweedFS, from its wheel, gone with the tests.

Main entry: `S3Server`. Invariant: it listens on this machine only, at ports of its own, and keeps what it was
given while it is stopped.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

_PATIENCE_S = 60.0


def _binary() -> Path:
    found = Path(sys.executable).with_name("weed")
    if not found.exists():
        raise AssertionError("these tests need SeaweedFS: make test-cluster installs it")
    return found


def _free_ports(count: int) -> list[int]:
    """Ports that are free, with the ones 10,000 above them, which SeaweedFS takes for itself."""
    found: list[int] = []
    while len(found) < count:
        with closing(socket.socket()) as one, closing(socket.socket()) as other:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port - 10000))
            except OSError:
                continue
            if port - 10000 not in found:
                found.append(port - 10000)
    return found


class S3Server:
    """A server in a folder of its own; the context manager starts and ends it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._prefixes = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.key, self.secret = f"key{secrets.token_hex(4)}", f"secret{secrets.token_hex(8)}"
        self._ports = _free_ports(4)
        self.port = self._ports[0]
        credentials = [{"accessKey": self.key, "secretKey": self.secret}]
        identity = {"name": "team", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (folder / "data").mkdir()

    @classmethod
    @contextmanager
    def running(cls) -> Iterator["S3Server"]:
        """A server while the block lasts."""
        with tempfile.TemporaryDirectory(prefix="conjure-s3-", ignore_cleanup_errors=True) as name:
            server = cls(Path(name))
            server.start()
            try:
                yield server
            finally:
                server.stop()

    def start(self) -> None:
        """Start it, and wait until it takes an object."""
        options = {
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "dir": self._folder / "data",
            "volume.max": 200,
            "master.volumeSizeLimitMB": 32,
            "master.port": self._ports[1],
            "volume.port": self._ports[2],
            "filer.port": self._ports[3],
            "s3.port": self.port,
            "s3.port.grpc": self.port + 10000,
            "s3.config": self._folder / "s3.json",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
        }
        arguments = ["-s3", *(f"-{name}={value}" for name, value in options.items())]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_binary(), "server", *arguments], cwd=self._folder, stdout=log, stderr=log
            )
        self._wait()

    def _wait(self) -> None:
        from obstore import put
        from obstore.exceptions import BaseError
        from obstore.store import S3Store

        config = {
            "aws_endpoint": f"http://127.0.0.1:{self.port}",
            "aws_region": "us-east-1",
            "aws_access_key_id": self.key,
            "aws_secret_access_key": self.secret,
        }
        retries = {"max_retries": 0}
        store = S3Store("teams", config=config, client_options={"allow_http": True}, retry_config=retries)
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                put(store, "object", b"ready")
            except BaseError:
                assert self._process is not None
                if self._process.poll() is not None:
                    raise AssertionError((self._folder / "log").read_text()[-2000:]) from None
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return

    def stop(self) -> None:
        """End it at once; what it has acknowledged stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Have it answer nobody, as a network that is cut; `go_on` ends it."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """End a `pause`."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def new_address(self) -> str:
        """The address of an object store in it that holds nothing: a bucket of its own costs many volumes."""
        self._prefixes += 1
        return f"s3://teams/{self._prefixes}?endpoint=http://127.0.0.1:{self.port}&region=us-east-1"

    def variables(self) -> dict[str, str]:
        """What tells a program the keys."""
        return {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}
