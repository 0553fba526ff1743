"""The training record with which a text has most words in the same order, found as the records stream past.

Main entry: `ClosestRecords`. The longest verbatim run alone does not lead to the source of a copy with small
changes: a common phrase of another record may be longer. So every stretch of a record that shares many pairs
of neighbouring words with a text is compared with it. Invariant: a text of which four fifths of the words,
or all but two of eight, stand in order in a stretch of a record twice as long as the text is always compared
with that stretch, unless `_MOST_STRETCHES` others of the same batch share more word pairs.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from conjure.lm.report.word_ngrams import words_in_order

# A changed, added or left out word breaks two pairs; with a fifth of the words changed, 5 of 9 are left.
_PAIRS = 0.4
_MOST_STRETCHES = 8  # looked at for each text in each batch

_Ints = npt.NDArray[np.int64]


class Closest(NamedTuple):
    """Words in order: how many, and the number of the record that holds them, from 0; None for no record."""

    words: int
    record: int | None


class ClosestRecords:
    """The closest record of each text so far.

    Attributes:
        found: One for each text.
    """

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        """Index the neighbouring words of `texts`, given as words."""
        self._texts = texts
        self._vocabulary: dict[str, int] = {}  # from 1; 0 is any other word, and a gap
        self._sizes = np.array([len(text) for text in texts], np.int64)
        owners, keys = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        number = self._vocabulary.setdefault
        ids = [[number(word, len(self._vocabulary) + 1) for word in text] for text in texts]
        for index, text in enumerate(ids):
            pairs = np.unique(self._keys(np.array(text, np.int64)))
            keys.append(pairs)
            owners.append(np.full(len(pairs), index))
        all_keys, all_owners = np.concatenate(keys), np.concatenate(owners)
        order = np.argsort(all_keys, kind="stable")
        self._owners = all_owners[order]
        self._pairs, starts = np.unique(all_keys[order], return_index=True)
        self._starts = np.append(starts, len(all_keys))
        self._records = 0
        self.found = [Closest(0, None)] * len(texts)

    def feed(self, words: Sequence[str]) -> None:
        """Take the next words of the records; an empty one ends a record."""
        known = self._vocabulary.get
        ids = np.fromiter((known(word, 0) for word in words), np.int64, len(words))
        ends = np.flatnonzero(np.fromiter((not word for word in words), np.bool_, len(words)))
        texts, places = self._shared_pairs(ids)
        for text, place in self._dense(texts, places, ends):
            self._compare(text, place, words, ends)
        self._records += len(ends)

    def _keys(self, ids: _Ints) -> _Ints:
        return ids[:-1] << 32 | ids[1:]

    def _shared_pairs(self, ids: _Ints) -> tuple[_Ints, _Ints]:
        """Each text that has a pair of these words, and the place of the pair; by text, then by place."""
        places = np.flatnonzero((ids[:-1] > 0) & (ids[1:] > 0))
        if not len(self._pairs) or not len(places):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        keys = self._keys(ids)[places]
        nodes = np.minimum(np.searchsorted(self._pairs, keys), len(self._pairs) - 1)
        hits = self._pairs[nodes] == keys
        places, nodes = places[hits], nodes[hits]
        counts = self._starts[nodes + 1] - self._starts[nodes]
        firsts = np.repeat(self._starts[nodes] - (np.cumsum(counts) - counts), counts)
        texts, places = self._owners[firsts + np.arange(len(firsts))], np.repeat(places, counts)
        order = np.lexsort((places, texts))
        return texts[order], places[order]

    def _dense(self, texts: _Ints, places: _Ints, ends: _Ints) -> list[tuple[int, int]]:
        """Texts, and places from which a stretch twice as long as the text shares many pairs with it."""
        sizes = self._sizes[texts]
        owners = texts * (len(ends) + 1) + np.searchsorted(ends, places)  # a text and a record, as one number
        reach = int(places.max(initial=0)) + 2 * int(sizes.max(initial=0)) + 1
        spread = owners * reach + places  # in order, and apart where text or record differ
        counts = np.searchsorted(spread, spread + 2 * sizes) - np.arange(len(spread))
        chosen = np.flatnonzero(counts >= np.maximum(1, _PAIRS * (sizes - 1)))
        chosen = chosen[np.lexsort((-counts[chosen], texts[chosen]))]
        stretches: list[tuple[int, int]] = []
        for text, hits in groupby(chosen.tolist(), key=lambda hit: int(texts[hit])):
            taken: list[tuple[int, int]] = []
            for hit in hits:
                owner, place = int(owners[hit]), int(places[hit])
                near = any(owner == other and abs(place - there) < sizes[hit] for other, there in taken)
                if not near:
                    taken.append((owner, place))
                if len(taken) == _MOST_STRETCHES:
                    break
            stretches += [(text, place) for _, place in taken]
        return stretches

    def _compare(self, text: int, place: int, words: Sequence[str], ends: _Ints) -> None:
        own, best = self._texts[text], self.found[text].words
        if best == len(own):
            return
        record = int(np.searchsorted(ends, place))
        first = max(int(ends[record - 1]) + 1 if record else 0, place - len(own))
        last = min(int(ends[record]) if record < len(ends) else len(words), place + 3 * len(own))
        kept = words_in_order(own, words[first:last])
        if kept > best:
            self.found[text] = Closest(kept, self._records + record)
