"""The command that installs an extra: from where conjure itself came, as pip recorded it."""

import importlib.metadata
import json
import shlex
import sys

import pytest

import conjure.installation
from conjure.installation import install_command, pip_install

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("recorded", "words"),
    [
        (None, ["conjure[lm]"]),
        ({"url": "file:///home/ada/my%20clone", "dir_info": {}}, ["/home/ada/my clone[lm]"]),
        (
            {"url": "file:///home/ada/conjure", "dir_info": {"editable": True}},
            ["-e", "/home/ada/conjure[lm]"],
        ),
        (
            {"url": "https://example.org/conjure", "vcs_info": {"vcs": "git", "commit_id": COMMIT}},
            [f"conjure[lm] @ git+https://example.org/conjure@{COMMIT}"],
        ),
        (
            {"url": "file:///tmp/conjure-0.2.0-py3-none-any.whl", "archive_info": {}},
            ["conjure[lm] @ file:///tmp/conjure-0.2.0-py3-none-any.whl"],
        ),
    ],
    ids=["index", "folder", "editable", "repository", "wheel"],
)
def test_an_extra_is_installed_from_where_conjure_was(monkeypatch, recorded, words):
    class Distribution:
        def read_text(self, name):
            assert name == "direct_url.json"
            return None if recorded is None else json.dumps(recorded)

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())
    monkeypatch.setattr(conjure.installation, "find_spec", {"pip": object()}.get)
    assert shlex.split(install_command("lm")) == [sys.executable, "-m", "pip", "install", *words]


def test_where_there_is_no_pip_uv_installs_into_the_same_environment(monkeypatch):
    monkeypatch.setattr(conjure.installation, "find_spec", {}.get)
    monkeypatch.setattr(sys, "executable", "/home/ada/my env/bin/python")
    assert pip_install("uv") == "uv pip install --python '/home/ada/my env/bin/python' uv"
