"""API keys: read from a file or a variable, compared in constant time, never shown.

Main entries: `ApiKeys`, `load_api_keys`. Invariant: only digests of the keys are kept.
"""

import hashlib
import hmac
import os
from collections.abc import Iterable
from pathlib import Path

from starlette.types import Scope

from conjure.core.text import error_text
from conjure.errors import UsageError
from conjure.http.headers import header_values

API_KEY_VARIABLE = "CONJURE_API_KEY"
_SHORTEST = 16  # characters; a key that can be guessed is none


class ApiKeys:
    """The keys that open a server."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __repr__(self) -> str:
        return f"<ApiKeys, {len(self._digests)}>"

    def accept(self, scope: Scope) -> bool:
        """Whether a request brings one of the keys, as ``Authorization: Bearer KEY``."""
        given = header_values(scope, b"authorization")
        if len(given) != 1:
            return False
        scheme, _, key = given[0].partition(" ")
        digest = _digest(key.strip())
        known = [hmac.compare_digest(digest, each) for each in self._digests]  # all, so that none is faster
        return scheme.lower() == "bearer" and any(known)


def load_api_keys(file: Path | None) -> ApiKeys | None:
    """The keys in a file, one in each line, or in the variable ``CONJURE_API_KEY``; None if there are none.

    Raises:
        UsageError: The file cannot be read, holds none, or a key is too short.
    """
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error_text(error) if isinstance(error, OSError) else "it is not UTF-8"
            raise UsageError(f"the API key file {file} cannot be read: {reason}") from error
        origin = str(file)
    else:
        lines, origin = [os.environ.get(API_KEY_VARIABLE, "")], API_KEY_VARIABLE
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys and file is not None:
        raise UsageError(
            f"the API key file {file} contains no key", hint=f"make one with: openssl rand -hex 32 > {file}"
        )
    for number, key in enumerate(keys, 1):
        if len(key) < _SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
            raise UsageError(
                f"key {number} in {origin} is not usable: {_SHORTEST} or more ASCII characters without"
                " spaces are needed",
                hint="make one with: openssl rand -hex 32",
            )
    return ApiKeys(keys) if keys else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
