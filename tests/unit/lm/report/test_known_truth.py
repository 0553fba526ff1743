"""Corpora of which the truth is known: what must be held out, what counts, and what may be said of it.

This is the specification of the data side of a report. Losses are made up here, so that the truth is known:
a model "recites" a record if it was trained on its like, and else changes each token's loss by a set effect.
"""

import random
from dataclasses import dataclass

import numpy as np
import pytest

from conjure.lm.generation.score import Tally
from conjure.lm.report.measure_model import held_out_texts, record_texts
from conjure.lm.report.statistics import LossChange, compare_losses, group_tallies
from conjure.lm.text.near_duplicates import DuplicateGroups
from conjure.lm.text.records import read_records
from conjure.lm.text.split import Split, hold_out, hold_out_file
from conjure.lm.text.token_cache import find_groups, tokenise
from support.models import tiny_tokenizer
from support.records import write_records

WORDS = [f"{first}{last}" for first in "bdfgklmnprst" for last in ("aker", "ilo", "ondy", "un", "esk", "ar")]
RECITED = 1.0  # nats per token of what was trained on


@dataclass(frozen=True)
class Corpus:
    """A text, and which of its records say the same."""

    texts: list[str]
    families: list[int]


def corpus(seed: int, singles: int, families: int = 0, copies: int = 0, retold: int = 0) -> Corpus:
    """So many different records, and families of copies and retellings of one record each."""
    source = random.Random(seed)
    made: list[tuple[str, int]] = []
    for family in range(singles + families):
        text = " ".join(source.choice(WORDS) for _ in range(source.randrange(10, 30)))
        made.append((text, family))
        if family >= singles:
            made += [(changed_signs(source, text), family) for _ in range(copies)]
            made += [(one_word_changed(source, text), family) for _ in range(retold)]
    source.shuffle(made)
    return Corpus([text for text, _ in made], [family for _, family in made])


def changed_signs(source: random.Random, text: str) -> str:
    return source.choice([text, text.upper(), text + "!", text.replace(" ", ", "), f"“{text}”", text.title()])


def one_word_changed(source: random.Random, text: str) -> str:
    words = text.split()
    words[source.choice([0, len(words) - 1])] = source.choice(WORDS)
    return " ".join(words)


