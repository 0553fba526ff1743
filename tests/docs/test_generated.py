"""The pages that are made from the code are up to date."""

import pytest

from conjure.runs.schema.status import MOVES, PHASES, RunStatus
from support.pages import load_script

docs = load_script("docs")


def test_generated_pages_are_fresh():
    for path, text in docs.generated().items():
        assert path.read_text() == text, f"{path.name} is out of date; type: make docs"


def test_the_header_names_the_command():
    assert (docs.DOCS / "cli.md").read_text().startswith(f"{docs.HEADER}\n")
    assert "make docs" in docs.HEADER


def test_check_tells_a_stale_page_and_leaves_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "cli.md").write_text("old\n")
    for name in ("run-states.md", "development.md"):
        (tmp_path / name).write_text(f"before\n{docs.HEADER}\nold\n{docs.END}\nafter\n")
    monkeypatch.setattr(docs, "DOCS", tmp_path)
    assert docs.main(["--check"]) == 1
    assert "docs/cli.md is out of date; type: make docs" in capsys.readouterr().err
    assert (tmp_path / "cli.md").read_text() == "old\n"
    assert docs.main([]) == 0
    assert docs.main(["--check"]) == 0
    for name in ("run-states.md", "development.md"):
        text = (tmp_path / name).read_text()
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")
        assert "\nold\n" not in text


def test_the_map_names_every_module_of_both_halves():
    lines = docs.code_map().splitlines()
    assert any(line.startswith("| `schema/` |") and "`stop_conditions`" in line for line in lines)
    assert any(line.startswith("| `generation/` |") and "`engines/`" in line for line in lines)


@pytest.mark.parametrize("final", [status for status in RunStatus if status.is_final])
def test_the_diagram_marks_exactly_the_legal_endings(final):
    lines = docs.move_diagram().splitlines()
    head = lines[1]
    row = next(line for line in lines if line.split()[:1] == [final])
    marked = {phase for phase in PHASES if "●" in row[head.index(phase) : head.index(phase) + len(phase)]}
    assert marked == {phase for phase in PHASES if final in MOVES[phase]}
