"""Stop strings, found wherever they fall in a stream of text pieces.

Main entry: `StopMatcher`. Invariant: the text let through is what stands before the first occurrence of any
stop string in the whole text, however the text was cut into pieces; and a character is held back only while
it may still turn out to belong to a stop string.
"""

from collections.abc import Sequence


class StopMatcher:
    """Lets text through until a stop string appears.

    "First" means the occurrence that begins first. Where one stop string has appeared inside what may be the
    beginning of another that began earlier, the earlier one is waited for.

    Attributes:
        stopped: A stop string was found; nothing more is let through.
        found: That stop string; None where none was found.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._longest = max(map(len, self._stop), default=0)
        self._held = ""
        self.stopped = False
        self.found: str | None = None

    def feed(self, text: str) -> str:
        """Take a piece in; return the characters that are now sure to stand before any stop string."""
        if self.stopped:
            return ""
        if not self._stop:
            return text
        self._held += text
        found, open_ = self._first_occurrence(), self._first_open()
        self.stopped = found is not None and found <= open_
        return self._release(found if self.stopped and found is not None else open_)

    def flush(self) -> str:
        """End of the text: what was held back, up to a stop string if one was found in it."""
        if self.stopped:
            return ""
        found = self._first_occurrence()
        self.stopped = found is not None
        return self._release(found if found is not None else len(self._held))

    def _release(self, end: int) -> str:
        released, self._held = self._held[:end], self._held[end:]
        if self.stopped:
            self.found = next(stop for stop in self._stop if self._held.startswith(stop))
        return released

    def _first_occurrence(self) -> int | None:
        """Where the first whole stop string begins in what is held."""
        return min((at for stop in self._stop if (at := self._held.find(stop)) >= 0), default=None)

    def _first_open(self) -> int:
        """Where the first stop string begins that the text breaks off in; else the end of what is held."""
        end = len(self._held)
        for start in range(max(0, end - self._longest + 1), end):
            tail = self._held[start:]
            if any(len(tail) < len(stop) and stop.startswith(tail) for stop in self._stop):
                return start
        return end
