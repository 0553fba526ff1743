"""The command that installs an extra: from where conjure itself came, as pip recorded it."""

import importlib.metadata
import json
import shlex

import pytest

from conjure.installation import install_command

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
    assert shlex.split(install_command("lm")) == ["pip", "install", *words]
