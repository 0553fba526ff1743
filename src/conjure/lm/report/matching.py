"""The longest stretch that each of some short texts shares with a long one, found while that streams past.

Main entry: `LongestMatches`. A text is a sequence of whole numbers; for verbatim text, its code points.
Invariant: lengths are exact, as brute force finds them, however the stream is cut: hashes only say where to
look, every hit is compared symbol by symbol, and a match longer than the best one so far always hashes alike.

The short texts are indexed, the long one is not: memory and time for them do not depend on its length. A
short text whose best match so far is L long can only be improved by one of its own stretches of L + 1, so
the stream is searched for those alone, by the hashes of all its stretches at once (Karp and Rabin 1987).
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Symbols = npt.NDArray[np.integer[Any]]
_Positions = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]

SEPARATOR = 0x110000  # one more than the last code point: stands between records, and in no short text

_BASE = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: odd, so it has an inverse, and its powers fill all bits
_MODULUS = 1 << 64
_SLICE = 1 << 18  # symbols searched at a time: their hashes (2 MB) stay near the processor
_FIRST_SLICE = 1 << 12  # at first every match is an improvement, and a little text finds the usual lengths


class Match(NamedTuple):
    """A stretch that stands in the stream symbol for symbol.

    Attributes:
        start: Where it starts in the short text.
        length: Its length in symbols; 0 where nothing was found.
        position: Where it starts in the stream.
    """

    start: int
    length: int
    position: int


class LongestMatches:
    """The longest match of each short text with all of the stream that was fed so far.

    Attributes:
        matches: One for each short text; of several equally long ones, one of them.
    """

    def __init__(self, texts: Sequence[Symbols]) -> None:
        self._sizes = np.array([len(text) for text in texts], np.int64)  # (Q,)
        self._firsts = np.cumsum(self._sizes) - self._sizes  # where each text starts in `_symbols`, (Q,)
        self._symbols = np.concatenate([np.empty(0, np.int64), *texts]).astype(np.int64)  # (N,)
        self._owner = np.repeat(np.arange(len(texts)), self._sizes)  # (N,)
        self._left = self._firsts[self._owner] + self._sizes[self._owner] - np.arange(len(self._symbols))
        self._hashes = _Hashes(self._symbols)
        self._lengths = np.zeros(len(texts), np.int64)  # of the best matches, (Q,)
        self.matches = [Match(0, 0, 0) for _ in texts]
        self._searches = self._plan(self._sizes > 0)
        self._fed = 0
        self._tail = np.empty(0, np.int64)  # what a match that goes on in the next symbols can start with

    def feed(self, symbols: Symbols) -> None:
        """Take the next symbols of the stream.

        Args:
            symbols: Whole numbers from 0 to `SEPARATOR`, (M,).
        """
        start = 0
        while start < len(symbols):
            size = _SLICE if self._fed >= _SLICE else max(_FIRST_SLICE, self._fed)
            self._feed_slice(symbols[start : start + size].astype(np.int64))
            start += size

    def _feed_slice(self, symbols: npt.NDArray[np.int64]) -> None:
        text = _Stretch(np.concatenate((self._tail, symbols)), self._fed - len(self._tail))
        self._fed += len(symbols)
        searches = self._searches
        while searches:
            before = self._lengths.copy()
            for search in searches:
                self._run(search, text)
            # A text that was not improved has no longer match in this stretch, and needs no second look.
            improved = self._lengths > before
            if not improved.any():
                break
            self._searches = self._plan(self._lengths < self._sizes)
            searches = self._plan(improved & (self._lengths < self._sizes))
        overlap = int(self._sizes.max(initial=1)) - 1
        self._tail = text.symbols[max(0, len(text.symbols) - overlap) :]

    def _plan(self, chosen: npt.NDArray[np.bool_]) -> list["_Search"]:
        """What to look for to improve the chosen texts."""
        wanted = self._lengths + 1  # (Q,)
        windows = np.flatnonzero(chosen[self._owner] & (self._left >= wanted[self._owner]))
        lengths = wanted[self._owner[windows]]
        seeds = 1 << np.floor(np.log2(lengths)).astype(np.int64)  # the largest power of two within
        searches = []
        for seed in np.unique(seeds).tolist():
            groups = [
                self._group(windows[lengths == length], length)
                for length in np.unique(lengths[seeds == seed]).tolist()
            ]
            searches.append(_Search(seed, _Filter(self._hashes.at(windows[seeds == seed], seed)), groups))
        return searches

    def _group(self, windows: _Positions, length: int) -> "_Group":
        keys = self._hashes.at(windows, length)
        order = np.argsort(keys)
        return _Group(length, windows[order], keys[order], _Filter(keys))

    def _run(self, search: "_Search", text: "_Stretch") -> None:
        """Improve what a search can improve by this text."""
        places = np.flatnonzero(search.filter.passes(text.hashes.all(search.seed)))
        for length, windows, keys, group_filter in search.groups:
            fitting = places[places <= len(text.symbols) - length]
            place_keys = text.hashes.at(fitting, length)
            passing = group_filter.passes(place_keys)
            fitting, place_keys = fitting[passing], place_keys[passing]
            first = np.searchsorted(keys, place_keys)
            found = keys[np.minimum(first, len(keys) - 1)] == place_keys
            for key in np.unique(place_keys[found]):
                same = slice(np.searchsorted(keys, key, "left"), np.searchsorted(keys, key, "right"))
                same_places = fitting[place_keys == key].tolist()
                for window in windows[same].tolist():
                    self._extend(text, same_places, window, length)

    def _extend(self, text: "_Stretch", places: list[int], window: int, length: int) -> None:
        """Compare a window with places of the same hash, and take the first that is truly the same."""
        owner = int(self._owner[window])
        if self._lengths[owner] >= length:
            return  # improved a moment ago; the next round looks for more than that
        first = int(self._firsts[owner])
        own = self._symbols[first : first + int(self._sizes[owner])]
        for place in places:
            before, after = _common_around(text.symbols, place, own, window - first)
            if after >= length:
                self._lengths[owner] = before + after
                self.matches[owner] = Match(
                    window - first - before, before + after, text.origin + place - before
                )
                return


class _Hashes:
    """Hashes of the stretches of a sequence: equal stretches of one length have equal hashes, mod 2**64.

    The hash of symbols s_0 … s_L-1 is the sum of (s_k + 1) * B**(k + 1): a difference of two prefix sums,
    shifted back by a power of B. All multiplications wrap around, as they should.
    """

    def __init__(self, symbols: npt.NDArray[np.int64]) -> None:
        up, self._down = _powers(1 << len(symbols).bit_length())
        self._sums = np.zeros(len(symbols) + 1, np.uint64)
        np.cumsum((symbols.astype(np.uint64) + np.uint64(1)) * up[: len(symbols)], out=self._sums[1:])

    def at(self, starts: _Positions, length: int) -> _Words:
        """Of the stretches of `length` symbols from `starts` on."""
        return (self._sums[starts + length] - self._sums[starts]) * self._down[starts]

    def all(self, length: int) -> _Words:
        """Of every stretch of `length` symbols, in order."""
        count = max(0, len(self._sums) - length)
        return (self._sums[length:] - self._sums[:count]) * self._down[:count]


class _Stretch:
    """Some of the stream, at hand.

    Attributes:
        symbols: The symbols.
        origin: Position of the first of them in the stream.
        hashes: Of its stretches.
    """

    def __init__(self, symbols: npt.NDArray[np.int64], origin: int) -> None:
        self.symbols, self.origin, self.hashes = symbols, origin, _Hashes(symbols)


class _Filter:
    """A quick look whether a hash may be among some; fewer than one in sixteen of the others pass too."""

    def __init__(self, wanted: _Words) -> None:
        bits = max(8, 5 + len(wanted).bit_length())
        self._shift = np.uint64(64 - bits)  # the high bits depend on every symbol
        self._table = np.zeros(1 << bits, np.bool_)
        self._table[wanted >> self._shift] = True

    def passes(self, hashes: _Words) -> npt.NDArray[np.bool_]:
        return self._table[hashes >> self._shift]


class _Group(NamedTuple):
    """Windows of one length on the short texts, with their hashes, in the order of those."""

    length: int
    windows: _Positions
    keys: _Words
    filter: _Filter


class _Search(NamedTuple):
    """A look for windows of like lengths: first for their beginnings of `seed` symbols, then for all."""

    seed: int
    filter: _Filter
    groups: list[_Group]


@cache
def _powers(count: int) -> tuple[_Words, _Words]:
    """B**1 … B**count and B**0 … B**-(count - 1), mod 2**64."""
    inverse = pow(_BASE, -1, _MODULUS)
    up, down = np.full((2, count), [[_BASE], [inverse]], np.uint64)
    down[0] = 1
    return np.multiply.accumulate(up), np.multiply.accumulate(down)


def _common_around(one: Symbols, one_place: int, other: Symbols, other_place: int) -> tuple[int, int]:
    """How many symbols are equal before two places, and from them on."""
    before = min(one_place, other_place)
    after = min(len(one) - one_place, len(other) - other_place)
    backward = one[one_place - before : one_place][::-1] != other[other_place - before : other_place][::-1]
    forward = one[one_place : one_place + after] != other[other_place : other_place + after]
    return _first_true(backward), _first_true(forward)


def _first_true(mask: npt.NDArray[np.bool_]) -> int:
    """Index of the first True, or the length where there is none."""
    return int(mask.argmax()) if mask.any() else len(mask)
