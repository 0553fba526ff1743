"""Telling a GGUF file from any other.

Main entry: `is_gguf`. Invariant: nothing heavy is imported, for whoever only asks.
"""

from pathlib import Path

MAGIC = b"GGUF"


def is_gguf(path: Path) -> bool:
    """Whether a file is one, or is meant to be."""
    if path.suffix.lower() == ".gguf":
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False
