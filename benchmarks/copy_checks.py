"""Copies planted among samples: does a report find them, and say nothing that brute force contradicts?

Main entry: `copies`, called by ``python benchmarks/report_checks.py copies FILE…``. No model is needed: what
"it wrote" is made up of unseen records, copies of training records and such with small changes. Brute force
shares no code with the report: it compares every text with every record, word by word.
"""

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conjure.lm.generation.generate import Sample
from conjure.lm.generation.request import GenerationRequest
from conjure.lm.generation.score import Tally, Windows
from conjure.lm.language_model import load
from conjure.lm.report.analysis import Evidence, analyse
from conjure.lm.report.measure_model import Observation
from conjure.lm.report.novelty import Overlap, compare_with_training
from conjure.lm.report.report_schema import Extraction
from conjure.lm.text.near_duplicates import group_records
from conjure.lm.text.records import read_records
from conjure.lm.text.tokenizer import Tokenizer

PLANTS = 100  # of each kind in a text
SAMPLES, HELD_OUT = 50, 60  # of a report
PLANTED = (0, 1, 2, 3, 5, 10, 25)  # of its samples
ROUNDS = 2  # reports with each number
BOOK_WORDS = 40  # of a record that is cut from a book
LONGEST = 60  # words of a planted record and of what is written; longer ones are cut

Plant = Callable[[random.Random, str], str]


def copies(*files: Path) -> None:
    """Plants in each text and in made-up ones: what is found, what is contradicted."""
    tokenizer = load("sprite").tokenizer
    texts = {path.name: _records(path) for path in files}
    print("| text | kind | found | of which the record is named | brute force |\n" + "| --- " * 5 + "|")
    verdicts = []
    for name, records in (texts | _made_up()).items():
        started = time.process_time()
        corpus = _corpus(records)
        vocabulary = sorted({word for text in corpus.training for word in text.split()})
        plants = {kind: _plants(corpus, plant) for kind, plant in kinds(vocabulary).items()}
        for kind, planted in plants.items():
            _print_found(name, kind, planted, corpus, tokenizer)
        _print_unseen(name, corpus, tokenizer)
        verdicts.append(f"{name}: {_verdicts(corpus, plants, tokenizer)}")
        verdicts[-1] += f" ({time.process_time() - started:.0f} s of processor)"
    print("\n".join(verdicts))


