"""What became of the files that an upload was made of: which are as they were, and need not be copied again.

Beside each version lies what told its files from others when they were copied: size, times, inode. A file for
which all of that is the same has not been written to. Where it differs, or is not known, the digest decides.
What is stored may have been damaged since: it is the same only while it has the time of the source's file.

Main entries: `FileMarks`, `EarlierVersion`. Invariant: a file that may still be written to in the moment its
mark is taken gets none, for a later write could have the same time.
"""

import json
import os
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from conjure.core.files import parse_json, sha256_file, sha256_open_file, write_atomically
from conjure.core.trees import Copied, Found, find_entries
from conjure.runs.artifacts.manifest import Entry, Manifest
from conjure.runs.artifacts.team_transfer import upload_elsewhere
from conjure.runs.schema.run_folder import MANIFEST

SOURCE_MARKS = "source.json"
_FORMAT = 1
_COARSEST_NS = 2_000_000_000  # the coarsest clock that a filesystem keeps its times by
_Mark = tuple[int, ...]


@dataclass(slots=True)
class FileMarks:
    """What tells the files of a source from what they become when they are written to.

    Attributes:
        source: Path of the file or folder.
        files: Mark of each, by its path in the upload.
    """

    source: str
    files: dict[str, _Mark] = field(default_factory=dict)
    _began_ns: int = field(default_factory=lambda: time.time_ns())

    def note(self, path: str, facts: os.stat_result) -> None:
        """Take the mark of a file before it is read."""
        if max(facts.st_mtime_ns, facts.st_ctime_ns) < self._began_ns - _COARSEST_NS:
            self.files[path] = _mark(facts)

    def has(self, path: str, facts: os.stat_result) -> bool:
        """Whether a file is as it was when its mark was taken."""
        return self.files.get(path) == _mark(facts)

    def save(self, version_folder: Path) -> None:
        """Write them down beside the version that was made of them.

        Raises:
            OSError: The disk is full or the folder not writable.
        """
        content = {"format": _FORMAT, "source": self.source, "files": self.files}
        write_atomically(version_folder / SOURCE_MARKS, json.dumps(content, separators=(",", ":")))

    @classmethod
    def load(cls, version_folder: Path, source: Path) -> "FileMarks":
        """What `save` wrote; nothing where it was of another source, or cannot be read."""
        marks = cls(str(source))
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            stored = parse_json((version_folder / SOURCE_MARKS).read_bytes())
            if stored["format"] == _FORMAT and stored["source"] == marks.source:
                marks.files = {path: tuple(mark) for path, mark in stored["files"].items()}
        return marks


def _mark(facts: os.stat_result) -> _Mark:
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino


def kept_mode(mode: int) -> int:
    """The mode that a file has in an upload."""
    return 0o444 | (mode & 0o111)


@dataclass(slots=True)
class EarlierVersion:
    """The version of an upload that a source is compared with.

    Attributes:
        folder: The version's own.
        content: The folder in it with the files.
        entries: Its files by path.
        known: What told the source's files from others then.
        placed: Those whose files were put into the new version too.
        is_damaged: Whether a stored file was found to be another than its entry says.
    """

    folder: Path
    content: Path
    entries: Mapping[str, Entry]
    known: FileMarks
    placed: dict[str, Entry] = field(default_factory=dict)
    is_damaged: bool = False

    @classmethod
    def load(cls, folder: Path, kind: str, source: Path) -> "EarlierVersion | None":
        """A version in its folder; None where it is of another kind, ``folder`` or ``file``.

        Raises:
            StoreError: Its manifest is damaged.
        """
        content = folder / kind
        if not content.is_dir():
            return None
        entries = {entry.path: entry for entry in Manifest.load(folder / MANIFEST).entries}
        return cls(folder, content, entries, FileMarks.load(folder, source))

    def is_same_as(self, source: Path, watch: Callable[[Copied], None]) -> Copied | None:
        """Compare with a source, and end at the first difference.

        Args:
            source: The file or folder.
            watch: Told after each file what has been compared so far.

        Returns:
            What a copy would have made, where that would be this version; else None.

        Raises:
            OSError: The source cannot be read.
        """
        same, seen = Copied(), FileMarks(str(source))
        with closing(find_entries(source, boundary=Path(source.anchor), skipped=same.skipped)) as found:
            for each in found:
                if each.reader is None and each.target is None:
                    continue
                path = each.name or source.name
                entry = self.entries.get(path)
                if entry is None or not self._is_same(each, entry, seen):
                    return None
                same.files += 1
                same.size_bytes += entry.size_bytes
                watch(same)
        if same.files != len(self.entries):
            return None
        if seen.files != self.known.files:
            with suppress(OSError):  # a full disk: the next comparison reads the files again
                seen.save(self.folder)
        return same

    def _is_same(self, found: Found, entry: Entry, seen: FileMarks) -> bool:
        if found.reader is None:
            return entry.target == found.target
        facts = os.fstat(found.reader)
        if not _could_be(entry, facts):
            return False
        seen.note(entry.path, facts)
        if not self.known.has(entry.path, facts) and sha256_open_file(found.reader) != entry.digest:
            return False
        self.is_damaged = not self._is_stored(entry, facts)
        return not self.is_damaged

    def _is_stored(self, entry: Entry, source: os.stat_result) -> bool:
        """Whether this version's file of an entry, to which a source's file is equal, is whole.

        It is read where its time is not the source's, and then given that, so that it need not be read again.
        """
        kept = self.content / entry.path
        try:
            own = kept.lstat()
        except FileNotFoundError:
            return upload_elsewhere(self.folder) is not None
        if not _could_be(entry, own):
            return False
        if not _have_same_time(own, source):
            if sha256_file(kept) != entry.digest:
                return False
            with suppress(OSError):
                os.utime(kept, ns=(own.st_atime_ns, source.st_mtime_ns), follow_symlinks=False)
        return True

    def place(self, path: str, facts: os.stat_result, folder: int, name: str) -> bool:
        """Give the file of this version another name in a new one, if the source's is as it was then.

        Args:
            path: Path in the upload.
            facts: Of the source's file.
            folder: Descriptor of the folder in the new version.
            name: Its name there.

        Returns:
            Whether it is there.
        """
        entry = self.entries.get(path)
        if entry is None or not self.known.has(path, facts) or not _could_be(entry, facts):
            return False
        kept = self.content / path
        try:
            own = kept.lstat()  # somebody may have been at it
            if not (_could_be(entry, own) and _have_same_time(own, facts)):
                return False
            if stat.S_IMODE(own.st_mode) != entry.mode:
                return False
            os.link(kept, name, dst_dir_fd=folder, follow_symlinks=False)
        except OSError:  # not here, of too many names, or on a filesystem that gives files only one
            return False
        self.placed[path] = entry
        return True


def _could_be(entry: Entry, facts: os.stat_result) -> bool:
    """Whether a file may be the one of an entry, before it is read."""
    return (
        entry.target is None
        and stat.S_ISREG(facts.st_mode)
        and facts.st_size == entry.size_bytes
        and kept_mode(facts.st_mode) == entry.mode
    )


def _have_same_time(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether a file was last written to when the other was, as far as a filesystem keeps that."""
    return abs(one.st_mtime_ns - other.st_mtime_ns) < _COARSEST_NS
