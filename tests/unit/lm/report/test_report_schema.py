"""A report as JSON: the same when read again, refused when it cannot be."""

import json
from dataclasses import replace

import pytest

from conjure.errors import DataError
from conjure.lm.report.analysis import analyse
from conjure.lm.report.html.page import render_html
from conjure.lm.report.report_schema import SCHEMA, HeldOutFacts, report_from_json, report_to_json
from support.reports import evidence


@pytest.mark.parametrize("held_out", [None, ()])
def test_reading_gives_what_was_written(held_out):
    report = analyse(evidence() if held_out is None else evidence(held_out=held_out))
    read = report_from_json(report_to_json(report))
    assert read == report
    assert render_html(read) == render_html(report)  # whole numbers are still whole


def test_a_whole_number_is_a_number_too():
    values = json.loads(report_to_json(analyse(evidence())))
    values["tuned"]["lengths"]["mean"] = 12
    assert str(report_from_json(json.dumps(values)).tuned.lengths.mean) == "12.0"


@pytest.mark.parametrize(
    ("records", "excluded", "seen", "nothing_comparable", "all_seen"),
    [
        (12, 0, 0, False, False),
        (12, 3, 2, False, False),
        (12, 0, 12, True, True),
        (12, 3, 12, True, True),
        (0, 5, 0, True, False),
        (0, 0, 0, False, False),
    ],
)
def test_what_was_held_out_says_whether_it_can_be_measured_on(
    records, excluded, seen, nothing_comparable, all_seen
):
    facts = HeldOutFacts("records", None, records, records, records - seen, records - seen, excluded, seen)
    assert (facts.nothing_comparable, facts.all_seen_by_base) == (nothing_comparable, all_seen)


def test_what_json_cannot_hold_is_null():
    report = replace(analyse(evidence()), settings={"loss": float("nan"), "limit": float("inf"), "path": ()})
    assert json.loads(report_to_json(report))["settings"] == {"loss": None, "limit": None, "path": []}


def test_a_perplexity_too_large_for_a_number_is_none():
    report = analyse(evidence(losses=(800.0, 3.0)))
    assert report.base.held_out.perplexity is None
    assert report_from_json(report_to_json(report)) == report


def test_a_newer_schema_is_refused():
    values = {"schema": SCHEMA + 1}
    with pytest.raises(DataError, match=f"has schema {SCHEMA + 1}; .* reads schemas up to {SCHEMA}$"):
        report_from_json(json.dumps(values))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("title",), None),
        (("title",), 3),
        (("tuned", "samples", 0, "originality"), "stolen"),
        (("tuned", "lengths", "mean"), "long"),
        (("verdict", "findings"), 7),
        (("schema",), "new"),
        (("base",), []),
    ],
)
def test_a_damaged_report_is_refused(path, value):
    values = json.loads(report_to_json(analyse(evidence())))
    parent = values
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    with pytest.raises(DataError, match="the report is damaged"):
        report_from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null"])
def test_other_content_is_refused(text):
    with pytest.raises(DataError, match="the report is damaged"):
        report_from_json(text)


def test_a_report_of_0_1_0_is_read():
    """It had no run number, no state of the verdict, and did not measure what a model can recite."""
    values = json.loads(report_to_json(analyse(evidence())))
    del (
        values["run"],
        values["verdict"]["state"],
        values["verdict"]["next_step"],
        values["normal"]["left_out"],
    )
    for side in (values["base"], values["tuned"]):
        del side["extraction"]
        for sample in side["samples"]:
            del sample["near_record"]
    report = report_from_json(json.dumps(values))
    assert (report.run, report.tuned.extraction, report.verdict.state) == (None, None, "learned")
    assert "records completed" not in render_html(report)
