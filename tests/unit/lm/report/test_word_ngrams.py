"""What counts as a word in prose, in other scripts, and around punctuation."""

import pytest

from conjure.lm.report.word_ngrams import count_whole_words, split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" … — ?! ", []),
        ("I don’t—really—know!", ["i", "don’t", "really", "know"]),
        ("'Quoted', 3.5% of snake_case", ["quoted", "3", "5", "of", "snake", "case"]),
        ("Щенок съел\nЭКЛЕР", ["щенок", "съел", "эклер"]),
        ("猫が寝る。OK？", ["猫", "が", "寝", "る", "ok"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("nai\u0308ve 😀", ["nai\u0308ve", "😀"]),
    ],
)
def test_split_words(text, words):
    assert split_words(text) == words


def test_words_cut_at_an_edge_do_not_count():
    assert count_whole_words("the cat sat", 0, 11) == 3
    assert count_whole_words("the cat sat", 1, 10) == 1
    assert count_whole_words("the cat sat", 4, 7) == 1
