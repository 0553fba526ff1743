"""Which records say the same: copies, and texts told again with other words.

Main entries: `group_records` for texts at hand, `GroupBuilder` for a stream of pieces. Two records are in one
group if they are equal but for case, space and punctuation; or if `CONTAINMENT` of the three-word sequences
of one stand in the other, at least `FEWEST_SHARED`; or if a chain of such pairs joins them. Invariants: every
such pair of which the first has at least `FEWEST_SHINGLES` sequences is found, within the bounds named below;
the same texts give the same groups on every machine; memory is bounded, however much text there is.

The pairs are found by an exact join, not by MinHash, which estimates how alike two texts are as a whole and
so misses the joke that stands inside a longer text. The join looks at few pairs: of the sequences of a
record, sorted by how rare they are, one of the first half must stand in any record that holds half of them
all (the prefix filter of Chaudhuri et al. 2006), and most records have that many sequences of their own.

A sequence that stands in more than `FORMULA_SHARE` of all distinct records (and in more than
`FORMULA_RECORDS`) belongs to the form that the records have in common, such as the frame of a prompt, and is
not counted.

Bounds: a sequence in more than `2 * _WINDOW` records joins each with its neighbours only, in the order of
their least hash, in which like texts are near each other; at most `_MOST_PAIRS` pairs are looked at; above
`_MOST_SHINGLES` sequences a fixed share of them, chosen by hash, stands for all.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

CONTAINMENT = 0.5  # found on labelled pairs (docs/data.md, "Records that say the same")
FORMULA_SHARE, FORMULA_RECORDS = 0.2, 20
SHINGLE_WORDS = 3
FEWEST_SHARED = 4  # six words in a row: where chance ends (conjure.lm.report.novelty)
SHORT_CONTAINMENT = 0.6  # of a text too short for that
FEWEST_SHINGLES = 6  # 8 words: a shorter text is told again too easily by chance

_WINDOW = 32
_MOST_NEIGHBOURS = 8  # kept of a short record; one of them in the other part is enough
_MOST_PAIRS = 1 << 25
_MOST_SHINGLES = 1 << 24
_BATCH_CHARACTERS = 1 << 18
_VERIFIED_AT_ONCE = 1 << 18

# Kinds of characters.
_SEPARATES, _IN_WORD, _IS_WORD, _DROPPED = range(4)
_APOSTROPHES = "'\u2019\u02bc\uff07"
# Scripts written without spaces: each character counts as a word.
_UNSPACED = ((0x0E00, 0x0F00), (0x1000, 0x10A0), (0x1780, 0x1800), (0x2E80, 0xA000), (0xF900, 0xFB00))
_UNSPACED_PLANES = (0x20000, 0x40000)
_CODE_POINTS = 0x110000

_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_INVERSE = pow(_MULTIPLIER, -1, 1 << 64)
_SHINGLE_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93)

Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DuplicateGroups:
    """Which records belong together.

    Attributes:
        labels: The group of each record, numbered in the order of their first records, int64, (R,).
        count: Groups.
        largest: Records in the largest group.
        distinct: Records that differ in more than case, space and punctuation.
        neighbours: Pairs of records, (record, other), of which the first is too short to be joined to others
            by what they share, yet stands in the other for the most part; int64, (P, 2). At most
            `_MOST_NEIGHBOURS` for each distinct record.
        repeats: Of conversations a number each, equal where one gives no answer that the other does not
            (`conjure.lm.text.repeated_answers`), int64, (R,); None where a group is that.
        givers: Of conversations the first record that gives any answer of each, itself where no earlier one
            does, int64, (R,); None where a group is that.
    """

    labels: Numbers = field(repr=False)
    count: int
    largest: int
    distinct: int
    neighbours: Numbers = field(repr=False)
    repeats: Numbers | None = field(default=None, repr=False)
    givers: Numbers | None = field(default=None, repr=False)

    @property
    def repeat_numbers(self) -> Numbers:
        """A number for each record, equal where one repeats what the other says, (R,)."""
        return self.repeats if self.repeats is not None else self.labels

    @property
    def sizes(self) -> Numbers:
        """Records in each group, (count,)."""
        return np.bincount(self.labels, minlength=self.count)

    @property
    def first_records(self) -> Numbers:
        """The first record of each group, (count,)."""
        return np.unique(self.labels, return_index=True)[1]


def group_records(texts: Iterable[str]) -> DuplicateGroups:
    """The groups of some records."""
    builder = GroupBuilder()
    for text in texts:
        builder.add(text)
    return builder.build()


def groups_of_equals(hashes: Hashes) -> DuplicateGroups:
    """The groups of records that have equal hashes, and nothing else in common."""
    labels = _first_of_each(hashes)[1]
    sizes = np.bincount(labels)
    largest = int(sizes.max(initial=0))
    return DuplicateGroups(labels, len(sizes), largest, len(sizes), np.empty((0, 2), np.int64))


class Comparison(NamedTuple):
    """How records are related.

    Attributes:
        labels: The group of each, numbered in the order of their first records, (R,).
        are_long: Which hold enough to be joined to others by what they share, (R,).
        distinct: Records that are not one and the same.
        neighbours: See `DuplicateGroups`.
    """

    labels: Numbers
    are_long: npt.NDArray[np.bool_]
    distinct: int
    neighbours: Numbers


def text_keys(texts: Sequence[str]) -> Hashes:
    """A hash of what each text says: of its letters and digits, in order."""
    return _words(texts).keys


class GroupBuilder:
    """Takes records in, piece by piece, and tells their groups."""

    def __init__(self) -> None:
        self._batch: list[str] = []
        self._batch_ends: list[bool] = []
        self._batch_characters = 0
        self._keys: list[int] = []  # of complete records
        self._open_key, self._open_characters = 0, 0  # of the record whose pieces are still coming
        self._shingles: list[Hashes] = []
        self._owners: list[npt.NDArray[np.int32]] = []
        self._shingle_count = 0
        self._largest_kept = (1 << 64) - 1

    def add(self, text: str, *, ends_record: bool = True) -> None:
        """Take in a record, or a piece of one."""
        self._batch.append(text)
        self._batch_ends.append(ends_record)
        self._batch_characters += len(text)
        if self._batch_characters >= _BATCH_CHARACTERS:
            self._take_batch()

    def build(self) -> DuplicateGroups:
        """The groups of all records taken in."""
        found = self.compare()
        sizes = np.bincount(found.labels)
        return DuplicateGroups(
            labels=found.labels,
            count=len(sizes),
            largest=int(sizes.max(initial=0)),
            distinct=found.distinct,
            neighbours=found.neighbours,
        )

    def compare(self, *, keys: Hashes | None = None, families: Numbers | None = None) -> Comparison:
        """What the groups of all records taken in are made of.

        Args:
            keys: Equal for records that are one and the same, (R,); by default, what they say.
            families: Records are compared within these only, and what a fifth of a family has in common is
                not counted, (R,); by default, all are one family.
        """
        self._take_batch()
        keys = keys if keys is not None else np.array(self._keys, np.uint64)
        salts = np.zeros(len(keys), np.uint64)
        if families is not None:
            salts = _mixed(families.astype(np.uint64))
        else:
            families = np.zeros(len(keys), np.int64)
        representatives, distinct_of = _first_of_each(keys ^ salts)
        shingles, owners = self._distinct_shingles(representatives, distinct_of)
        sizes = np.bincount(families[representatives])[families[representatives]]
        relation = _related(shingles ^ salts[representatives][owners], owners, sizes)
        return Comparison(
            labels=_first_of_each(_components(len(representatives), relation.strong)[distinct_of])[1],
            are_long=relation.are_long[distinct_of],
            distinct=len(representatives),
            neighbours=representatives[relation.weak],
        )

    def _take_batch(self) -> None:
        if not self._batch:
            return
        words = _words(self._batch)
        ends = np.array(self._batch_ends)
        numbers = len(self._keys) + np.cumsum(ends) - ends  # of the record each piece belongs to
        shingles, pieces = _shingles(words)
        kept = shingles <= np.uint64(self._largest_kept)
        self._shingles.append(shingles[kept])
        self._owners.append(numbers[pieces[kept]].astype(np.int32))
        self._shingle_count += int(kept.sum())
        for key, characters, ends_record in zip(
            words.keys.tolist(), words.characters.tolist(), self._batch_ends, strict=True
        ):
            self._open_key += key * pow(_MULTIPLIER, self._open_characters, 1 << 64)
            self._open_characters += characters
            if ends_record:
                self._keys.append(self._open_key % (1 << 64))
                self._open_key, self._open_characters = 0, 0
        self._batch, self._batch_ends, self._batch_characters = [], [], 0
        while self._shingle_count > _MOST_SHINGLES:
            self._thin_out()

    def _thin_out(self) -> None:
        """Go on with half of the possible shingles: those with the lower hashes."""
        self._largest_kept //= 2
        kept = [shingles <= np.uint64(self._largest_kept) for shingles in self._shingles]
        self._shingles = [shingles[k] for shingles, k in zip(self._shingles, kept, strict=True)]
        self._owners = [owners[k] for owners, k in zip(self._owners, kept, strict=True)]
        self._shingle_count = sum(map(len, self._shingles))

    def _distinct_shingles(
        self, representatives: Numbers, distinct_of: Numbers
    ) -> tuple[Hashes, npt.NDArray[np.int32]]:
        """The shingles of the first record of each kind, and the kind's number."""
        if not self._shingles:
            return np.empty(0, np.uint64), np.empty(0, np.int32)
        shingles, owners = np.concatenate(self._shingles), np.concatenate(self._owners)
        self._shingles, self._owners = [], []
        is_first = np.zeros(len(distinct_of), bool)
        is_first[representatives] = True
        kept = is_first[owners]
        return shingles[kept], distinct_of[owners[kept]].astype(np.int32)


