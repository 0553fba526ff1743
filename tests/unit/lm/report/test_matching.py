"""Where hashes could mislead: matches of every length, no text, and hashes made to collide."""

import numpy as np
import pytest

from conjure.lm.report import matching
from conjure.lm.report.matching import SEPARATOR, LongestMatches, Match


def codes(text: str) -> np.ndarray:
    return np.array([ord(letter) for letter in text], np.int64)


def test_nothing_in_common_and_nothing_at_all():
    search = LongestMatches([codes("abc"), codes("")])
    assert search.matches == [Match(0, 0, 0), Match(0, 0, 0)]
    search.feed(codes("xyz"))
    assert [match.length for match in search.matches] == [0, 0]
    LongestMatches([]).feed(codes("xyz"))


def test_a_match_says_where_it_is_in_both():
    search = LongestMatches([codes("--needle--")])
    search.feed(codes("hay hay "))
    search.feed(codes("need"))
    search.feed(codes("le hay"))
    assert search.matches == [Match(2, 6, 8)]


def test_a_separator_ends_a_match():
    search = LongestMatches([codes("abcdef")])
    search.feed(np.concatenate((codes("abc"), [SEPARATOR], codes("def"))))
    assert search.matches[0].length == 3


def test_a_long_text_is_found_whole_among_many_others():
    rng = np.random.default_rng(0)
    stream = rng.integers(97, 123, 300_000)
    texts = [rng.integers(97, 123, 200) for _ in range(20)] + [stream[123_000:123_900]]
    search = LongestMatches(texts)
    search.feed(stream)
    assert search.matches[-1] == Match(0, 900, 123_000)
    assert max(match.length for match in search.matches[:-1]) < 12


def test_lengths_are_exact_where_all_hashes_are_equal(monkeypatch):
    """With a base of 0 every stretch has the hash 0: slow, and still right."""
    zero = (np.zeros(1 << 10, np.uint64), np.zeros(1 << 10, np.uint64))
    monkeypatch.setattr(matching, "_powers", lambda _: zero)
    search = LongestMatches([codes("xbananas"), codes("ab")])
    search.feed(codes("a banana and bananas; abacus"))
    assert [match.length for match in search.matches] == [7, 2]


@pytest.mark.parametrize("letters", ["a", "ab"])
def test_a_stream_that_repeats_itself_is_not_slow(letters):
    search = LongestMatches([codes(letters * 40 + "z"), codes("b" + letters * 30)])
    search.feed(codes(letters * 50_000))
    assert search.matches[0].length == 40 * len(letters)
