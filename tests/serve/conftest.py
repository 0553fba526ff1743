"""One `conjure serve` for all tests here, as installed, with the exact number format."""

import subprocess
import sys
from pathlib import Path

import pytest

CONJURE = Path(sys.executable).with_name("conjure")


@pytest.fixture(scope="session")
def sprite():
    """The checkpoint folder of the model that is served."""
    from conjure.lm.checkpoints.model_resolver import resolve_model

    return resolve_model("sprite").folder


@pytest.fixture(scope="session")
def address(tmp_path_factory):
    """The address of the server, with `/v1`."""
    home = tmp_path_factory.mktemp("home")
    process = subprocess.Popen(
        [CONJURE, "serve", "--model", "sprite", "--precision", "float32", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={"CONJURE_HOME": str(home), "PATH": "/usr/bin:/bin"},
    )
    line = process.stdout.readline()
    assert "http://" in line
    yield line.split()[-1]
    process.terminate()
    assert process.wait(60) == 0
    process.stdout.close()
