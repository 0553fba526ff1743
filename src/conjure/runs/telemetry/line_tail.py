"""Following a file of lines that another process appends to.

Main entry: `LineTail`. Invariant: each whole line is given once, in order, however the bytes arrive; a line
still being written is not looked at until its end is there.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from conjure.core.files import open_regular

_PIECE_BYTES = 1 << 18
LONGEST_LINE_BYTES = 1 << 24


class LineTail:
    """Each `read` gives the lines that were added since the last; a missing file has none yet.

    A file that takes the place of the one that was read is read from its beginning.

    Attributes:
        path: The file.
        offset: Up to where the file was read: the start of a line, for a writer may take back one that it
            could not finish.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inode: int | None = None
        self.offset = 0

    def read(self) -> Iterator[bytes]:
        """The new whole lines, without their ends.

        Raises:
            OSError: The file cannot be read, or something else has its name; a pipe is not waited for.
        """
        try:
            file = open_regular(self.path)
        except FileNotFoundError:
            return
        with file:
            inode = os.fstat(file.fileno()).st_ino
            if self._inode not in (None, inode):
                self.offset = 0  # another file has taken its place
            self._inode = inode
            for block in self.read_blocks(file):
                yield from block.split(b"\n")

    def read_blocks(self, file: IO[bytes]) -> Iterator[bytes]:
        """The new whole lines of the opened file, many at a time; each block is without its last end."""
        size = _PIECE_BYTES
        while True:
            file.seek(self.offset)
            piece = file.read(size)
            whole, newline, _ = piece.rpartition(b"\n")
            if newline:
                self.offset += len(whole) + 1
                yield whole
                size = _PIECE_BYTES
            elif len(piece) < size:
                return
            elif size < LONGEST_LINE_BYTES:
                size *= 2
            else:
                self.offset += len(piece)  # no line of ours is that long: pass over it
