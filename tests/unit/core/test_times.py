import time

import pytest

from conjure.core.times import age, ago, format_age, local_time, moment

NOW = 1_700_000_000.0
DAY = 86_400


@pytest.mark.parametrize(
    ("age_s", "words", "text"),
    [
        (0, "just now", "0s"),
        (0.9, "just now", "0s"),
        (1, "1s ago", "1s"),
        (59.9, "59s ago", "59s"),
        (60, "1m ago", "1m"),
        (3599, "59m ago", "59m"),
        (7200, "2h ago", "2h"),
        (DAY - 1, "23h ago", "23h"),
        (3 * DAY, "3d ago", "3d"),
        (800 * DAY, "2y ago", "2y"),
        (-500, "just now", "0s"),  # a clock that was set back
    ],
)
def test_ages(age_s, words, text):
    assert ago(NOW - age_s, NOW) == words
    assert age(NOW - age_s, NOW) == format_age(age_s) == text


@pytest.mark.parametrize(
    ("zone", "text"), [("UTC", "2023-11-14 22:13:20"), ("Asia/Kathmandu", "2023-11-15 03:58:20")]
)
def test_times_are_local(monkeypatch, zone, text):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert local_time(NOW) == text
        assert moment(NOW).startswith(f"{text} (")
        assert moment(NOW).endswith(" ago)")
    finally:
        monkeypatch.undo()
        time.tzset()
