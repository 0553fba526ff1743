"""Distinct-n and self-BLEU against their definitions, restated the slow way."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conjure.lm.report.diversity import distinct, repeated_texts, self_bleu

texts = st.lists(st.lists(st.sampled_from("abcd"), max_size=9), max_size=6)


def test_distinct_counts_different_ngrams():
    varied, same = ["a", "b", "c"], ["a", "a", "a"]
    assert distinct([varied], 1, words=3) == 1
    assert distinct([varied, same], 1, words=6) == pytest.approx(3 / 6)
    assert distinct([varied, same], 2, words=6) == pytest.approx(3 / 4)  # none reaches across


def test_distinct_looks_at_so_many_words_only():
    assert distinct([["a", "b"], ["c", "a", "a"]], 1, words=3) == 1
    assert distinct([["a", "b"]], 3, words=2) is None
    assert distinct([], 1, words=0) is None


def test_equal_texts_have_a_self_bleu_of_one_and_different_ones_nearly_none():
    joke = ["my", "dog", "ate", "the", "clock"]
    assert self_bleu([joke, joke, joke]) == pytest.approx(1)
    other = self_bleu([joke, ["nobody", "knows", "why", "anyone", "left"]])
    assert other is not None
    assert other < 0.05


def test_self_bleu_needs_two_texts():
    assert self_bleu([]) is None
    assert self_bleu([["a", "b"], []]) is None


@given(texts)
def test_self_bleu_is_mean_bleu_against_the_rest(texts):
    texts = [text for text in texts if text]
    if len(texts) < 2:
        return
    expected = sum(bleu(text, texts[:i] + texts[i + 1 :]) for i, text in enumerate(texts)) / len(texts)
    assert self_bleu(texts) == pytest.approx(expected)


def bleu(text: list[str], references: list[list[str]]) -> float:
    logs = []
    for n in range(1, min(4, len(text)) + 1):
        grams = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
        matches = 0
        for gram in set(grams):
            allowed = max(
                [tuple(r[i : i + n]) for i in range(len(r) - n + 1)].count(gram) for r in references
            )
            matches += min(grams.count(gram), allowed)
        logs.append(math.log((matches if matches else 0.1) / len(grams)))
    closest = min((abs(len(r) - len(text)), len(r)) for r in references)[1]
    brevity = 1.0 if len(text) >= closest else math.exp(1 - closest / len(text))
    return brevity * math.exp(sum(logs) / len(logs))


def test_repeated_texts():
    assert repeated_texts([["a"], ["b"], ["a"], ["a"], [], []]) == 3