class _Words(NamedTuple):
    """The words of some texts.

    Attributes:
        keys: A hash of each text's letters and digits, in order.
        characters: How many those are in each text.
        hashes: A hash of each word.
        owners: The text each word is from.
    """

    keys: Hashes
    characters: Numbers
    hashes: Hashes
    owners: Numbers


def _words(texts: Sequence[str]) -> _Words:
    folded = [_folded(text) for text in texts]
    codes = np.frombuffer("".join(folded).encode("utf-32-le", "surrogatepass"), "<u4")
    owners = np.repeat(np.arange(len(texts)), np.fromiter(map(len, folded), np.int64, len(texts)))
    kinds = _character_kinds(codes)
    kept = kinds != _DROPPED
    codes, owners, kinds = codes[kept], owners[kept], kinds[kept]
    in_word = kinds == _IN_WORD
    begins = np.ones(len(kinds), bool)
    begins[1:] = ~(in_word[1:] & in_word[:-1] & (owners[1:] == owners[:-1]))
    solid = kinds != _SEPARATES
    codes, owners, begins = codes[solid], owners[solid], begins[solid]

    bounds = np.searchsorted(owners, np.arange(len(texts) + 1))
    characters = np.diff(bounds)
    longest = int(characters.max(initial=0))
    positions = np.arange(len(codes)) - bounds[owners]
    terms = _mixed(codes.astype(np.uint64)) * _powers(_MULTIPLIER, longest)[positions]
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)))
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(codes))
    hashes = (sums[ends] - sums[starts]) * _powers(_INVERSE, longest)[positions[starts]]
    keys = sums[bounds[1:]] - sums[bounds[:-1]]
    for index in np.flatnonzero(characters == 0).tolist():  # no letter in it: the signs themselves
        keys[index] = _mixed(np.array([_sum_of_signs(folded[index])], np.uint64))[0]
    return _Words(keys, characters, _mixed(hashes), owners[starts])


