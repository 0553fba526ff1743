"""Records that say the same are found, and nothing else is joined."""

import random
from collections.abc import Sequence

import numpy as np
import pytest

from conjure.lm.text import near_duplicates as groups
from conjure.lm.text.near_duplicates import (
    CONTAINMENT,
    FEWEST_SHARED,
    FEWEST_SHINGLES,
    GroupBuilder,
    group_records,
)

WORDS = [f"word{number}" for number in range(3000)]


def sentence(source: random.Random, words: int) -> str:
    return " ".join(source.choice(WORDS) for _ in range(words))


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[start : start + 3]) for start in range(len(words) - 2)}


def brute_force(texts: Sequence[str]) -> list[int]:
    """The group of each text, by comparing all pairs; for texts of small letters and single spaces."""
    labels = list(range(len(texts)))
    for a, first in enumerate(texts):
        for b, second in enumerate(texts):
            mine = shingles(first)
            shared = len(mine & shingles(second))
            near = len(mine) >= FEWEST_SHINGLES and shared >= max(FEWEST_SHARED, CONTAINMENT * len(mine))
            if first == second or near:
                low, high = sorted((labels[a], labels[b]))
                labels = [low if label == high else label for label in labels]
    return labels


def as_partition(labels: Sequence[int]) -> set[frozenset[int]]:
    return {frozenset(i for i, label in enumerate(labels) if label == one) for one in set(labels)}


def retold(source: random.Random, text: str) -> str:
    words = text.split()
    for _ in range(source.randrange(4)):
        words[source.randrange(len(words))] = source.choice(WORDS)
    start = source.randrange(4)
    return " ".join(words[start:])


@pytest.mark.parametrize("seed", range(5))
def test_groups_equal_those_of_comparing_all_pairs(seed: int) -> None:
    source = random.Random(seed)
    texts = [sentence(source, source.randrange(1, 30)) for _ in range(60)]
    texts += [retold(source, source.choice(texts[:60])) for _ in range(140)]
    source.shuffle(texts)
    found = group_records(texts)
    assert as_partition(found.labels.tolist()) == as_partition(brute_force(texts))
    assert found.largest == max(map(len, as_partition(brute_force(texts))))
    assert found.largest > 3, "the texts were to have families"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("I see.", "i SEE"),
        ("I see the sea", "I see; the\tsea!!"),
        ("ice cream", "icecream"),
        ("don't", "dont"),
        ("don't", "don\u2019t"),
        ("na\u00efve caf\u00e9", "nai\u0308ve CAFE\u0301"),
        ("Stra\u00dfe", "STRASSE"),
        ("?!", "? !"),
    ],
)
def test_equal_but_for_case_space_and_punctuation(first: str, second: str) -> None:
    found = group_records([first, "something else", second])
    assert found.labels.tolist() == [0, 1, 0]
    assert found.distinct == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("I see", "I sea"),
        ("2", "3"),
        ("\U0001f600", "\U0001f622"),
        ("\u0915\u093f", "\u0915\u0940"),
        ("?", "!"),
        ("", "?"),
    ],
)
def test_different_texts_are_different(first: str, second: str) -> None:
    assert group_records([first, second]).distinct == 2


def test_texts_of_scripts_without_spaces_are_compared_by_characters() -> None:
    first = "\u6211\u4e70\u4e86\u4e00\u4e2a\u6ca1\u6709\u6570\u5b57\u7684\u949f\u73b0\u5728\u8fdf\u5230\u4e86"
    other = "\u4ed6\u8bf4\u4eca\u5929\u5929\u6c14\u5f88\u597d\u6211\u4eec\u53bb\u516c\u56ed\u8d70\u8d70\u5427"
    assert group_records([first, other, first[:-1] + "\u5427"]).labels.tolist() == [0, 1, 0]


def test_a_short_text_inside_a_long_one() -> None:
    source = random.Random(1)
    joke = sentence(source, 12)
    assert group_records(
        [sentence(source, 200), f"{sentence(source, 100)} {joke} {sentence(source, 100)}", joke]
    ).labels.tolist() == [
        0,
        1,
        1,
    ]


def test_a_very_short_text_joins_nothing_but_names_what_holds_it() -> None:
    source = random.Random(2)
    opening = "what do you call a fish"
    texts = [f"{opening} {sentence(source, 12)}" for _ in range(40)]
    others = [sentence(source, 12) for _ in range(300)]
    found = group_records([*texts, opening, *others])
    assert found.count == 341
    assert set(found.neighbours[:, 0].tolist()) == {40}
    assert 1 <= len(found.neighbours) <= 8
    assert len(np.unique(found.neighbours[:, 1])) == len(found.neighbours)


def test_a_text_in_pieces_is_the_same_text() -> None:
    source = random.Random(3)
    text = sentence(source, 400)
    builder = GroupBuilder()
    builder.add(text)
    builder.add("between")
    for start in range(0, len(text), 700):
        builder.add(text[start : start + 700].upper(), ends_record=start + 700 >= len(text))
    found = builder.build()
    assert found.labels.tolist() == [0, 1, 0]
    assert found.distinct == 2


def test_what_nearly_all_records_share_does_not_make_them_one() -> None:
    source = random.Random(4)
    form = "dear sir or madam with regard to your letter of last week about the matter of the"
    texts = [f"{form} {sentence(source, 3)}" for _ in range(50)]
    found = group_records([*texts, texts[7]])
    assert found.count == 50
    assert found.labels[50] == found.labels[7]


def test_with_a_share_of_the_shingles_families_are_still_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_MOST_SHINGLES", 20_000)
    source = random.Random(5)
    texts = [sentence(source, 100) for _ in range(200)]
    found = group_records([*texts, *(f"{text} {sentence(source, 3)}" for text in texts)])
    assert as_partition(found.labels.tolist()) == {frozenset((i, i + 200)) for i in range(200)}


def test_a_family_larger_than_the_window_is_one_group() -> None:
    source = random.Random(6)
    text = sentence(source, 40)
    family = [f"{text} {sentence(source, 5)}" for _ in range(500)]
    others = [sentence(source, 20) for _ in range(2600)]
    found = group_records([*family, *others])
    assert found.largest == 500
    assert found.count == 2601


@pytest.mark.parametrize("texts", [[], [""], ["one"], ["", ""]])
def test_few_texts(texts: list[str]) -> None:
    found = group_records(texts)
    assert len(found.labels) == len(texts)
    assert found.count == len(set(texts))
