"""What tests of real runs share."""

from pathlib import Path

import pytest


@pytest.fixture
def write(folder):
    """Writes a file into the current folder."""

    def _write(name: str, content: str) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    return _write
