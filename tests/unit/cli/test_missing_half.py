"""The run half alone: what the other half's commands say then."""

import sys

import pytest

from conjure.cli.main import _run


@pytest.mark.parametrize("missing", ["torch", "tokenizers"])
def test_a_missing_extra_is_named_with_what_to_type(missing, monkeypatch, capsys):
    for name in list(sys.modules):
        if name.partition(".")[0] == missing or name.startswith("conjure.lm"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)  # what an import of it then fails with is the real thing
    assert _run(["score", "a text"]) == 1
    shown = capsys.readouterr().err
    assert f"({missing} is missing)" in shown
    assert "pip install 'conjure[lm]'" in shown
