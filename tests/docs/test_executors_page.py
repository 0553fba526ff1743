"""The executor of docs/executors.md runs as it stands, and does what the page says."""

import pytest

from conjure.core.home import Home
from support.casting import ending_runs
from support.pages import DOCS, blocks

PAGE = DOCS / "executors.md"


@pytest.mark.slow
def test_the_example_carries_runs_out(conjure_home, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    with ending_runs(Home(conjure_home)):
        for line, content in blocks(PAGE, "python"):
            exec(compile("\n" * (line - 1) + content, str(PAGE), "exec"), names)
    out = capsys.readouterr().out.splitlines()
    assert out == ["requested waiting", "complete killed"]
    niceness = conjure_home / "runs" / "1" / "outputs" / "niceness.txt"
    assert int(niceness.read_text()) >= 5
