"""The page: well-formed, self-contained, and safe whatever the samples say."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from conjure.errors import DataError, NotFoundError
from conjure.lm.report.analysis import analyse
from conjure.lm.report.build import rebuild_page, write_report
from conjure.lm.report.html.markup import Markup, element
from conjure.lm.report.html.page import render_html
from conjure.lm.report.report_schema import CurvePoint, report_from_json
from support.reports import OWN_LINES, TRAINING, evidence

HOSTILE = "<script>alert('&amp;')</script><img src=x onerror=y> \" ' \x00\x1b[31m \ud800 \u202e"
REPORTS = {
    "good": evidence,
    "copier": lambda: evidence(tuned=TRAINING[:8] + OWN_LINES[:12]),
    "nothing held out": lambda: evidence(held_out=()),
    "nothing learned": lambda: evidence(kept_step=0),
    "all held out is trained on": lambda: evidence(held_out=TRAINING[:12]),
    "one sample": lambda: evidence(tuned=["Only one."], base=["One before."]),
    "hostile": lambda: evidence(tuned=[HOSTILE.replace("\ud800", "?")] * 3, base=["", " ", "\n"]),
}


class Outline(HTMLParser):
    """What a page holds; fails where elements are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("kind", REPORTS)
def test_the_page_is_well_formed_and_fetches_nothing(kind):
    page = render_html(analyse(REPORTS[kind]()))
    outline = Outline(page)
    tags = {tag for tag, _ in outline.found}
    assert not tags & {"script", "img", "link", "iframe", "object", "base", "form"}
    names = {name for _, attributes in outline.found for name in attributes}
    assert not names & {"src", "href", "style"}
    assert not any(name.startswith("on") for name in names)
    assert "url(" not in page
    assert "://" not in page


def test_the_page_can_be_followed_without_eyes():
    outline = Outline(render_html(analyse(evidence())))
    charts = [attributes for tag, attributes in outline.found if tag == "svg" and "role" in attributes]
    assert len(charts) == 4
    assert all(chart["role"] == "img" and len(chart["aria-label"]) > 20 for chart in charts)
    levels = [int(tag[1]) for tag, _ in outline.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert ("html", {"lang": "en"}) in outline.found


def test_where_nothing_was_evaluated_the_curve_tells_of_no_eval_loss():
    curves = {
        points: Outline(render_html(analyse(replace(evidence(held_out=()), points=list(points))))).text
        for points in (
            (CurvePoint(1, 4.5, None), CurvePoint(2, 3.5, None)),
            (CurvePoint(1, 4.5, 5.0), CurvePoint(2, 3.5, 3.2)),
        )
    }
    assert ["eval loss" in text for text in curves.values()] == [False, True]


def test_what_samples_say_is_text():
    page = render_html(analyse(REPORTS["hostile"]()))
    assert "<script" not in page
    assert "onerror=y&gt;" in page
    assert "␀␛[31m" in page
    assert "(empty)" in page


def test_the_page_leads_with_the_verdict_and_shows_what_was_copied():
    report = analyse(REPORTS["copier"]())
    page = render_html(report)
    assert Outline(page).text.split("</style>")[-1].count(report.verdict.headline) == 1
    assert f"<mark>{TRAINING[0]}</mark>" in page
    assert "8 of 20" in page


def test_a_change_too_small_for_its_digits_is_not_shown_as_nothing():
    report = analyse(evidence())
    held_out = replace(report.held_out, change=-0.00004, standard_error=0.00001)
    page = Outline(render_html(replace(report, held_out=held_out))).text
    assert "less than 0.0001 ± less than 0.0001" in page
    assert "0.0000" not in page


def test_markup_escapes_all_but_markup():
    inner = element("b", "1 < 2", title='say "no"')
    assert inner == '<b title="say &quot;no&quot;">1 &lt; 2</b>'
    assert element("p", inner, None, ["&", [inner]]) == f"<p>{inner}&amp;{inner}</p>"
    assert element("meta", http_equiv="x", class_="y") == '<meta http-equiv="x" class="y">'
    assert element("p", "a\x00\x7f\ud800\n") == "<p>a␀␡?\n</p>"
    assert isinstance(inner, Markup)


def test_writing_and_rebuilding(tmp_path):
    report = analyse(evidence())
    page = write_report(tmp_path, report)
    first = page.read_text(encoding="utf-8")
    assert first == render_html(report)
    assert report_from_json((tmp_path / "report.json").read_text(encoding="utf-8")) == report
    page.write_text("an older look")
    assert rebuild_page(tmp_path) == page
    assert page.read_text(encoding="utf-8") == first


def test_rebuilding_needs_a_report(tmp_path):
    with pytest.raises(NotFoundError, match=r"holds no report\.json"):
        rebuild_page(tmp_path)
    (tmp_path / "report.json").write_text('{"schema": 1')
    with pytest.raises(DataError, match="damaged"):
        rebuild_page(tmp_path)


def test_a_page_says_whose_it_is():
    page = render_html(replace(analyse(evidence()), run=7))
    assert "<h1>Run 7: tiny tuned on one-liners</h1>" in page
    assert "Base model: tiny · tuned model: runs/7" in page


def test_nothing_learned_is_a_page_of_its_own():
    report = analyse(REPORTS["nothing learned"]())
    text = Outline(render_html(report)).text
    assert report.verdict.headline in text
    assert report.verdict.next_step in text
    assert "✓" not in text
    for heading in ("Learned the text lengths?", "Just copying?", "Varied?", "Base model\n"):
        assert heading not in text


@pytest.mark.parametrize("kind", ["nothing held out", "all held out is trained on"])
def test_without_a_measured_loss_no_table_of_losses_is_explained(kind):
    report = analyse(REPORTS[kind]())
    page = render_html(report)
    assert report.verdict.next_step in Outline(page).text
    assert "Perplexity is" not in page
    assert "from the table" not in page
    assert ">perplexity<" not in page


def test_the_gallery_of_an_untouched_model_is_the_base_models():
    text = Outline(render_html(analyse(evidence(kept_step=0)))).text
    assert "Base model" in text
    assert "samples of the base model" in text
    assert "Tuned model" not in text


def test_a_perplexity_of_many_digits_is_written_short():
    report = analyse(evidence(losses=(300.0, 5.0)))
    text = Outline(render_html(report)).text
    assert re.search(r"perplexity1\.\d{3}e\+130", text)
    assert re.search(r"−1\.\d{3}e\+130", text)
    assert not re.search(r"\d,\d{3},\d{3},\d{3}", text)
