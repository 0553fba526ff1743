"""Building the native library where it is in use: `setup.py build_ext --inplace`, on a tiny library."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NATIVE = Path("src/conjure/lm/native")
PROJECT = Path(__file__).parents[2]
PYPROJECT = """
[project]
name = "conjure"
version = "0"
[tool.setuptools.packages.find]
where = ["src"]
"""
# Loads the library, and calls it again after it was built anew.
USER = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
print(library.version(), flush=True)
sys.stdin.readline()
print(library.version())
"""


@pytest.fixture
def project(tmp_path):
    """A project with this one's setup.py, whose library says its version."""
    shutil.copy(PROJECT / "setup.py", tmp_path)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / NATIVE).mkdir(parents=True)
    for source in (PROJECT / NATIVE).glob("*.c"):
        (tmp_path / NATIVE / source.name).write_text("")
    for package in (NATIVE, *list(NATIVE.parents)[:-2]):
        (tmp_path / package / "__init__.py").write_text("")
    return tmp_path


def build(project, version=None, *, most_kb=None):
    """Build the library, of that version; with no file of more than so many kB."""
    if version is not None:
        (project / NATIVE / "forward.c").write_text(f"int version(void) {{ return {version}; }}\n")
    limit = f"ulimit -f {most_kb}; " if most_kb is not None else ""
    return subprocess.run(
        ["bash", "-c", f'{limit}exec "$0" -B setup.py build_ext --inplace', sys.executable],
        cwd=project,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def library(project):
    (found,) = (project / NATIVE).glob("_forward*.so")
    return found


def test_a_process_that_uses_the_library_goes_on_with_it(project):
    built = build(project, 1)
    assert built.returncode == 0, built.stderr
    user = [sys.executable, "-c", USER, library(project)]
    with subprocess.Popen(user, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "1\n"
        assert build(project, 2).returncode == 0
        assert process.communicate("\n")[0] == "1\n"
    assert process.returncode == 0
    new = subprocess.run(user, input="\n", capture_output=True, text=True, check=True)
    assert new.stdout == "2\n2\n"


def test_a_copy_that_fails_leaves_the_library_as_it_was(project):
    assert build(project, 1).returncode == 0
    found = library(project)
    found.write_bytes(found.read_bytes() + b"of before")
    os.utime(found, (0, 0))
    before = found.read_bytes()
    failed = build(project, most_kb=4)
    assert failed.returncode != 0
    assert "File too large" in failed.stdout + failed.stderr
    assert found.read_bytes() == before
    assert not list((project / NATIVE).glob("*.unfinished"))
