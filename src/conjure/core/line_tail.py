"""Following a file of lines that another process appends to.

Main entry: `LineTail`. Invariant: each whole line is given once, in order, however the bytes arrive; a line
still being written is not looked at until its end is there.
"""

from collections.abc import Iterator
from pathlib import Path

_PIECE_BYTES = 1 << 18
_LONGEST_LINE_BYTES = 1 << 24


class LineTail:
    """Each `read` gives the lines that were added since the last; a missing file has none yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0  # always the start of a line, for a writer may take back one it could not finish

    def read(self) -> Iterator[bytes]:
        """The new whole lines, without their ends."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            size = _PIECE_BYTES
            while True:
                file.seek(self._offset)
                piece = file.read(size)
                whole, newline, _ = piece.rpartition(b"\n")
                if newline:
                    self._offset += len(whole) + 1
                    yield from whole.split(b"\n")
                    size = _PIECE_BYTES
                elif len(piece) < size:
                    return
                elif size < _LONGEST_LINE_BYTES:
                    size *= 2
                else:
                    self._offset += len(piece)  # no line of ours is that long: pass over it
