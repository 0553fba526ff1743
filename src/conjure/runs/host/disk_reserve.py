"""A little room on the disk that a run sets aside for its own end.

Main entry: `DiskReserve`. Invariant: a run that fills the disk, with bytes or with files, can still be closed
truthfully, because what its record and manifest need is released before they are written.
"""

import os
from contextlib import suppress

from conjure.core.dir_fd import Folder, remove_entry

BALLAST_FOLDER = "ballast"
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_SIZE_BYTES = 512 * 1024
_FILES = 8  # the record, the manifest, a folder for the outputs, what SQLite works with; and some more


class DiskReserve:
    """Space and inodes in a run's folder that are taken while its command runs."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def allocate(self) -> None:
        """Set the room aside; on a disk that has none already there is nothing to take."""
        with suppress(OSError), self._folder.make_in(BALLAST_FOLDER) as reserve:
            for number in range(_FILES):
                descriptor = os.open(str(number), _CREATE, 0o600, dir_fd=reserve.descriptor)
                try:
                    if number == 0 and hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(descriptor, 0, _SIZE_BYTES)
                finally:
                    os.close(descriptor)

    def release(self) -> None:
        """Give the room back, for whatever is to be written now."""
        with suppress(OSError):
            remove_entry(self._folder, BALLAST_FOLDER)
