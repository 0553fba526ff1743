import math

import pytest

from conjure.core.units import format_duration, format_number, format_size, parse_duration, parse_size
from conjure.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("90m", 5400), ("1h30m", 5400), ("2d", 172800), ("1.5h", 5400)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


def test_a_duration_without_unit_is_refused_with_an_example():
    with pytest.raises(UsageError, match=r"'90' is not a duration.*such as 90m"):
        parse_duration("90")


@pytest.mark.parametrize("text", ["", "m", "90 minutes", "-5m", "5m7", "0s", "1e3s"])
def test_bad_durations(text):
    with pytest.raises(UsageError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"), [("8GB", 8 * 10**9), ("512mb", 512 * 10**6), ("2GiB", 2 << 30), ("1.5 KB", 1500)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["8", "", "GB", "8XB", "-1GB", "0GB"])
def test_bad_sizes(text):
    with pytest.raises(UsageError):
        parse_size(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0s"),
        (59.94, "59.9s"),
        (59.96, "1m"),
        (300, "5m"),
        (301, "5m 1s"),
        (2676, "44m 36s"),
        (10800, "3h"),
        (11100, "3h 5m"),
        (172800, "2d"),
        (187200, "2d 4h"),
    ],
)
def test_showing_durations(seconds, text):
    assert format_duration(seconds) == text


def test_a_duration_is_never_shown_below_nothing():
    assert format_duration(-3) == "0.0s"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (498_000_000, "498 MB"),
        (999_600, "1.0 MB"),
        (3 * 10**15, "3000 TB"),
    ],
)
def test_showing_sizes(size, text):
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (64.0, "64"),
        (0.0132923, "0.0132923"),
        (0.00099, "9.9e-4"),
        (-0.0012, "-1.2e-3"),
        (1.20893e-14, "1.20893e-14"),
        (999999, "999999"),
        (12345678, "1.23457e7"),
        (1e6, "1e6"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_showing_numbers(number, text):
    assert format_number(number) == text