def kinds(vocabulary: Sequence[str]) -> dict[str, Plant]:
    """Ways to copy a record, with the least to the most changed."""

    def changed(count: int) -> Plant:
        def plant(source: random.Random, text: str) -> str:
            parts = text.split()
            for place in source.sample(range(len(parts)), count):
                parts[place] = source.choice(vocabulary)
            return " ".join(parts)

        return plant

    def part(source: random.Random, text: str) -> str:
        parts = _with_spaces(text)
        size = max(8, len(parts) // 2)
        first = source.randrange(len(parts) - size + 1)
        return "".join(parts[first : first + size])

    def added(source: random.Random, text: str) -> str:
        parts = text.split()
        parts.insert(source.randrange(len(parts) + 1), source.choice(vocabulary))
        return " ".join(parts)

    def dropped(source: random.Random, text: str) -> str:
        parts = text.split()
        del parts[source.randrange(len(parts))]
        return " ".join(parts)

    return {
        "whole record": lambda _, text: text,
        "part of a record, 8 words or more": part,
        "case": lambda _, text: text.upper(),
        "punctuation": lambda _, text: re.sub(r"[.,;:!?]", "", text).replace(" ", "  ") + "!",
        "one word changed": changed(1),
        "two words changed": changed(2),
        "one word added": added,
        "one word left out": dropped,
    }


# ------------------------------------------------------------------------------------------------- texts


def _records(path: Path) -> list[str]:
    """The records of a table, a book cut after every 40th word, or a file of Debian's fortunes."""
    if path.suffix == "":
        return [part.strip() for part in path.read_text("utf-8").split("\n%\n") if part.strip()]
    if path.suffix == ".txt":
        words = _with_spaces(path.read_text("utf-8"))
        return ["".join(words[first : first + BOOK_WORDS]) for first in range(0, len(words), BOOK_WORDS)]
    return list(read_records([path]))


def _made_up() -> dict[str, list[str]]:
    """Texts of which the truth is known: no two records of the first are alike."""
    source = random.Random(3)
    words = ["".join(source.choices("aeioubdfgklmnprstvz", k=source.randrange(2, 9))) for _ in range(4000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]

    def sentence(least: int, most: int) -> str:
        return " ".join(source.choices(words, weights, k=source.randrange(least, most))) + "."

    frames = [sentence(6, 9) for _ in range(4)]
    retold = kinds(words)["two words changed"]
    originals = [sentence(8, 40) for _ in range(500)]
    return {
        "made up, all different": [sentence(8, 40) for _ in range(3000)],
        "made up, in frames": [f"{source.choice(frames)} {sentence(8, 14)}" for _ in range(1500)],
        "made up, each told six times": [
            text for first in originals for text in (first, *(retold(source, first) for _ in range(5)))
        ],
    }


@dataclass(frozen=True)
class _Corpus:
    """Records trained on, held out, and for the samples that are no copies; all in different groups."""

    training: list[str]
    held_out: list[str]
    own: list[str]
    truth: "_BruteForce"


def _corpus(records: Sequence[str]) -> _Corpus:
    labels = group_records(records).labels
    order = np.random.default_rng(0).permutation(int(labels.max()) + 1)
    parts = np.split(order, [HELD_OUT, HELD_OUT + 3 * SAMPLES])
    held_out, own, training = (
        [records[n] for n in np.flatnonzero(np.isin(labels, part)).tolist()] for part in parts
    )
    return _Corpus(training, held_out, [_beginning(text) for text in own], _BruteForce(training))


def _beginning(text: str) -> str:
    return "".join(_with_spaces(text)[:LONGEST])


def _with_spaces(text: str) -> list[str]:
    """The words of a text, each with the spaces after it."""
    return re.findall(r"\S+\s*", text)


def _plants(corpus: _Corpus, plant: Plant) -> list[tuple[int, str]]:
    """Records with their numbers, copied in some way; those of fewer than 8 words are no one's own."""
    source = random.Random(1)
    long = [number for number, text in enumerate(corpus.training) if len(text.split()) >= 8]
    chosen = source.sample(long, min(PLANTS, len(long)))
    return [(number, plant(source, _beginning(corpus.training[number]))) for number in chosen]


# ------------------------------------------------------------------------------------------------ checks


def _print_found(
    name: str, kind: str, planted: Sequence[tuple[int, str]], corpus: _Corpus, tokenizer: Tokenizer
) -> None:
    texts = [text for _, text in planted]
    overlaps = compare_with_training(texts, corpus.training, tokenizer)
    found = [n for n, overlap in enumerate(overlaps) if overlap.originality != "own"]
    named = sum(_names_it(overlaps[n], planted[n][0], texts[n], corpus) for n in found)
    brute = sum(corpus.truth.copied(text) for text in texts)
    print(
        f"| {name} | {kind} | {len(found)} of {len(texts)} | {named} of {len(found)} | {brute} |", flush=True
    )


def _names_it(overlap: Overlap, planted: int, text: str, corpus: _Corpus) -> bool:
    """Whether a record is named that the text was copied from, or that it could as well be copied from."""
    numbers = {overlap.run.record, overlap.near_record} - {None}
    return planted in numbers or any(_BruteForce([corpus.training[n]]).copied(text) for n in numbers)


def _print_unseen(name: str, corpus: _Corpus, tokenizer: Tokenizer) -> None:
    """Unseen texts: the report and brute force must agree, one by one."""
    texts = [*corpus.own, *map(_beginning, corpus.held_out)]
    overlaps = compare_with_training(texts, corpus.training, tokenizer)
    pairs = [
        (overlap.originality != "own", corpus.truth.copied(text))
        for overlap, text in zip(overlaps, texts, strict=True)
    ]
    both = sum(found and true for found, true in pairs)
    print(
        f"| {name} | unseen texts | {sum(found for found, _ in pairs)} of {len(pairs)} | "
        f"| {sum(true for _, true in pairs)}, {both} the same |",
        flush=True,
    )


def _verdicts(corpus: _Corpus, plants: dict[str, list[tuple[int, str]]], tokenizer: Tokenizer) -> str:
    """How often reports on samples with so many plants call them good although brute force does not."""
    source = random.Random(2)
    all_plants = [text for planted in plants.values() for _, text in planted]
    good = contradicted = missed = count = 0
    for planted in PLANTED * ROUNDS:
        own = source.sample(corpus.own, 2 * SAMPLES - planted)
        samples = [*source.sample(all_plants, planted), *own[: SAMPLES - planted]]
        tone = _tone(samples, own[SAMPLES - planted :], corpus, tokenizer)
        true = sum(map(corpus.truth.copied, samples))
        count += 1
        good += tone == "good"
        contradicted += tone == "good" and true > 0
        missed += tone != "bad" and true >= SAMPLES / 5
    return (
        f"{count} reports, {good} with ✔ it does not copy, {contradicted} of them contradicted by brute "
        f"force; {missed} of a copier not called one"
    )


def _tone(samples: Sequence[str], base: Sequence[str], corpus: _Corpus, tokenizer: Tokenizer) -> str:
    held_out = corpus.held_out
    report = analyse(
        Evidence(
            title="planted",
            base=_observation(base, held_out, tokenizer, 5.0),
            tuned=_observation(samples, held_out, tokenizer, 4.0),
            request=GenerationRequest(max_new_tokens=100, num_samples=len(samples), seed=1),
            tokenizer=tokenizer,
            training=corpus.training,
            held_out=held_out,
            record_lengths=np.array([len(text.split()) for text in corpus.training]),
            points=[],
            kept_step=1,
            end_reason="completed",
            settings={},
            data={},
        )
    )
    return next(finding.tone for finding in report.verdict.findings if "copying" in finding.question)


def _observation(
    written: Sequence[str], held_out: Sequence[str], tokenizer: Tokenizer, loss: float
) -> Observation:
    samples = [
        Sample("", 0, index, text, ids, [-loss] * len(ids), "end_of_text", 1)
        for index, text in enumerate(written)
        for ids in [[*tokenizer.encode(text), tokenizer.end_of_text_id]]
    ]
    scores = [Tally(-loss * len(text.split()), len(text.split()), 1, 1) for text in held_out]
    return Observation("made up", samples, scores, Windows(512, 256), Extraction(None, None))


# ------------------------------------------------------------------------------------------- brute force


class _BruteForce:
    """Whether a text is a copy, with small changes or without, by the rule in docs/reports.md."""

    def __init__(self, records: Sequence[str]) -> None:
        self._records = [record.strip() for record in records]
        self._words = [_words(record) for record in records]
        self._sets = [set(words) for words in self._words]
        self._sixes = {six for words in self._words for six in _in_a_row(words, 6)}
        self._known: dict[str, bool] = {}

    def copied(self, text: str) -> bool:
        if text not in self._known:
            self._known[text] = self._copied(text.strip(), _words(text))
        return self._known[text]

    def _copied(self, text: str, words: list[str]) -> bool:
        size = len(words)
        if any(text == record or (size >= 6 and text in record) for record in self._records):
            return True
        if size < 6:
            return size >= 3 and words in self._words
        known_sixes = [place for place, six in enumerate(_in_a_row(words, 6)) if six in self._sixes]
        covered = {place + step for place in known_sixes for step in range(6)}
        enough = min(0.8 * size, max(6, size - 2))
        return len(covered) >= enough or any(
            sum(map(known.__contains__, words)) >= enough
            and any(_common(words, stretch) >= enough for stretch in _stretches(record, 2 * size))
            for record, known in zip(self._words, self._sets, strict=True)
        )


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.casefold())


def _in_a_row(words: list[str], count: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[step:] for step in range(count)), strict=False)


def _stretches(words: list[str], size: int) -> Iterator[list[str]]:
    """Overlapping parts of so many words."""
    for first in range(0, max(1, len(words) - size // 2), max(1, size // 4)):
        yield words[first : first + size]


def _common(one: list[str], other: list[str]) -> int:
    """Words in the same order in both, at most: the textbook's table."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for place, there in enumerate(other, start=1):
            above = row[place]
            row[place] = before + 1 if word == there else max(above, row[place - 1])
            before = above
    return row[-1]
