"""What tells that code was edited which a command imports from outside its snapshot."""

import os
from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.runs.environments import imported_code
from conjure.runs.environments.imported_code import digest_of_files, places_outside
from conjure.runs.environments.interpreter import Interpreter
from support.repositories import write_files


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "mylib"
    write_files(folder, {"mylib/__init__.py": "x = 1", "mylib/words.txt": "a", ".git/HEAD": "ref"})
    return folder


def test_an_edit_is_told(library: Path) -> None:
    before = digest_of_files([library])
    assert digest_of_files([library]) == before
    write_files(library, {"mylib/words.txt": "b!"})
    assert digest_of_files([library]) != before


def test_what_running_and_tools_leave_is_no_edit(library: Path) -> None:
    before = digest_of_files([library])
    left = {"mylib/__pycache__/a.pyc": "", "mylib/old.pyc": "", ".git/index": "", ".ruff_cache/x": ""}
    write_files(library, left)
    os.utime(library / "mylib", (1, 1))
    assert digest_of_files([library]) == before


def test_nothing_there(tmp_path: Path) -> None:
    assert digest_of_files([]) == digest_of_files([tmp_path / "none"]) == ""
    (tmp_path / "lib.zip").write_bytes(b"PK")
    assert digest_of_files([tmp_path / "lib.zip"]) != ""


def test_links_are_followed_once(library: Path, tmp_path: Path) -> None:
    write_files(tmp_path / "dev", {"mypkg/a.py": "1", "one.py": "1"})
    write_files(tmp_path / "far", {"b.py": "1"})
    (library / "mypkg").symlink_to(tmp_path / "dev/mypkg")
    (library / "again").symlink_to(tmp_path / "dev/mypkg")
    (library / "one.py").symlink_to(tmp_path / "dev/one.py")
    (library / "itself").symlink_to(library)
    (library / "dangling").symlink_to(tmp_path / "none")
    (tmp_path / "dev/mypkg/far").symlink_to(tmp_path / "far")
    seen = [digest_of_files([library])]
    for edited in ("dev/mypkg/a.py", "dev/one.py"):
        write_files(tmp_path, {edited: "22"})
        seen.append(digest_of_files([library]))
    assert len(set(seen)) == 3
    write_files(tmp_path / "far", {"b.py": "22"})
    assert digest_of_files([library]) == seen[-1]


def test_too_many_files(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imported_code, "MOST_FILES", 4)
    assert digest_of_files([library])  # two files in two folders
    write_files(library, {"mylib/one_more.py": ""})
    assert digest_of_files([library]) is None


def test_too_slow_files(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imported_code, "LONGEST_S", -1.0)
    assert digest_of_files([library]) is None


def test_places_outside(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    prefix, base, user, mine = (tmp_path / name for name in ("venv", "usr", "user", "mine"))
    interpreter = Interpreter(
        *(prefix / "bin/python", prefix / "bin/python", prefix, base, "3.12.1", prefix / "bin"),
        (prefix / "lib", user),
        packages=(),
        search_path=(base / "lib", prefix / "lib", user, mine, prefix / "src/cloned"),
        editable_folders=(prefix / "src/cloned",),
    )
    variables = {"PYTHONPATH": f"{tmp_path / 'shared'}:src::{home.runs / '3/work'}"}
    assert places_outside(home, None, variables) == (tmp_path / "shared",)
    assert places_outside(home, interpreter, variables) == (tmp_path / "shared", mine, prefix / "src/cloned")
    assert places_outside(home, interpreter, {}) == (mine, prefix / "src/cloned")
