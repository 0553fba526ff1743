"""The closest record, against a look at every record."""

import random

from conjure.lm.report.closest_record import ClosestRecords
from conjure.lm.report.word_ngrams import words_in_order

COMMON = [f"word{index}" for index in range(60)]


def text(rng: random.Random, size: int) -> list[str]:
    return rng.choices(COMMON, k=size)


def changed(rng: random.Random, words: list[str]) -> list[str]:
    """With a fifth of the words replaced, left out or added at most."""
    words = list(words)
    for place in sorted(rng.sample(range(len(words)), rng.randint(0, len(words) // 6)), reverse=True):
        kind = rng.randrange(3)
        if kind == 0:
            words[place] = "new"
        elif kind == 1:
            words.insert(place, "new")
        else:
            del words[place]
    return words


def test_a_text_with_small_changes_is_led_to_its_record():
    for seed in range(200):
        rng = random.Random(seed)
        records = [text(rng, rng.randint(6, 40)) for _ in range(30)]
        texts = [changed(rng, rng.choice(records)) for _ in range(10)] + [text(rng, 12)]
        closest = ClosestRecords(texts)
        stream = [word for record in records for word in (*record, "")]
        cut = [0, *sorted(place + 1 for place, word in enumerate(stream) if not word and rng.random() < 0.1)]
        for start, end in zip(cut, [*cut[1:], len(stream)], strict=True):
            closest.feed(stream[start:end])
        for words, (kept, record) in zip(texts, closest.found, strict=True):
            best = max(words_in_order(words, other) for other in records)
            if best >= 0.8 * len(words):
                assert kept == best
                assert words_in_order(words, records[record]) == best


def test_a_stretch_of_a_long_record_is_found_and_the_rest_does_not_count():
    rng = random.Random(1)
    novel = text(rng, 5_000)
    passage = [*novel[3000:3012], "new", *novel[3012:3020]]
    scattered = [novel[place] for place in range(0, 5_000, 300)]
    closest = ClosestRecords([passage, scattered, []])
    closest.feed(["a", "b", "", *novel, ""])
    assert closest.found[0] == (20, 1)
    assert closest.found[1].words < 0.8 * len(scattered)
    assert closest.found[2] == (0, None)


def test_nothing_to_look_for():
    closest = ClosestRecords([])
    closest.feed(["a", "b", ""])
    assert closest.found == []


def test_single_words_are_not_looked_for():
    closest = ClosestRecords([["a"], ["b"]])
    closest.feed(["a", "b", "a", ""])
    assert closest.found == [(0, None)] * 2


def test_a_record_that_goes_on_in_the_next_batch_is_found_in_its_first_part():
    passage = COMMON[:20]
    closest = ClosestRecords([passage])
    closest.feed(["a", "b", "", *passage])
    closest.feed(["c", "", "d", ""])
    assert closest.found == [(20, 1)]


def test_places_side_by_side_are_looked_at_once_so_that_others_get_their_turn():
    """A record of the text's halves in the wrong order shares more pairs, at many places side by side."""
    passage = COMMON[:20]
    turned = [*passage[10:], *passage[:10]]
    thinned = [word for place, word in enumerate(passage) if place % 4]
    closest = ClosestRecords([passage])
    closest.feed([*(f"other{place}" for place in range(50)), "", *turned, "", *thinned, ""])
    assert closest.found == [(15, 2)]


TURNED = [*COMMON[10:20], *COMMON[:10]]  # shares more pairs with the text, but only ten words in order
THINNED = [word for place, word in enumerate(COMMON[:20]) if place % 4]


def test_records_side_by_side_are_each_looked_at():
    closest = ClosestRecords([COMMON[:20]])
    closest.feed([*THINNED, "", *TURNED, ""])
    assert closest.found == [(15, 0)]


def test_places_far_apart_in_a_record_are_each_looked_at():
    closest = ClosestRecords([COMMON[:20]])
    closest.feed([*THINNED, *(f"other{place}" for place in range(100)), *TURNED, ""])
    assert closest.found == [(15, 0)]


def test_two_fifths_of_the_pairs_are_needed():
    text = COMMON[:6]
    two, one = [*text[:2], "new", *text[2:4]], [*text[:2], "new", text[3], "new", text[5]]
    closest = ClosestRecords([text, text[::-1]])
    closest.feed([*one, ""])
    assert closest.found == [(0, None)] * 2
    closest.feed([*two, ""])
    assert closest.found == [(4, 1), (0, None)]


def test_each_text_has_its_turn():
    """Also where another shares pairs with many records."""
    texts = [COMMON[:10], COMMON[20:30]]
    closest = ClosestRecords(texts)
    closest.feed(
        [*[word for index in range(12) for word in (*texts[0][:8], f"new{index}", "")], *texts[1], ""]
    )
    assert closest.found == [(8, 0), (10, 12)]


def test_words_of_the_record_before_do_not_count():
    closest = ClosestRecords([COMMON[:6]])
    closest.feed(["new", COMMON[0], "", *COMMON[1:6], "", "new", *COMMON[1:6], ""])
    assert closest.found == [(5, 1)]  # the first of equally close ones
