import json
from array import array

import pytest

from conjure.runs.telemetry.series import Series, read_series, thin


def test_reads_the_metrics_asked_for_in_order(tmp_path):
    points = [("loss", 5, 0.5), ("acc", 1, 0.1), ("loss", 2, 0.25), ("other", 0, 9.0)]
    lines = [
        json.dumps({"name": name, "step": step, "value": value, "time": 0}) for name, step, value in points
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(["not json", *lines, '{"name": "loss"']) + "\n")
    found = read_series(tmp_path, ["loss", "acc", "none"])
    assert (list(found["loss"].steps), list(found["loss"].values)) == ([5, 2], [0.5, 0.25])
    assert [len(found[name]) for name in ("loss", "acc", "none")] == [2, 1, 0]


def test_no_file_is_no_points(tmp_path):
    assert len(read_series(tmp_path, ["loss"])["loss"]) == 0


@pytest.mark.parametrize("count", [0, 1, 7, 8])
def test_few_points_stay_as_they_are(count):
    series = Series(array("q", range(count)), array("d", range(count)))
    assert thin(series, 2) is series


def test_a_single_spike_among_a_million_is_kept():
    values = array("d", bytes(8 * 1_000_000))
    values[654_321] = 1.0
    thinned = thin(Series(array("q", range(len(values))), values), 50)
    assert len(thinned) <= 200
    assert thinned.steps[list(thinned.values).index(1.0)] == 654_321
