"""Pages of reports are, to the letter, those that somebody has looked at.

Whoever changes a page looks at the new one, and keeps it in place of the old.
"""

import re
from pathlib import Path

import pytest

from conjure.lm.report.analysis import analyse
from conjure.lm.report.html.page import render_html
from support.reports import OWN_LINES, TRAINING, evidence

_KEPT = Path(__file__).parents[4] / "fixtures" / "reports"
_STYLE = re.compile(r"<style>.*?</style>", re.DOTALL)
_REPORTS = {
    "copier": lambda: evidence(tuned=TRAINING[:8] + OWN_LINES[:12]),
    "good": evidence,
    "nothing-learned": lambda: evidence(kept_step=0),
}


@pytest.mark.parametrize("name", _REPORTS)
def test_a_page_is_as_it_was_kept(name, tmp_path):
    page = render_html(analyse(_REPORTS[name]()))
    lines = _STYLE.sub("", page).replace("<", "\n<").splitlines()
    kept, new = _KEPT / f"{name}.html", tmp_path / f"{name}.html"
    new.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / f"{name}-to-look-at.html").write_text(page, encoding="utf-8")
    assert lines == kept.read_text(encoding="utf-8").splitlines(), f"look at it, then: cp {new} {kept}"