def _folded(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def _sum_of_signs(text: str) -> int:
    total = 0
    for sign in "".join(text.split()):
        total = (total * _MULTIPLIER + ord(sign)) % (1 << 64)
    return total


def _shingles(words: _Words) -> tuple[Hashes, Numbers]:
    """A hash of every `SHINGLE_WORDS` words in a row, and the text it is from."""
    count = max(0, len(words.hashes) - SHINGLE_WORDS + 1)
    sums = np.zeros(count, np.uint64)
    for offset, factor in enumerate(_SHINGLE_FACTORS):
        sums += words.hashes[offset : offset + count] * np.uint64(factor)
    whole = words.owners[:count] == words.owners[len(words.owners) - count :]
    return _mixed(sums[whole]), words.owners[:count][whole]


def _character_kinds(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
    """What each character is: signs separate; those of ASCII among them, other symbols (emoji) are words."""
    occurs = np.zeros(_CODE_POINTS, bool)
    occurs[codes] = True
    kinds = np.zeros(_CODE_POINTS, np.uint8)
    for code in np.flatnonzero(occurs).tolist():  # all there are would take half a second
        category = unicodedata.category(chr(code))
        if category[0] in "LMN":
            kinds[code] = _IN_WORD
        elif category == "So" and code >= 0x80:
            kinds[code] = _IS_WORD
    for start, stop in (*_UNSPACED, _UNSPACED_PLANES):
        kinds[start:stop][kinds[start:stop] == _IN_WORD] = _IS_WORD
    kinds[[ord(sign) for sign in _APOSTROPHES]] = _DROPPED
    return kinds[codes]


def _mixed(values: Hashes) -> Hashes:
    """Every bit of a value made to depend on all of them.

    Source:
        The finaliser of SplitMix64 (Steele et al. 2014).
    """
    values = values + np.uint64(_MULTIPLIER)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_SHINGLE_FACTORS[0])
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_SHINGLE_FACTORS[1])
    return values ^ (values >> np.uint64(31))


