"""The code of docs/python.md runs as it stands."""

import pytest

from support.pages import DOCS, blocks

PAGE = DOCS / "python.md"


@pytest.mark.usefixtures("short_reports")
def test_the_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for line, content in blocks(PAGE, "python"):
        # Line numbers of the page, so that a failure points into it.
        exec(compile("\n" * (line - 1) + content, str(PAGE), "exec"), names)
    out = capsys.readouterr().out
    assert "<LanguageModel sprite" in out
    assert "not_found |" in out
