"""Environments that stand on another one."""

import sys
from pathlib import Path

import pytest

from conjure.runs.environments.interpreter import Interpreter, find_current
from conjure.runs.environments.venv_overlay import take_over_scripts


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that may be executed and not read; root may read any."""
    paths: list[Path] = []
    opened = Path.open

    def refused(path: Path, *arguments: str, **options: str) -> object:
        if path in paths:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    return paths


def test_programs_that_may_only_be_executed_are_no_scripts(tmp_path: Path, closed: list[Path]) -> None:
    for name in ("base", "layer"):
        (tmp_path / name).mkdir()
    python = tmp_path / "base/python"
    for name in ("show", "sudo"):
        (tmp_path / "base" / name).write_text(f"#!{python}\nprint()\n")
    closed.append(tmp_path / "base/sudo")
    base = Interpreter(python, python, tmp_path, tmp_path, "3.12.1", tmp_path / "base", (), ())
    take_over_scripts(base, tmp_path / "layer", tmp_path / "final")
    assert {path.name: path.read_text() for path in (tmp_path / "layer").iterdir()} == {
        "show": f"#!{tmp_path}/final/python\nprint()\n"
    }


def test_a_python_that_may_only_be_executed_is_no_wrapper(home, tmp_path: Path, closed: list[Path]) -> None:
    home.create()
    (tmp_path / "python").symlink_to(sys.executable)
    closed.append(tmp_path / "python")
    found = find_current(home, {"PATH": str(tmp_path)}, tmp_path)
    assert found.found == tmp_path / "python"
