"""Which build of torch `make setup` takes; programs in place of pip and uv only say what they are asked."""

import platform
import shutil
import subprocess
import sys

import pytest

from support.pages import REPOSITORY

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or shutil.which("nvidia-smi") is not None,
    reason="the ordinary build is the right one here",
)


def installed(tmp_path, answers):
    """The questions for torch, to pip and uv that answer by a line of shell, and what is said to the user."""
    (tmp_path / "bin").mkdir()
    for name in ("python", "uv"):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/asked\n{answers}\n')
        program.chmod(0o755)
    done = subprocess.run(
        [REPOSITORY / "scripts" / "install-torch", tmp_path], capture_output=True, text=True, check=True
    )
    asked = (tmp_path / "asked").read_text().splitlines()
    return [line for line in asked if "torch==" in line], done.stdout


def test_a_cpu_build_that_pip_finds_is_taken(tmp_path):
    asked, said = installed(tmp_path, 'case "$*" in *importlib*) exit 1;; esac')
    assert len(asked) == 1
    assert asked[0].endswith("+cpu")
    assert "CUDA" not in said


def test_where_torchs_own_index_does_not_answer_the_ordinary_build_is_taken_and_said(tmp_path):
    asked, said = installed(tmp_path, 'case "$*" in *importlib*|*+cpu*|*--torch-backend*) exit 1;; esac')
    assert [line.split()[0] for line in asked] == ["python", "uv", "python"]
    assert "cpu" not in asked[-1]
    assert "does not answer" in said
    assert "Installing the build with CUDA" in said
