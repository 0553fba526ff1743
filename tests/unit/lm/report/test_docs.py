"""docs/reports.md states the limits that the code uses."""

from pathlib import Path

import pytest

from conjure.lm.report import novelty, statistics, verdict

DOCS = (Path(__file__).parents[4] / "docs" / "reports.md").read_text(encoding="utf-8").replace("\n", " ")


@pytest.mark.parametrize(
    "statement",
    [
        f"the loss fell by {statistics.SMALLEST_CHANGE} nats per token or more",
        f"p is below {statistics.LEVEL}",
        f"fewer than {statistics.FEWEST_GROUPS} groups",
        f"stretches of {statistics.STRETCH_TOKENS} tokens",
        f"below {verdict.CLOSE * 100:.0f} % of the mean length",
        f"at least {100 - verdict.MOST_OF_THE_WAY * 100:.0f} % of the base's distance gone",
        f"{verdict.ALL_LONG * 100:.0f} % of the records are as long",
        f"at least {verdict.COPIER * 100:.0f} points above that of unseen text",
        f"at least {verdict.VARIED * 100:.0f} % of that of unseen text",
        f"at least {verdict.MONOTONOUS * 100:.0f} % |",
        f"has at least {novelty.COPY_WORDS} words or is the",
        f"{novelty.NEAR_COPY_SHARE * 100:.0f} % of its words ({novelty.COPY_WORDS} at least)",
        f"verbatim run of {novelty.NEAR_COPY_RUN_WORDS} words",
    ],
)
def test_limits_are_documented(statement):
    assert statement in DOCS


def test_limits_that_are_written_in_words():
    assert verdict.ALIKE == 1 / 3
    assert "below a third of the mean length" in DOCS
    assert verdict.PART_OF_THE_WAY == 0.75
    assert "at least a quarter of the base's distance is gone" in DOCS
    assert verdict.REPEATING == 0.1
    assert "one sample in ten repeats another" in DOCS
