"""How far long work is, in words."""

from types import SimpleNamespace

import pytest

from conjure.cli.language_model import progress
from conjure.cli.language_model.progress import bytes_progress
from conjure.cli.language_model.training import _reading


@pytest.mark.parametrize(
    ("done", "said"),
    [
        (0, "Reading: 0 B of 8.0 MB"),
        (2_000_000, "Reading: 2.0 MB of 8.0 MB, 1.0 MB/s, 6.0s left"),
        (8_000_000, "Reading…"),
        (20_000_000, "Reading: 20 MB, 10 MB/s"),
    ],
)
def test_a_share_and_the_time_left_are_told_while_they_are_known(monkeypatch, done, said):
    shown, times = [], iter([10.0, 12.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(times)))
    monkeypatch.setattr(progress, "StatusLine", lambda: ShownLine(shown))
    with bytes_progress("Reading") as report:
        report(done, 8_000_000)
    assert shown == [said]


class ShownLine:
    """A status line that keeps what it is to show."""

    enabled = True

    def __init__(self, shown):
        self.show = shown.append

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_a_training_says_what_it_does_with_its_text():
    assert [_reading(done, 8_000_000) for done in (0, 2_000_000, 8_000_000, 20_000_000)] == [
        "Reading text… 0%",
        "Reading text… 25%",
        "Comparing records…",
        "Reading text… 20 MB",
    ]
