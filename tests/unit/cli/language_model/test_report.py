"""What `conjure report` does with --json beside its other options."""

import json
import webbrowser

from conjure.cli.main import _run
from conjure.lm.report.analysis import analyse
from conjure.lm.report.build import write_report
from support.reports import evidence


def test_json_neither_drops_the_page_nor_the_browser(tmp_path, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    shown = write_report(tmp_path, analyse(evidence()))
    page = tmp_path / "there" / "page.html"
    page.parent.mkdir()
    assert _run(["report", str(tmp_path), "--json"]) == 0
    figures = capsys.readouterr().out
    assert json.loads(figures)["verdict"]
    assert _run(["report", str(tmp_path), "--json", "--output", str(page)]) == 0
    assert capsys.readouterr() == (figures, f"Page: {page}\n")
    assert page.read_text("utf-8") == shown.read_text("utf-8")
    assert _run(["report", str(tmp_path), "--json", "--open"]) == 0
    assert capsys.readouterr().out == figures
    assert opened == [shown.absolute().as_uri()]
