"""How much of some texts stands in the training records: verbatim runs, copies, near copies, new n-grams.

Main entries: `compare_with_training`, `novelty_summary`. Invariant: the records are read once, in a stream,
in memory that does not grow with them; every figure is exact (`matching`, `word_ngrams`).

A figure means little without knowing what is normal: text of the same kind that the model never saw has
phrases in common with the training records too. So the same figures are made for held-out records.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, NamedTuple

import numpy as np

from conjure.lm.report.closest_record import ClosestRecords
from conjure.lm.report.matching import SEPARATOR, LongestMatches
from conjure.lm.report.word_ngrams import SeenNgrams, count_whole_words, split_words
from conjure.lm.text.batches import in_batches
from conjure.lm.text.tokenizer import Tokenizer, split_safely

LONGEST_NGRAM = 6

# What counts as a copy. A stretch of six words is where chance ends: of held-out novels, 99 % of the
# six-word stretches stand nowhere in 50 MB of other novels, of five words 95 %, of four 82 %.
SHORT_COPY_WORDS = 3  # of a record that is the same but for case and punctuation
COPY_WORDS = 6  # a whole text of at least so many words that stands in one training record is a copy
# Of 272 held-out one-line jokes, 4 reach the next limit, all old jokes told in other words; of 400 excerpts
# from held-out novels, 1 does, with seven words.
NEAR_COPY_SHARE = 0.8  # so much of a text from training records, but for changed words here and there
FEW_CHANGES = 2  # words: so many may be others in a short text too, of which they are more than a fifth
NEAR_COPY_RUN_WORDS = 20  # a run of so many words is no accident, whatever is around it

_BATCH_CHARACTERS = 1 << 18
_CONTEXT_CHARACTERS = 80

Originality = Literal["copy", "near copy", "own"]


@dataclass(frozen=True, slots=True)
class Run:
    """The longest stretch of a text that stands in a training record, character for character.

    Attributes:
        start: Where it starts in the text, in characters.
        characters: Its length; 0 where the text has nothing in common with any record.
        words: Whole words in it.
        tokens: Its length in the model's tokens.
        record: Number of a training record that holds it, from 0.
        before: What comes before it in that record, at most 80 characters.
        after: What comes after it there, at most 80 characters.
    """

    start: int
    characters: int
    words: int
    tokens: int
    record: int
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Overlap:
    """What one text has in common with the training records.

    Attributes:
        originality: ``copy``: all of it, outer spaces aside, stands in one record, and it has at least
            `COPY_WORDS` words or is the whole record. ``near copy``, case and punctuation aside: it has at
            least `SHORT_COPY_WORDS` words and is a whole record; or of its words (`COPY_WORDS` at least),
            `NEAR_COPY_SHARE`, or all but `FEW_CHANGES`, stand in the same order in a stretch of one record,
            or lie in stretches of `COPY_WORDS` words that some record holds; or the run has at least
            `NEAR_COPY_RUN_WORDS` words.
            ``own``: none of these.
        run: Its longest verbatim run.
        words: Its words.
        kept_words: The most of its words that stand in the same order in a stretch of one record, or that
            lie in stretches of `COPY_WORDS` words that some record holds.
        near_record: Number of the record with most of its words in the same order, from 0; None where it
            has few in common with any.
        ngrams: For n = 1 … `LONGEST_NGRAM`: its word n-grams, and how many of them no record holds.
    """

    originality: Originality
    run: Run
    words: int
    kept_words: int
    near_record: int | None
    ngrams: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Novelty:
    """The same for several texts together.

    Attributes:
        texts: How many.
        copies: How many are copies.
        near_copies: How many are near copies.
        longest_run_characters: The longest verbatim run of any.
        longest_run_words: Words in the run with most of them.
        longest_run_tokens: Tokens in the run with most of them.
        run_words: Words in each text's longest run.
        new_ngrams: For n = 1 … `LONGEST_NGRAM`: share of all word n-grams in the texts that no training
            record holds; None where the texts have none.

    Source:
        Novel n-gram share: McCoy et al. 2023, "How much do language models copy from their training data?"
    """

    texts: int
    copies: int
    near_copies: int
    longest_run_characters: int
    longest_run_words: int
    longest_run_tokens: int
    run_words: tuple[int, ...]
    new_ngrams: tuple[float | None, ...]

    @property
    def median_run_words(self) -> float:
        """Of the texts' longest runs, the middle one, in words."""
        return float(median(self.run_words))

    @property
    def copied(self) -> int:
        """Copies and near copies together."""
        return self.copies + self.near_copies


def compare_with_training(
    texts: Sequence[str], training: Iterable[str], tokenizer: Tokenizer
) -> list[Overlap]:
    """Find what each text has in common with the training records.

    Args:
        texts: Some hundred short texts.
        training: All records the model was trained on; read once.
        tokenizer: Whose tokens to count.
    """
    comparison = _Comparison(texts)
    for batch in in_batches(_pieces(training), _BATCH_CHARACTERS, _size):
        comparison.take(batch)
    runs = [comparison.run_text(index) for index in range(len(texts))]
    tokens = [len(ids) for ids in tokenizer.encode_batch(runs)]
    return [comparison.overlap(index, count) for index, count in enumerate(tokens)]


