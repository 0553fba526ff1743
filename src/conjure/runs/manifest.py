"""What files there are in a kept folder, with their digests, so that a later change can be told.

Main entries: `take_manifest`, `Manifest.find_faults`. Invariant: a manifest names every file and link
below its folder and nothing else; names that are not UTF-8 survive the way through JSON.
"""

import base64
import json
import os
import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conjure.core.files import sha256_file, write_atomically
from conjure.errors import StoreError
from conjure.runs.record import printable
from conjure.runs.trees import walk

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Entry:
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

    def to_json(self) -> dict[str, Any]:
        """The entry as plain JSON values that any program can read."""
        values: dict[str, Any] = {"path": printable(self.path)}
        if values["path"] != self.path:
            values["path_base64"] = base64.b64encode(os.fsencode(self.path)).decode()
        if self.target is not None:
            target = base64.b64encode(os.fsencode(self.target)).decode()
            return {**values, "target": printable(self.target), "target_base64": target}
        return {**values, "size_bytes": self.size_bytes, "digest": self.digest, "mode": f"{self.mode:04o}"}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Entry":
        """The entry that `to_json` wrote."""
        path = stored["path"]
        if "path_base64" in stored:
            path = os.fsdecode(base64.b64decode(stored["path_base64"]))
        if "target" in stored:
            return cls(path, 0, "", 0o777, os.fsdecode(base64.b64decode(stored["target_base64"])))
        return cls(path, stored["size_bytes"], stored["digest"], int(stored["mode"], 8))


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
            "files": [entry.to_json() for entry in self.entries],
            "skipped": [printable(phrase) for phrase in self.skipped],
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
            stored = json.loads(path.read_bytes())
            if stored["format"] > _FORMAT:
                raise StoreError(f"{path} was written by a newer conjure", fix="pip install -U conjure")
            return cls(tuple(map(Entry.from_json, stored["files"])), tuple(stored["skipped"]))
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} is damaged: {error}") from error

    def find_faults(self, folder: Path) -> list[str]:
        """How `folder` differs from the manifest: one phrase per file, none when all is well."""
        found = {entry.path: entry for entry in take_manifest(folder).entries} if folder.is_dir() else {}
        known = {entry.path: entry for entry in self.entries}
        faults = [_fault(entry, found.get(path)) for path, entry in known.items()]
        faults += [f"{printable(path)} was added" for path in found.keys() - known.keys()]
        return sorted(filter(None, faults))


def _fault(kept: Entry, found: Entry | None) -> str | None:
    name = printable(kept.path)
    if found is None:
        return f"{name} is missing"
    if (kept.target, kept.digest) != (found.target, found.digest):
        size = f" ({kept.size_bytes} bytes then, {found.size_bytes} now)"
        return f"{name} was changed{size if kept.size_bytes != found.size_bytes else ''}"
    return f"{name} has mode {found.mode:04o}, not {kept.mode:04o}" if kept.mode != found.mode else None


def take_manifest(folder: Path, *, skipped: Iterable[str] = ()) -> Manifest:
    """Read every file below `folder`, several at a time, and note its digest.

    Raises:
        OSError: A file cannot be read.
    """
    entries = [(name, entry) for name, entry in walk(folder) if not entry.is_dir(follow_symlinks=False)]
    # Hashing lets go of the interpreter's lock; beyond a few threads the disk is the limit.
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as threads:
        digests = threads.map(_digest, (entry for _, entry in entries))
        return Manifest(tuple(map(_entry, entries, digests)), tuple(skipped))


def _digest(entry: os.DirEntry[str]) -> str:
    return sha256_file(Path(entry.path)) if entry.is_file(follow_symlinks=False) else ""


def _entry(named: tuple[str, os.DirEntry[str]], digest: str) -> Entry:
    name, entry = named
    if entry.is_symlink():
        return Entry(name, 0, "", 0o777, str(Path(entry.path).readlink()))
    facts = entry.stat(follow_symlinks=False)
    return Entry(name, facts.st_size, digest, stat.S_IMODE(facts.st_mode))
