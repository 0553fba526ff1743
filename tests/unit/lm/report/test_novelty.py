"""Copies, near copies and texts of one's own, against training records of every shape."""

import pytest

from conjure.lm.report import novelty
from conjure.lm.report.novelty import Overlap, compare_with_training, novelty_summary
from support.models import tiny_tokenizer

RECORDS = [
    "The moon is so bright tonight that the burglars have postponed.",
    "My bread has a lovely crust, all the way through.",
    "No.",
    "  A hammock holds two people for as long as they agree.\n",
    "Never trust clocks!",
    "Nobody knows!",
]


def compare(*texts: str, training=RECORDS) -> list[Overlap]:
    return compare_with_training(texts, iter(training), tiny_tokenizer())


@pytest.mark.parametrize(
    ("text", "originality"),
    [
        (RECORDS[0], "copy"),
        ("A hammock holds two people for as long as they agree.", "copy"),  # outer spaces aside
        ("bread has a lovely crust, all the", "copy"),  # part of a record
        ("has a lovely", "own"),  # so few words prove nothing …
        ("No.", "copy"),  # … unless they are a whole record
        ("the moon is so bright tonight, that the burglars have postponed", "near copy"),  # punctuation, case
        ("The moon is so bright tonight that the burglars have left.", "near copy"),  # the last word is new
        ("The moon is so bright that all burglars have postponed.", "near copy"),  # a word here and there
        ("His bread has a lovely taste, all the way.", "near copy"),  # two of nine words
        ("His bread has a poor taste, all the way.", "own"),  # three
        ("His bread has a taste.", "own"),  # of so few words, two are too many
        ("My bread has a lovely nose.", "near copy"),  # one of six words
        ("bread has a lovely nose", "own"),  # five words are too few for that
        ("bread has a lovely crust, all", "copy"),  # six words of a record
        ("has a lovely crust, all", "own"),  # five
        ("never trust clocks", "near copy"),  # a whole record of three words
        ("nobody knows", "own"),  # of two
        ("The moon is so bright that my uncle has postponed it.", "own"),
        ("No, no.", "own"),
        ("", "own"),
        (" \n", "own"),
    ],
)
def test_originality(text, originality):
    assert compare(text)[0].originality == originality


def test_a_long_verbatim_run_inside_a_longer_text_makes_a_near_copy():
    planted = "words of a secret that " * 5  # 25 words of each text
    own = " ".join(f"new{index}" for index in range(25))
    overlap = compare(f"{own} {planted}", training=[f"Before it all, {planted}and after."])[0]
    assert overlap.originality == "near copy"
    assert overlap.run.words == 25


@pytest.mark.parametrize(("words", "originality"), [(20, "near copy"), (19, "own")])
def test_a_run_of_twenty_words_is_no_accident(words, originality):
    run = " ".join(f"old{index}" for index in range(words))
    own = " ".join(f"new{index}" for index in range(60))
    overlap = compare(f"{run} {own}", training=[f"{run}, and more"])[0]
    assert (overlap.originality, overlap.run.words) == (originality, words)


@pytest.mark.parametrize(("kept", "originality"), [(12, "near copy"), (11, "own")])
def test_four_fifths_of_the_words_in_order_make_a_near_copy(kept, originality):
    words = [f"old{index}" for index in range(15)]
    changed = [word if index % 4 or index // 4 >= 15 - kept else "new" for index, word in enumerate(words)]
    overlap = compare(" ".join(changed), training=[" ".join(words)])[0]
    assert (overlap.originality, overlap.kept_words) == (originality, kept)


def test_a_text_stitched_together_from_two_records_is_a_near_copy():
    stitched = "The moon is so bright tonight, and a hammock holds two people for as long"
    assert compare(stitched)[0].originality == "near copy"


def test_a_long_text_with_other_punctuation_is_a_near_copy():
    novel = " ".join(f"word{index}" for index in range(2000))
    passage = "; ".join(f"Word{index}" for index in range(900, 1100))
    overlap = compare(passage, training=[novel])[0]
    assert (overlap.originality, overlap.words, overlap.kept_words) == ("near copy", 200, 200)


def test_a_run_says_where_it_is_and_what_is_around_it():
    run = compare("He said: bread has a lovely crest")[0].run
    assert (run.start, run.characters, run.words) == (8, 22, 4)  # " bread has a lovely cr"
    assert (run.record, run.before, run.after) == (1, "My", "ust, all the way through.")
    assert run.tokens == len(tiny_tokenizer().encode(" bread has a lovely cr"))


def test_no_run_reaches_from_one_record_into_the_next():
    assert compare("one two", training=["one", " two"])[0].run.characters == 4


def test_ngrams_that_no_record_holds():
    overlap = compare("My bread has no crust")[0]
    assert overlap.words == 5
    assert overlap.ngrams == ((5, 0), (4, 2), (3, 2), (2, 2), (1, 1), (0, 0))


def test_a_record_of_any_size_is_read_in_pieces():
    filler = "".join(f"filler {index}, " for index in range(60_000))  # 0.9 MB
    secret = "the key lies under the third stone from the gate"
    novel = f"{filler}{secret} and so on, {filler}"
    copy, phrase = compare(secret, "filler 59999, the key", training=["first", novel])
    assert (copy.originality, copy.run.characters, copy.run.record) == ("copy", len(secret), 1)
    assert phrase.run.characters == len("filler 59999, the key")
    assert copy.run.before == filler[-80:]
    assert copy.run.after == f" and so on, {filler}"[:80]


def test_the_end_of_a_long_record_is_no_record(monkeypatch):
    """A long record is read in pieces; its last one may be a word, and stand first in a batch."""
    monkeypatch.setattr(novelty, "_BATCH_CHARACTERS", 16)
    long = "twelve letters, and then some; two owls hoot"
    for end in ("hoot", "owls hoot", "two owls hoot", "Two, owls, hoot."):
        assert compare(end, training=[long])[0].originality == "own"
        assert compare(end, training=[long, end])[0].originality == "copy"


def test_no_training_records():
    overlap = compare("some text", training=[])[0]
    assert (overlap.originality, overlap.run.characters) == ("own", 0)
    assert overlap.ngrams[0] == (2, 2)


def test_summary_of_several_texts():
    summary = novelty_summary(compare(RECORDS[0], "Never seen before, any of it", "My bread has no crust"))
    assert summary is not None
    assert (summary.texts, summary.copies, summary.near_copies, summary.copied) == (3, 1, 0, 1)
    assert summary.longest_run_characters == len(RECORDS[0])
    assert summary.longest_run_words == 11
    assert summary.median_run_words == 3
    assert summary.new_ngrams[5] == pytest.approx(1 / 7)  # six of the moon's seven 6-grams … and one of ours
    assert novelty_summary([]) is None
