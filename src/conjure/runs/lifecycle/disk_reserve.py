"""A little room on the disk that a run sets aside for its own end.

Main entry: `DiskReserve`. Invariant: a run that fills the disk can still be closed truthfully, because what
its record and manifest need is released before they are written.
"""

import os
from contextlib import suppress
from pathlib import Path

RESERVE_FILE = "ballast"
_SIZE_BYTES = 512 * 1024


class DiskReserve:
    """Space in a run's folder that is taken while its command runs."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / RESERVE_FILE

    def allocate(self) -> None:
        """Set the room aside; on a disk that has none already there is nothing to take."""
        with suppress(OSError):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(descriptor, 0, _SIZE_BYTES)
            finally:
                os.close(descriptor)

    def release(self) -> None:
        """Give the room back, for whatever is to be written now."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
