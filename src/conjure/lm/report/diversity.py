"""How varied some texts are among themselves.

Main entries: `distinct`, `self_bleu`, `repeated_texts`. Texts are given as words (`words.split_words`).
Invariant: all figures lie from 0 to 1, and the order of the texts matters to `distinct` alone, which cuts
them off at a budget of words.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

_BLEU_ORDER = 4
_NO_MATCH = 0.1  # counts as so many matches, so that one order without any does not make the whole zero

Words = Sequence[str]
_Ngrams = Counter[tuple[str, ...]]


def distinct(texts: Iterable[Words], n: int, *, words: int) -> float | None:
    """Share of different n-grams among all n-grams: 1 where none occurs twice.

    Longer text repeats more, so two sets of texts compare only at the same number of words.

    Args:
        texts: As words.
        n: Words in an n-gram; none reaches from one text into the next.
        words: Budget: this many words are looked at, from the first text on.

    Returns:
        None where the budget holds no n-gram.

    Source:
        Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models".
    """
    counts: _Ngrams = Counter()
    for text in texts:
        counts += ngram_counts(text[:words], n)
        words -= min(len(text), words)
    total = counts.total()
    return len(counts) / total if total else None


def self_bleu(texts: Sequence[Words]) -> float | None:
    """How much each text is like all others: mean BLEU-4 of each against the rest; 1 where all are equal.

    BLEU as Papineni et al. 2002 have it; an order with no match at all counts as a tenth of one (Chen and
    Cherry 2014, method 1), and a text of fewer than 4 words is judged by the orders it has.

    Returns:
        None for fewer than two texts that are not empty.

    Source:
        Zhu et al. 2018, "Texygen: A Benchmarking Platform for Text Generation Models".
    """
    texts = [text for text in texts if text]
    if len(texts) < 2:
        return None
    counts = [[ngram_counts(text, n) for text in texts] for n in range(1, _BLEU_ORDER + 1)]
    most = [_two_most(of_order) for of_order in counts]
    lengths = Counter(map(len, texts))
    scores = []
    for index, text in enumerate(texts):
        precisions = [
            _precision(index, of_order[index], most_of_order)
            for of_order, most_of_order in zip(counts, most, strict=True)
            if of_order[index]
        ]
        brevity = min(0.0, 1 - _closest_other(len(text), lengths) / len(text))
        scores.append(math.exp(brevity + sum(map(math.log, precisions)) / len(precisions)))
    return sum(scores) / len(scores)


def repeated_texts(texts: Iterable[Words]) -> int:
    """How many texts say the same as an earlier one, word for word."""
    counts = Counter(tuple(text) for text in texts)
    return counts.total() - len(counts)


def ngram_counts(text: Words, n: int) -> _Ngrams:
    """How often each n-gram occurs in a text."""
    return Counter(zip(*(text[start:] for start in range(n)), strict=False))


def _two_most(counts: Sequence[_Ngrams]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """For each n-gram: the most often any text has it, which one, and the most often any other has it."""
    most: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for index, of_text in enumerate(counts):
        for ngram, count in of_text.items():
            first, owner, second = most.get(ngram, (0, -1, 0))
            if count > first:
                most[ngram] = (count, index, first)
            else:
                most[ngram] = (first, owner, max(second, count))
    return most


def _precision(index: int, own: _Ngrams, most: dict[tuple[str, ...], tuple[int, int, int]]) -> float:
    """Share of a text's n-grams that another text has too, each at most as often as that has it."""
    matches = 0
    for ngram, count in own.items():
        first, owner, second = most[ngram]
        matches += min(count, second if owner == index else first)
    return (matches or _NO_MATCH) / own.total()


def _closest_other(length: int, lengths: Counter[int]) -> int:
    """The length of another text that is closest to one text's length; the shorter of two."""
    others = [other for other, count in lengths.items() if other != length or count > 1]
    return min(others, key=lambda other: (abs(other - length), other))
