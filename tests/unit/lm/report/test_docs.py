"""docs/reports.md states the limits that the code uses."""

from pathlib import Path

import pytest

from conjure.lm.report import extraction, measure_model, novelty, statistics, verdict

DOCS = " ".join((Path(__file__).parents[4] / "docs" / "reports.md").read_text(encoding="utf-8").split())


@pytest.mark.parametrize(
    "statement",
    [
        f"the loss fell by {statistics.SMALLEST_CHANGE} nats per token or more",
        f"p is below {statistics.LEVEL}",
        f"fewer than {statistics.FEWEST_GROUPS} groups",
        f"segments of {statistics.STRETCH_TOKENS} tokens",
        f"within {verdict.NEARLY:.0f} times the normal distance",
        f"{verdict.ALL_LONG * 100:.0f}% of the records are as long",
        f"{verdict.COPIER * 100:.0f}% of the samples or more",
        f"or {verdict.COPYING * 100:.0f}% or more",
        f"{verdict.RECITED * 100:.0f} points above that of held-out records",
        f"{verdict.COPIER * 100:.0f} points above",
        f"at least {verdict.VARIED * 100:.0f}% of that of held-out text",
        f"at least {verdict.MONOTONOUS * 100:.0f}% |",
        f"has at least {novelty.COPY_WORDS} words or is the",
        f"at least {novelty.NEAR_COPY_SHARE * 100:.0f}% of its words",
        f"all but two of them (and at least {novelty.COPY_WORDS})",
        f"has at least {novelty.SHORT_COPY_WORDS} words and is a whole record",
        f"records of at least {extraction.SHORTEST} tokens",
        f"of a record longer than {extraction.LONGEST} tokens",
        f"up to {measure_model.RECITED_RECORDS} records",
        f"verbatim match of {novelty.NEAR_COPY_RUN_WORDS} words",
    ],
)
def test_limits_are_documented(statement):
    assert statement in DOCS


def test_limits_that_are_written_in_words():
    assert verdict.ALIKE == 1 / 3
    assert novelty.FEW_CHANGES == 2
    assert "at most a third of the mean length" in DOCS
    assert verdict.PART_OF_THE_WAY == 0.5
    assert "at least half of the base model's distance is gone" in DOCS
    assert verdict.REPEATING == 0.1
    assert "one sample in ten repeats another" in DOCS
