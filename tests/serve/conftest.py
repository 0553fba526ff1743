"""Servers for all tests here, as installed, with the exact number format."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

CONJURE = Path(sys.executable).with_name("conjure")


@pytest.fixture(scope="session")
def sprite():
    """The checkpoint folder of the model that is served."""
    from conjure.lm.checkpoints.model_resolver import resolve_model

    return resolve_model("sprite").folder


@contextmanager
def _serving(home, *options):
    """The address of a server of sprite, with `/v1`."""
    process = subprocess.Popen(
        [CONJURE, "serve", "--model", "sprite", "--precision", "float32", "--port", "0", *options],
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


@pytest.fixture(scope="session")
def address(tmp_path_factory):
    """The address of the server, with `/v1`."""
    with _serving(tmp_path_factory.mktemp("home")) as address:
        yield address


@pytest.fixture(scope="session")
def chat_address(tmp_path_factory):
    """The address of one that chats."""
    home = tmp_path_factory.mktemp("home")
    template = home / "template.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:")
    with _serving(home, "--chat-template", template) as address:
        yield address
