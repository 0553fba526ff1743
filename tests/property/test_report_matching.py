"""Longest matches and seen n-grams are what brute force finds, however the stream is cut."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from conjure.lm.report.matching import SEPARATOR, LongestMatches
from conjure.lm.report.word_ngrams import SeenNgrams, words_in_order

# Few symbols, so that stretches repeat, overlap themselves and tie.
texts = st.lists(st.text("abc", max_size=24), max_size=5)
streams = st.lists(st.text("abc|", max_size=60), max_size=6)


def codes(text: str) -> np.ndarray:
    return np.array([SEPARATOR if letter == "|" else ord(letter) for letter in text], np.int64)


def longest_common(one: str, other: str) -> int:
    stretches = (one[start:end] for start in range(len(one)) for end in range(start + 1, len(one) + 1))
    return max((len(stretch) for stretch in stretches if stretch in other), default=0)


@given(texts, streams)
def test_longest_matches_are_those_of_brute_force(texts, stream):
    search = LongestMatches([codes(text) for text in texts])
    for part in stream:
        search.feed(codes(part))
    whole = "".join(stream)
    for text, match in zip(texts, search.matches, strict=True):
        assert match.length == longest_common(text, whole)
        assert (
            text[match.start : match.start + match.length]
            == whole[match.position : match.position + match.length]
        )


@given(st.text("ab", min_size=1, max_size=40), st.integers(1, 9), st.integers(0, 2000))
def test_a_match_is_found_wherever_the_stream_is_sliced_inside(text, repeats, offset):
    """The first slices are 4,096 symbols long; the text stands across or near their edges."""
    stream = np.concatenate([np.full(3000 + offset, ord("c")), codes(text)] * repeats)
    search = LongestMatches([codes(text)])
    search.feed(stream)
    assert search.matches[0].length == len(text)


words = st.lists(st.sampled_from(["a", "b", "c", "only here"]), max_size=12)
word_streams = st.lists(st.lists(st.sampled_from(["a", "b", "c", "only there", ""]), max_size=20), max_size=5)


@given(st.lists(words, max_size=4), word_streams, st.integers(1, 5))
def test_seen_ngrams_are_those_of_brute_force(texts, stream, longest):
    seen = SeenNgrams(texts, longest)
    for part in stream:
        seen.feed(part)
    whole = [word for part in stream for word in part]
    for index, text in enumerate(texts):
        for n in range(1, longest + 1):
            known = {gram for gram in ngrams(whole, n) if "" not in gram}
            own = ngrams(text, n)
            assert seen.counts(index, n) == (len(own), sum(gram not in known for gram in own))
            covered = {place + k for place, gram in enumerate(own) if gram in known for k in range(n)}
            assert seen.covered_words(index, n) == len(covered)


@given(words, words)
def test_words_in_order_are_those_of_the_table(one, other):
    row = [0] * (len(other) + 1)
    for word in one:
        above, row = row, [0]
        for place, there in enumerate(other):
            row.append(above[place] + 1 if word == there else max(above[place + 1], row[place]))
    assert words_in_order(one, other) == row[-1]


def ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
