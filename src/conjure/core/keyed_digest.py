"""A digest that only this home can make: of texts that may hold secrets.

Main entry: `keyed_digest`. Invariant: the key is made once, lies in the home, and only its owner can read it.
"""

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from conjure.core.home import Home
from conjure.core.text import error_text
from conjure.errors import StoreError

_KEY_BYTES = 32


def keyed_digest(home: Home, content: bytes) -> str:
    """The HMAC-SHA-256 of `content` with the home's key, in hexadecimal.

    Raises:
        StoreError: The key can be neither read nor made.
    """
    try:
        return hmac.digest(_key(home.identity_key), content, hashlib.sha256).hex()
    except OSError as error:
        raise StoreError(f"{home.identity_key} cannot be used: {error_text(error)}") from error


def _key(path: Path) -> bytes:
    with suppress(FileNotFoundError):
        key = path.read_bytes()
        if len(key) == _KEY_BYTES:
            return key
        path.unlink()  # cut off by a crash: what it made is recognised no more, and nothing else is lost
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        with suppress(FileExistsError):
            os.link(new, path)  # never over the key of somebody who was quicker
    finally:
        new.unlink(missing_ok=True)
    return path.read_bytes()
