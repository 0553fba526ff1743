import time

import pytest

from conjure.core.times import ago, local_time, moment, short_age

NOW = 1_700_000_000.0
DAY = 86_400


@pytest.mark.parametrize(
    ("age", "long", "short"),
    [
        (0, "just now", "0s"),
        (0.9, "just now", "0s"),
        (1, "1 second ago", "1s"),
        (59.9, "59 seconds ago", "59s"),
        (60, "1 minute ago", "1m"),
        (3599, "59 minutes ago", "59m"),
        (7200, "2 hours ago", "2h"),
        (DAY - 1, "23 hours ago", "23h"),
        (3 * DAY, "3 days ago", "3d"),
        (800 * DAY, "2 years ago", "2y"),
        (-500, "just now", "0s"),  # a clock that was set back
    ],
)
def test_ages(age, long, short):
    assert ago(NOW - age, NOW) == long
    assert short_age(NOW - age, NOW) == short


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
