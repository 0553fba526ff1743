"""Keeping secrets out of records, logs and terminals.

Main entries: `is_secret_name`, `redact_environment`. Invariant: what is stored never holds a value whose
name looks secret.
"""

import re
from collections.abc import Mapping

STARS = "***"

# Whole words between separators, so that MONKEY or KEYBOARD_LAYOUT stay readable.
_SECRET_NAME = re.compile(
    r"(?:^|[_\-.])(?:key|keys|apikey|token|tokens|secret|secrets|password|passwd|pass|passphrase|pwd"
    r"|credential|credentials|auth|cookie|session|private|dsn|netrc)(?:$|[_\-.\d])",
    re.IGNORECASE,
)
_URL_CREDENTIALS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)[^/@\s]+@", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name probably holds something to keep out of records."""
    return _SECRET_NAME.search(name) is not None


def redact_text(text: str) -> str:
    """`text` with the user and password of every URL in it replaced by stars."""
    return _URL_CREDENTIALS.sub(rf"\g<scheme>{STARS}@", text)


def redact_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """`variables` as it may be stored: secret-looking names keep stars for a value."""
    return {name: STARS if is_secret_name(name) else redact_text(value) for name, value in variables.items()}
