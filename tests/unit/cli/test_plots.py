from array import array

import pytest

from conjure.cli.plots import show_curve
from conjure.runs.telemetry.series import Series


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