def _powers(base: int, count: int) -> Hashes:
    """``base**0 … base**count``, modulo 2**64."""
    factors = np.full(count + 1, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)


def _first_of_each(values: npt.NDArray[Any]) -> tuple[Numbers, Numbers]:
    """The places where each value is first, in order; and for every place the number of its value."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.arange(len(order))
    return first[order], numbers[inverse]


class _Relation(NamedTuple):
    """Pairs of records of which the first stands in the second for the most part.

    Attributes:
        strong: Pairs that join their groups, (P, 2).
        weak: Pairs of which the first is too short for that, (Q, 2).
        are_long: Which records are not, (R,).
    """

    strong: Numbers
    weak: Numbers
    are_long: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Index:
    """Which record holds which shingle, those that only one holds left out.

    Attributes:
        records: Records by shingle and by how like they are, int32, (M,). Formulas are left out.
        numbers: The number of the shingle, (M,); ascending.
        ends: Where each shingle's records end in those, (S,).
        sizes: Shingles in each record but formulas, those that only it holds among them, (R,).
        by_record: ``record * S + shingle`` of all, ascending: to look up whether a record holds a shingle.
        record_ends: Where each record ends in `by_record`, (R,).
    """

    records: npt.NDArray[np.int32]
    numbers: Numbers
    ends: Numbers
    sizes: Numbers
    by_record: Numbers
    record_ends: Numbers


def _related(shingles: Hashes, owners: npt.NDArray[np.int32], families: Numbers) -> _Relation:
    """All pairs of records, the first of which has `CONTAINMENT` of its shingles in the second.

    Args:
        shingles: What they hold.
        owners: Which record holds it.
        families: How many records are in the family of each, (R,).
    """
    index = _index(shingles, owners, families)
    strong, weak = [np.empty((0, 2), np.int64)], [np.empty((0, 2), np.int64)]
    are_long = index.sizes >= FEWEST_SHINGLES
    for pairs in _verified(index, _candidates(index)):
        long = are_long[pairs[:, 0]]
        strong.append(pairs[long])
        weak.append(pairs[~long])
    return _Relation(np.concatenate(strong), _few(np.concatenate(weak)), are_long)


def _index(shingles: Hashes, owners: npt.NDArray[np.int32], families: Numbers) -> _Index:
    count = len(families)
    order = np.argsort(shingles, kind="stable")  # records ascend within a shingle
    shingles, owners = shingles[order], owners[order]
    del order
    if len(shingles):
        again = np.zeros(len(shingles), bool)
        again[1:] = (shingles[1:] == shingles[:-1]) & (owners[1:] == owners[:-1])
        shingles, owners = shingles[~again], owners[~again]
    begins = np.ones(len(shingles), bool)
    begins[1:] = shingles[1:] != shingles[:-1]
    numbers = np.cumsum(begins) - 1
    frequency = np.bincount(numbers)[numbers]
    told = frequency <= np.maximum(FORMULA_RECORDS, FORMULA_SHARE * families)[owners]
    sizes = np.bincount(owners[told], minlength=count)
    shared = told & (frequency > 1)
    owners, hashes, begins = owners[shared], shingles[shared], begins[shared]
    numbers = np.cumsum(begins) - 1
    least = np.full(count, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least, owners, hashes)
    order = np.lexsort((least[owners], numbers))  # like records are neighbours within a shingle
    owners = owners[order]
    total = int(numbers[-1]) + 1 if len(numbers) else 0
    by_record = owners.astype(np.int64) * max(1, total) + numbers
    by_record.sort()
    return _Index(
        records=owners,
        numbers=numbers,
        ends=np.cumsum(np.bincount(numbers, minlength=total)),
        sizes=sizes,
        by_record=by_record,
        record_ends=np.cumsum(np.bincount(owners, minlength=count)),
    )


def _candidates(index: _Index) -> Iterator[Numbers]:
    """Pairs worth looking at, (P, 2), each once."""
    positions = _prefix_positions(index)
    ends = index.ends[index.numbers[positions]]
    starts = np.where(index.numbers[positions] > 0, index.ends[index.numbers[positions] - 1], 0)
    count = len(index.sizes)
    seen = np.empty(0, np.int64)
    for offset in [sign * distance for distance in range(1, _WINDOW + 1) for sign in (1, -1)]:
        others = positions + offset
        inside = (others >= starts) & (others < ends)
        if not inside.any():
            continue
        first = index.records[positions[inside]].astype(np.int64)
        codes = np.unique(first * count + index.records[others[inside]])
        codes = codes[~np.isin(codes, seen, assume_unique=True)]
        seen = np.concatenate((seen, codes))
        if len(codes):
            yield np.stack((codes // count, codes % count), axis=1)
        if len(seen) > _MOST_PAIRS:
            return


def _prefix_positions(index: _Index) -> Numbers:
    """Where in `index.records` the shingles stand of which a record that holds enough must hold one."""
    frequency = np.diff(index.ends, prepend=0)[index.numbers]
    order = np.lexsort((index.numbers, frequency, index.records))
    records = index.records[order]
    before = np.where(records > 0, index.record_ends[records - 1], 0)
    rank = np.arange(len(order)) - before
    own = index.sizes - np.diff(index.record_ends, prepend=0)  # shingles that no other record holds
    prefix = index.sizes - _needed(index.sizes) + 1
    return np.sort(order[rank + own[records] < prefix[records]])


def _verified(index: _Index, candidates: Iterable[Numbers]) -> Iterator[Numbers]:
    """The pairs of which the first does stand in the second for the most part."""
    total = max(1, len(index.ends))
    for batch in candidates:
        for start in range(0, len(batch), _VERIFIED_AT_ONCE):
            pairs = batch[start : start + _VERIFIED_AT_ONCE]
            firsts, seconds = pairs[:, 0], pairs[:, 1]
            begins = np.where(firsts > 0, index.record_ends[firsts - 1], 0)
            counts = index.record_ends[firsts] - begins
            pair = np.repeat(np.arange(len(pairs)), counts)
            steps = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)
            shingle = index.by_record[begins[pair] + steps] % total
            wanted = seconds[pair] * total + shingle
            places = np.minimum(np.searchsorted(index.by_record, wanted), len(index.by_record) - 1)
            shared = np.bincount(pair[index.by_record[places] == wanted], minlength=len(pairs))
            yield pairs[shared >= _needed(index.sizes[firsts])]


def _needed(sizes: Numbers) -> Numbers:
    """How many of so many shingles must stand in the other record."""
    few = np.minimum(FEWEST_SHARED, np.ceil(SHORT_CONTAINMENT * sizes - 1e-9))
    return np.maximum(np.ceil(CONTAINMENT * sizes - 1e-9), few).astype(np.int64)


def _few(pairs: Numbers) -> Numbers:
    """At most `_MOST_NEIGHBOURS` pairs for each first record."""
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    begins = np.searchsorted(pairs[:, 0], pairs[:, 0])
    return pairs[np.arange(len(pairs)) - begins < _MOST_NEIGHBOURS]


def _components(count: int, pairs: Numbers) -> Numbers:
    """The least record that each is joined with, directly or by way of others."""
    labels = np.arange(count)
    while True:
        ends = labels[pairs]
        ends = ends[ends[:, 0] != ends[:, 1]]
        if not len(ends):
            return labels
        np.minimum.at(labels, ends.max(1), ends.min(1))
        while not np.array_equal(labels, shorter := labels[labels]):
            labels = shorter