@pytest.fixture
def split_of(tmp_path):
    def make(texts, fraction=0.1, **options) -> tuple[Split, DuplicateGroups]:
        records = read_records([write_records(tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl", texts)])
        text = tokenise(records, tiny_tokenizer(), cache=tmp_path / "cache")
        groups = find_groups([records], cache=tmp_path / "cache")
        return hold_out(text, fraction, groups=groups, **options), groups

    return make


def measured(split: Split, effect: float, seed: int = 0) -> LossChange:
    """What a report says of a training with this effect (nats per token of unseen text)."""
    found = held_out_texts(split.heldout, tiny_tokenizer(), tokens=10**6)
    trained = {"".join(text.lower().split()) for text in record_texts(split.train, tiny_tokenizer())}
    source = np.random.default_rng(seed)
    before, after = [], []
    for text in found.texts:
        tokens = len(tiny_tokenizer().encode(text))
        change = RECITED - 5 if "".join(text.lower().split()) in trained else effect
        before.append(Tally(-5.0 * tokens, tokens, 1, 1))
        after.append(
            Tally(-5.0 * tokens - change * tokens - source.normal(0, 0.5 * tokens**0.5), tokens, 1, 1)
        )
    return compare_losses(group_tallies(before, found.groups), group_tallies(after, found.groups))


SHAPES = [
    {"singles": 400, "families": 20, "copies": 29},  # one sentence was 30 of 77 held-out texts
    {"singles": 300, "families": 40, "copies": 3, "retold": 6},
    {"singles": 0, "families": 100, "copies": 1},
    {"singles": 1000},
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [1, 2])
def test_groups_are_the_families(shape, seed, split_of):
    made = corpus(seed, **shape)
    _, groups = split_of(made.texts)
    pairs = set(zip(groups.labels.tolist(), made.families, strict=True))
    assert len(pairs) == groups.count == len(set(made.families))
    assert groups.largest == max(np.bincount(made.families))


@pytest.mark.parametrize("shape", SHAPES)
def test_no_family_is_on_both_sides_and_about_a_tenth_is_held_out(shape, split_of):
    made = corpus(3, **shape)
    split, groups = split_of(made.texts)
    held_out = set(split.heldout.labels.tolist())
    assert not held_out & set(split.train.labels.tolist())
    assert 0.05 * groups.count < len(held_out) < 0.2 * groups.count
    assert split.train.records + split.heldout.records == len(made.texts)


@pytest.mark.parametrize(("effect", "answer"), [(-0.3, "better"), (0.3, "worse"), (0.0, "unclear")])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_answer_is_the_truth(shape, effect, answer, split_of):
    split, _ = split_of(corpus(4, **shape).texts, fraction=0.2)
    found = measured(split, effect)
    assert found.outcome == answer, found
    assert found.groups == split.heldout.groups


def test_what_is_recited_does_not_hide_that_unseen_text_got_worse(split_of):
    split, _ = split_of(corpus(5, singles=400, families=20, copies=29).texts)
    found = measured(split, 0.25)
    assert found.outcome == "worse", found
    assert found.likelier < 0.3 * found.groups


@pytest.mark.slow
def test_of_trainings_without_effect_few_are_called_a_change(split_of):
    split, _ = split_of(corpus(6, singles=300, families=30, copies=5).texts)
    outcomes = [measured(split, 0.0, seed).outcome for seed in range(60)]
    assert outcomes.count("unclear") >= 54


@pytest.mark.parametrize(
    "texts",
    [
        ["The one line there is, and no other."] * 200,
        ["Alone."],
        [f"{' '.join(WORDS[:20])} {n % 2}" for n in range(80)],
    ],
    ids=["one line", "one record", "two retellings"],
)
def test_where_all_says_the_same_nothing_is_claimed(texts, split_of):
    split, groups = split_of(texts)
    assert groups.count == 1
    if split.heldout is not None:
        assert split.method == "tail"
        assert measured(split, -2.0).outcome == "unclear"


def test_jokes_written_twice_are_measured_on_those_not_trained_on(split_of):
    texts = corpus(7, singles=20).texts
    split, _ = split_of(texts + texts)
    train = set(record_texts(split.train, tiny_tokenizer()))
    assert not train & set(record_texts(split.heldout, tiny_tokenizer()))
    assert measured(split, -2.0).outcome == "unclear"  # two groups show nothing


@pytest.mark.parametrize("seed", [8, 9])
def test_adding_records_moves_none(seed, split_of):
    made = corpus(seed, singles=200, families=20, copies=2, retold=2)
    source = random.Random(seed)
    more = [one_word_changed(source, text) for text in source.sample(made.texts, 40)] + corpus(
        seed + 50, 100
    ).texts
    (before, old), (after, new) = split_of(made.texts), split_of([*made.texts, *more])
    old_side = np.isin(old.labels, before.heldout.labels)
    new_side = np.isin(new.labels[: len(made.texts)], after.heldout.labels)
    first = {}
    joined = set()
    for place, label in enumerate(new.labels[: len(made.texts)].tolist()):
        if first.setdefault(label, old.labels[place]) != old.labels[place]:
            joined.add(label)
    moved = [p for p in np.flatnonzero(old_side != new_side) if new.labels[p] not in joined]
    assert not moved


def test_a_validation_file_with_copies_of_the_training_text(tmp_path):
    made, other = corpus(10, singles=100), corpus(11, singles=30)
    source = random.Random(0)
    planted = [changed_signs(source, text) for text in made.texts[:7]]
    planted += [one_word_changed(source, text) for text in made.texts[20:25]]
    sets = [
        read_records([write_records(tmp_path / name, texts)])
        for name, texts in (("train.jsonl", made.texts), ("validation.jsonl", [*other.texts, *planted]))
    ]
    train, validation = (tokenise(one, tiny_tokenizer(), cache=tmp_path / "cache") for one in sets)
    split = hold_out_file(train, validation, find_groups(sets, cache=tmp_path / "cache"))
    assert split.excluded == len(planted)
    assert list(record_texts(split.heldout, tiny_tokenizer())) == other.texts
