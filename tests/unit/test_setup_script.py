"""When `scripts/setup` makes .venv; a program in place of Python only says what it is asked."""

import shutil
import subprocess

import pytest

from support.pages import REPOSITORY

PYTHON = """#!/bin/sh
echo "$*" >> asked
case "$*" in *"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;; esac
"""
WITHOUT_PIP = '#!/bin/sh\ncase "$*" in *"-m pip"*) exit 1;; esac\n'


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize(("there", "is_made"), [(None, True), (WITHOUT_PIP, True), (PYTHON, False)])
def test_an_environment_without_pip_is_made_anew(tmp_path, monkeypatch, there, is_made):
    (tmp_path / "scripts").mkdir()
    shutil.copy(REPOSITORY / "scripts" / "setup", tmp_path / "scripts")
    write_program(tmp_path / "scripts" / "install-torch", "#!/bin/sh\n")
    write_program(tmp_path / "python", PYTHON)
    if there is not None:
        write_program(tmp_path / ".venv" / "bin" / "python", there)
    monkeypatch.setenv("PYTHON", str(tmp_path / "python"))
    subprocess.run([tmp_path / "scripts" / "setup"], check=True)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert ("-m venv --clear .venv" in asked) == is_made
    assert (tmp_path / ".venv" / ".ready").exists()
