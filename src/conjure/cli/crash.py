"""The last net: an error nobody foresaw becomes one sentence, and a file with what is needed to mend it.

Main entry: `save_crash`. Invariant: it never raises, and the file holds no secret.
"""

import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from conjure.core.home import Home
from conjure.core.quoting import printable, shell_words
from conjure.core.secrets import Redaction
from conjure.errors import ConjureError

EXIT_CRASHED = 70  # EX_SOFTWARE of sysexits.h
_LONGEST_REASON = 200


def save_crash(error: BaseException, arguments: Sequence[str]) -> ConjureError:
    """Write down an error that is conjure's own fault, and give what to say of it.

    Args:
        error: What was raised.
        arguments: The command's.
    """
    redaction = Redaction()
    content = _content(error, redaction.command(("conjure", *arguments)), redaction)
    where = _write(content)
    reason = printable(redaction.spread(redaction.text(f"{type(error).__name__}: {error}")))
    reason = " ".join(reason.split())[:_LONGEST_REASON]
    return ConjureError(
        f"internal error ({reason}); this is a bug",
        hint="report it with the details" + (f": {shell_words(str(where))}" if where is not None else ""),
    )


def _content(error: BaseException, command: Sequence[str], redaction: Redaction) -> str:
    from importlib.metadata import version

    trace = "".join(traceback.format_exception(error))
    return (
        f"command: {shell_words(*command)}\n"
        f"conjure {version('conjure')}, Python {platform.python_version()}, {platform.platform()}\n"
        f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}\n\n"
        f"{redaction.spread(redaction.text(trace))}"
    )


def _write(content: str) -> Path | None:
    """Write it into the home, or where that cannot be written, into the folder for temporary files."""
    name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{time.monotonic_ns() % 10**6}.txt"
    for folder in (_crashes, lambda: Path(tempfile.gettempdir())):
        try:
            path = folder() / f"conjure-crash-{name}"
            path.write_text(content, "utf-8", errors="backslashreplace")
        except (OSError, ConjureError):
            continue
        return path
    sys.stderr.write(content)
    return None


def _crashes() -> Path:
    folder = Home.from_environment().create().crashes
    folder.mkdir(exist_ok=True)
    return folder