def novelty_summary(overlaps: Sequence[Overlap]) -> Novelty | None:
    """The figures of several texts together; None of no texts."""
    if not overlaps:
        return None
    kinds = [overlap.originality for overlap in overlaps]
    runs = [overlap.run for overlap in overlaps]
    sums = np.array([overlap.ngrams for overlap in overlaps]).sum(0)  # (n, 2)
    return Novelty(
        texts=len(overlaps),
        copies=kinds.count("copy"),
        near_copies=kinds.count("near copy"),
        longest_run_characters=max(run.characters for run in runs),
        longest_run_words=max(run.words for run in runs),
        longest_run_tokens=max(run.tokens for run in runs),
        run_words=tuple(run.words for run in runs),
        new_ngrams=tuple(float(new / count) if count else None for count, new in sums),
    )


class _Piece(NamedTuple):
    """A record, or a stretch of a very long one."""

    text: str
    record: int
    ends_record: bool
    is_whole: bool


class _Source(NamedTuple):
    """A record that holds a run, and what is around the run there."""

    record: int
    before: str
    after: str


def _pieces(training: Iterable[str]) -> Iterator[_Piece]:
    """All records in pieces that fit a batch."""
    for number, record in enumerate(training):
        parts = list(split_safely(record, _BATCH_CHARACTERS))
        for index, part in enumerate(parts, start=1):
            yield _Piece(part, number, index == len(parts), len(parts) == 1)


def _size(piece: _Piece) -> int:
    return len(piece.text) + 1  # of what sets it apart from the next


class _Comparison:
    """The texts' indexes while the training records stream past."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self._stripped = [text.strip() for text in texts]
        self._words = [split_words(text) for text in texts]
        self._ngrams = SeenNgrams(self._words, LONGEST_NGRAM)
        self._longest = LongestMatches([_code_points(text) for text in self._stripped])
        self._closest = ClosestRecords(self._words)
        self._sources = [_Source(0, "", "")] * len(texts)
        self._not_empty = {text for text in self._stripped if text}
        self._whole_records: set[str] = set()  # those of the texts that are records
        self._phrases = {tuple(words) for words in self._words if len(words) >= SHORT_COPY_WORDS}
        self._whole_phrases: set[tuple[str, ...]] = set()  # the same, case and punctuation aside
        self._position = 0  # in the stream of characters

    def run_text(self, index: int) -> str:
        """The longest verbatim run of a text so far."""
        match = self._longest.matches[index]
        return self._stripped[index][match.start : match.start + match.length]

    def take(self, batch: list[_Piece]) -> None:
        """Compare with some more of the training records."""
        words: list[str] = []
        phrases: list[tuple[str, ...]] = []  # of the records that came in one piece
        for piece in batch:
            own = split_words(piece.text)
            words += own
            if piece.ends_record:
                words.append("")
            if piece.is_whole:
                phrases.append(tuple(own))
        self._ngrams.feed(words)
        self._closest.feed(words)
        self._whole_records |= self._not_empty.intersection(
            piece.text.strip() for piece in batch if piece.is_whole
        )
        self._whole_phrases |= self._phrases.intersection(phrases)
        self._take_characters(batch)

    def overlap(self, index: int, run_tokens: int) -> Overlap:
        """What was found for one text."""
        run = self._run(index, run_tokens)
        words, closest = len(self._words[index]), self._closest.found[index]
        kept = max(closest.words, self._ngrams.covered_words(index, COPY_WORDS))
        stripped = self._stripped[index]
        originality: Originality = "own"
        if stripped in self._whole_records or (run.characters == len(stripped) and words >= COPY_WORDS):
            originality = "copy"
        elif (
            run.words >= NEAR_COPY_RUN_WORDS
            or (words >= COPY_WORDS and kept >= NEAR_COPY_SHARE * words)
            or kept >= max(COPY_WORDS, words - FEW_CHANGES)
            or tuple(self._words[index]) in self._whole_phrases
        ):
            originality = "near copy"
        counts = tuple(self._ngrams.counts(index, n) for n in range(1, LONGEST_NGRAM + 1))
        return Overlap(originality, run, words, kept, closest.record, counts)

    def _run(self, index: int, tokens: int) -> Run:
        text, match, source = self._texts[index], self._longest.matches[index], self._sources[index]
        start = text.index(self._stripped[index]) + match.start
        return Run(
            start=start,
            characters=match.length,
            words=count_whole_words(text, start, start + match.length),
            tokens=tokens,
            record=source.record,
            before=source.before,
            after=source.after,
        )

    def _take_characters(self, batch: list[_Piece]) -> None:
        text = "".join(f"{piece.text}\n" if piece.ends_record else piece.text for piece in batch)
        sizes = [len(piece.text) + piece.ends_record for piece in batch]
        ends = np.cumsum(sizes)
        codes = _code_points(text).copy()
        codes[ends[[piece.ends_record for piece in batch]] - 1] = SEPARATOR
        before = list(self._longest.matches)
        self._longest.feed(codes)
        starts = (self._position + ends - sizes).tolist()
        for index, match in enumerate(self._longest.matches):
            if match != before[index]:
                number = max(0, bisect_right(starts, match.position) - 1)  # 0: it began in an earlier piece
                place = match.position - starts[number]
                self._sources[index] = _source(batch[number], place, match.length)
        self._position += len(codes)


def _source(piece: _Piece, place: int, length: int) -> _Source:
    """Where a match is from, as far as that is at hand; `place` is negative for one that began earlier."""
    before = piece.text[max(0, place - _CONTEXT_CHARACTERS) : max(0, place)]
    return _Source(piece.record, before, piece.text[place + length : place + length + _CONTEXT_CHARACTERS])


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
