"""What tests of real runs share: a home, a folder with code, a client whose runs end with the test."""

from pathlib import Path

import pytest

from conjure.core.home import Home
from support.casting import ending_runs


@pytest.fixture
def home(conjure_home):
    return Home(conjure_home)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: empty, and no repository."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def client(home, folder):
    with ending_runs(home) as client:
        yield client


@pytest.fixture
def write(folder):
    """Writes a file into the current folder."""

    def _write(name: str, content: str) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    return _write
