"""The executor of docs/executors.md runs as it stands, and does what the page says."""

import pytest

from support.pages import DOCS, blocks

PAGE = DOCS / "executors.md"


@pytest.mark.slow
@pytest.mark.usefixtures("client")
def test_the_example_carries_runs_out(conjure_home, capsys):
    names: dict[str, object] = {}
    for line, content in blocks(PAGE, "python"):
        exec(compile("\n" * (line - 1) + content, str(PAGE), "exec"), names)
    out = capsys.readouterr().out.splitlines()
    assert out == ["requested waiting", "complete killed"]
    niceness = conjure_home / "runs" / "1" / "outputs" / "niceness.txt"
    assert int(niceness.read_text()) >= 5
