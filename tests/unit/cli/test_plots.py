import json
from array import array

import pytest

from conjure.cli.plots import Series, read_series, show_curve, thin


def curve(capsys, steps, values, **given):
    show_curve("loss", {"run 1": Series(array("q", steps), array("d", values))}, **given)
    return capsys.readouterr().out.rstrip("\n").splitlines()


def test_a_curve_fills_the_screen_and_no_more(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("LINES", "20")
    lines = curve(capsys, range(100_000), [1 / (step + 1) for step in range(100_000)])
    assert len(lines) == 18
    assert max(map(len, lines)) == 70
    assert lines[0].strip() == "loss"
    assert lines[-1].split()[0] == "0"


def test_several_share_the_screen(capsys, monkeypatch):
    monkeypatch.setenv("LINES", "32")
    assert len(curve(capsys, [0, 1], [1.0, 2.0], share=3)) == 10
    assert len(curve(capsys, [0, 1], [1.0, 2.0], share=30)) == 8


def test_elsewhere_than_on_a_terminal_there_are_no_colours(capsys):
    assert "\x1b" not in "".join(curve(capsys, [0, 1, 2], [1.0, 0.5, 0.2]))


@pytest.mark.parametrize(
    ("steps", "values"),
    [
        ([5], [1.5]),
        ([0, 1], [1.0, 1.0]),
        ([3, 2, 1], [0.0, -1.0, 1e300]),
        ([1, 2], [1e308, -1e308]),
        ([1, 2, 3], [1.7e308, 1.7e308, -1.7e308]),
        ([1], [-1.7976931348623157e308]),
        ([-(1 << 61), 1 << 61], [1e-300, 0.0]),
    ],
)
def test_odd_curves_can_be_drawn(capsys, steps, values):
    assert len(curve(capsys, steps, values)) >= 8


def test_several_runs_in_one_plot_are_told_apart(capsys):
    series = Series(array("q", [0, 1]), array("d", [1.0, 2.0])), Series(array("q", [5]), array("d", [0.5]))
    show_curve("loss", dict(zip(("run 1", "run 2"), series, strict=True)))
    out = capsys.readouterr().out
    assert "run 1" in out
    assert "run 2" in out
    assert out.splitlines()[-1].split()[-1] == "5"


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
