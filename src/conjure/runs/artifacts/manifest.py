"""What files there are in a kept folder, with their digests, so that a later change can be told.

Main entries: `take_manifest`, `Manifest.find_faults`. Invariant: a manifest names every file and link
below its folder and nothing else; names that are not UTF-8 survive the way through JSON.
"""

import binascii
import json
import os
import stat
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from conjure.core.dir_fd import Entry as FoundEntry
from conjure.core.dir_fd import Folder, open_file, walk
from conjure.core.files import parse_json, sha256_open_file, write_atomically
from conjure.core.text import valid_utf8
from conjure.errors import StoreError

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

_FORMAT = 1
_OPEN_FILES = 64  # read or about to be


class Entry(NamedTuple):
    """One kept file.

    Attributes:
        path: Relative to the folder, POSIX form, undecodable bytes as surrogates (PEP 383).
        size_bytes: Its size; 0 for a link.
        digest: SHA-256 in hex, "" for a link.
        mode: Permission bits.
        target: Where it leads, for a symbolic link; None for a file.
    """

    path: str
    size_bytes: int
    digest: str
    mode: int
    target: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The entry as plain JSON values that any program can read."""
        values: dict[str, Any] = {"path": valid_utf8(self.path)}
        if values["path"] != self.path:
            values["path_base64"] = _to_base64(self.path)
        if self.target is not None:
            target = _to_base64(self.target)
            return {**values, "target": valid_utf8(self.target), "target_base64": target}
        return {**values, "size_bytes": self.size_bytes, "digest": self.digest, "mode": f"{self.mode:04o}"}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Entry":
        """The entry that `to_dict` wrote."""
        path = stored["path"]
        if "path_base64" in stored:
            path = os.fsdecode(binascii.a2b_base64(stored["path_base64"]))
        if "target" in stored:
            return cls(str(path), 0, "", 0o777, os.fsdecode(binascii.a2b_base64(stored["target_base64"])))
        return cls(str(path), int(stored["size_bytes"]), str(stored["digest"]), int(stored["mode"], 8))


def _to_base64(name: str) -> str:
    return binascii.b2a_base64(os.fsencode(name), newline=False).decode()


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a kept folder.

    Attributes:
        entries: Every file and link, in order of path.
        skipped: What was not kept and why, one phrase each.
    """

    entries: tuple[Entry, ...]
    skipped: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(entry.size_bytes for entry in self.entries)

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all.

        Raises:
            OSError: The disk is full or the folder not writable.
        """
        content = {
            "format": _FORMAT,
            "digest_algorithm": "sha256",
            "files": [entry.to_dict() for entry in self.entries],
            "skipped": [valid_utf8(phrase) for phrase in self.skipped],
        }
        write_atomically(path, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """The manifest that `save` wrote.

        Raises:
            StoreError: It is damaged or of a newer format.
            FileNotFoundError: There is none.
        """
        try:
            stored = parse_json(path.read_bytes())
            if stored["format"] > _FORMAT:
                raise StoreError(f"{path} was written by a newer version of conjure", hint="upgrade conjure")
            return cls(tuple(map(Entry.from_dict, stored["files"])), tuple(map(str, stored["skipped"])))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise StoreError(f"{path} is damaged: {error}") from error

    def find_faults(self, folder: Path) -> list[str]:
        """How `folder` differs from the manifest: one phrase per file, none when all is well."""
        if folder.is_symlink():
            return [f"{folder.name} is now a link to {valid_utf8(os.fspath(folder.readlink()))}"]
        found = {entry.path: entry for entry in take_manifest(folder).entries} if folder.is_dir() else {}
        known = {entry.path: entry for entry in self.entries}
        faults = [_fault(entry, found.get(path)) for path, entry in known.items()]
        faults += [f"{valid_utf8(path)} was added" for path in found.keys() - known.keys()]
        return sorted(filter(None, faults))


def _fault(kept: Entry, found: Entry | None) -> str | None:
    name = valid_utf8(kept.path)
    if found is None:
        return f"{name} is missing"
    if (kept.target, kept.digest) != (found.target, found.digest):
        size = f" ({kept.size_bytes} bytes then, {found.size_bytes} now)"
        return f"{name} was changed{size if kept.size_bytes != found.size_bytes else ''}"
    return f"{name} has mode {found.mode:04o}, not {kept.mode:04o}" if kept.mode != found.mode else None


def take_manifest(
    folder: Path | Folder, *, skipped: Iterable[str] = (), known: Mapping[str, Entry] | None = None
) -> Manifest:
    """Read every file below `folder`, several at a time, and note its digest.

    Args:
        folder: The folder.
        skipped: What was not kept and why, for the manifest.
        known: Entries of files that need not be read, by path.

    Raises:
        OSError: A file cannot be read, or `folder` is a link.
    """
    if isinstance(folder, Path):
        with Folder.open(folder) as opened:
            return take_manifest(opened, skipped=skipped, known=known)
    if not os.listdir(folder.descriptor):  # noqa: PTH208 - pathlib knows no descriptors
        return Manifest((), tuple(skipped))
    from concurrent.futures import ThreadPoolExecutor  # milliseconds that only who saves files need pay

    count = min(os.cpu_count() or 1, 8)
    entries: list[Entry] = []
    reading: deque[Future[Entry]] = deque()
    # Hashing lets go of the interpreter's lock; beyond a few threads the disk is the limit.
    with ThreadPoolExecutor(count) as threads:
        for name, found in walk(folder):
            if found.is_folder:
                continue
            entry = known.get(name) if known else None
            reading.append(_start(threads, name, found) if entry is None else _already(entry))
            if len(reading) > _OPEN_FILES:
                entries.append(reading.popleft().result())
        entries.extend(future.result() for future in reading)
    return Manifest(tuple(entries), tuple(skipped))


def _start(threads: "ThreadPoolExecutor", name: str, found: FoundEntry) -> "Future[Entry]":
    """Have an entry read: a file is opened at once, while the folder it is in is known."""
    if found.is_file:
        return threads.submit(_read, name, open_file(found.folder, found.name))
    return _already(Entry(name, 0, "", 0o777, found.target()) if found.is_link else _unread(name, found))


def _already(entry: Entry) -> "Future[Entry]":
    from concurrent.futures import Future  # as above

    known: Future[Entry] = Future()
    known.set_result(entry)
    return known


def _read(name: str, descriptor: int) -> Entry:
    try:
        facts = os.fstat(descriptor)
        return Entry(name, facts.st_size, sha256_open_file(descriptor), stat.S_IMODE(facts.st_mode))
    finally:
        os.close(descriptor)


def _unread(name: str, found: FoundEntry) -> Entry:
    """A pipe or the like that somebody put there."""
    facts = found.stat()
    return Entry(name, facts.st_size, "", stat.S_IMODE(facts.st_mode))
