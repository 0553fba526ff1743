"""Saying something from a signal handler, in the middle of whatever the program was about to say.

Main entry: `write_from_handler`. `print` and its kind refuse to be called while they are at work already.
"""

import os
import sys
from contextlib import suppress


def write_from_handler(text: str) -> None:
    """Write a line to stderr, past Python's own buffers; what cannot be written is dropped."""
    with suppress(OSError, ValueError, AttributeError):  # no stderr, or one without a descriptor
        os.write(sys.stderr.fileno(), f"{text}\n".encode())
