"""What counts as a word, and which sequences of words a stream of texts has in common with some short ones.

Main entries: `split_words`, `SeenNgrams`, `words_in_order`. Words are compared without case and punctuation,
so that a new line break or another kind of quotation mark does not make a copied sentence look new.
Invariant: what was seen does not depend on how the stream is cut.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Scripts written without spaces between words: there each character counts as a word.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_NOT_IN_WORDS = (  # spaces, control characters and punctuation
    r"\s\x00-/:-@\[-`{-\xa9\xab-\xb4\xb6-\xb9\xbb-\xbf\u2000-\u206f\u3000-\u303f"
    r"\uff00-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\ufffd"
)
_LETTERS = f"[^{_NOT_IN_WORDS}{_UNSPACED}]+"  # digits, combining marks and emoji included
_WORD = re.compile(f"[{_UNSPACED}]|{_LETTERS}(?:['’]{_LETTERS})*")


def split_words(text: str) -> list[str]:
    """The words of a text in order, in lower case and without punctuation."""
    return _WORD.findall(text.casefold())


def count_whole_words(text: str, start: int, end: int) -> int:
    """How many words of a text lie between two places in it; a word cut by either does not count."""
    return sum(start <= word.start() and word.end() <= end for word in _WORD.finditer(text))


def words_in_order(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words two texts have in common in the same order: the length of the longest such sequence.

    Source:
        Hyyrö 2004, "Bit-parallel LCS-length computation revisited": a row of the table is one whole number.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(other):
        places[word] = places.get(word, 0) | 1 << place
    every = (1 << len(other)) - 1
    row = every
    for word in one:
        taken = row & places.get(word, 0)
        row = (row + taken | row - taken) & every
    return len(other) - row.bit_count()


class SeenNgrams:
    """Which word n-grams of some short texts occur in a stream of texts.

    The n-grams form a tree: one of n words is a child of the one of its first n - 1. All positions of a
    stretch of the stream walk down the tree at once, so nothing is hashed and nothing can be mistaken.
    """

    def __init__(self, texts: Sequence[Sequence[str]], longest: int) -> None:
        """Index the n-grams of `texts`, given as words, for every n from 1 to `longest`."""
        self._longest = longest
        self._vocabulary: dict[str, int] = {}  # from 1; 0 is any other word, and a gap
        self._places: list[slice] = []  # where each text is among all the words
        ids: list[int] = []
        for words in texts:
            start = len(ids)
            ids += [self._vocabulary.setdefault(word, len(self._vocabulary) + 1) for word in words]
            self._places.append(slice(start, len(ids)))
            ids.append(0)
        self._levels = self._build(np.array(ids, np.int64))
        self._tail = np.empty(0, np.int64)

    def feed(self, words: Sequence[str]) -> None:
        """Take the next words of the stream; an empty one is a gap that no n-gram reaches across."""
        known = self._vocabulary.get
        new = np.fromiter((known(word, 0) for word in words), np.int64, len(words))
        ids = np.concatenate((self._tail, new))
        places, nodes = _roots(ids)
        for n, level in enumerate(self._levels, start=1):
            if n > 1:
                places, keys = self._children(ids, places, nodes, n)
                nodes = _numbers(level.keys, keys)
                places, nodes = places[nodes > 0], nodes[nodes > 0]
            level.seen[nodes] = True
        self._tail = ids[max(0, len(ids) - self._longest + 1) :]

    def counts(self, text: int, n: int) -> tuple[int, int]:
        """How many n-grams a text has, and how many of those occur nowhere in the stream."""
        level = self._levels[n - 1]
        nodes = level.nodes[self._places[text]]
        nodes = nodes[nodes > 0]
        return len(nodes), int((~level.seen[nodes]).sum())

    def covered_words(self, text: int, n: int) -> int:
        """How many words of a text belong to n-grams that occur in the stream."""
        level = self._levels[n - 1]
        starts = np.flatnonzero(level.seen[level.nodes[self._places[text]]])
        return len(np.unique(starts[:, None] + np.arange(n)))

    def _build(self, ids: npt.NDArray[np.int64]) -> list["_Level"]:
        words = np.arange(1, len(self._vocabulary) + 1)
        levels = [_Level(words, ids, np.zeros(len(words) + 1, np.bool_))]
        places, nodes = _roots(ids)
        for n in range(2, self._longest + 1):
            places, keys = self._children(ids, places, nodes, n)
            known = np.unique(keys)
            nodes = _numbers(known, keys)
            at_places = np.zeros(len(ids), np.int64)
            at_places[places] = nodes
            levels.append(_Level(known, at_places, np.zeros(len(known) + 1, np.bool_)))
        return levels

    def _children(
        self, ids: npt.NDArray[np.int64], places: npt.NDArray[np.int64], nodes: npt.NDArray[np.int64], n: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Places where an (n - 1)-gram goes on with a known word, and the keys of the n-grams that makes."""
        inside = places + n <= len(ids)
        places, nodes = places[inside], nodes[inside]
        following = ids[places + n - 1]
        return places[following > 0], (nodes * (len(self._vocabulary) + 1) + following)[following > 0]


class _Level(NamedTuple):
    """All n-grams of one n; each is a node, numbered from 1.

    Attributes:
        keys: Parent node and last word of each as one number, sorted: the node is the place here plus 1.
        nodes: Node of the n-gram that starts at each word of the texts; 0 where none does.
        seen: Whether each node occurs in the stream; node 0 never does.
    """

    keys: npt.NDArray[np.int64]
    nodes: npt.NDArray[np.int64]
    seen: npt.NDArray[np.bool_]


def _roots(ids: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Places of known words, and their nodes: a word is its own."""
    places = np.flatnonzero(ids)
    return places, ids[places]


def _numbers(keys: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Place of each wanted key plus 1; 0 where it is not among the keys."""
    places = np.searchsorted(keys, wanted)
    found = np.append(keys, -1)[places] == wanted
    return np.where(found, places + 1, 0)
