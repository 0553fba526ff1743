"""What an object store must be able to do: the seam between conjure and S3, a folder or another.

Main entries: `ObjectStore`, and the names that objects have: `blob`, `pack`, `segment` and others.
Invariant: an object is there whole or not at all, and nothing here relies on a store that refuses to
overwrite: an object's name says its content, or only one writer has it.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from conjure.errors import StoreError

RECORDS = "runs"
LINKS_OBJECT = "links.json"
TEAM_OBJECT = "team.json"  # which database goes with the store
UPLOADS = "uploads"
SEGMENT_BYTES = 1 << 18  # a log lies in pieces of this size; only the last one is ever written again
_RECORD = re.compile(r"runs/([1-9][0-9]{0,8})/run\.json")


class ObjectsError(StoreError):
    """The object store cannot be reached, or refuses what is asked of it."""


class MissingObjectError(ObjectsError):
    """There is no such object."""


class ObjectStore(Protocol):
    """Objects by name; safe to use from several threads."""

    @property
    def address(self) -> str:
        """Where it is, without a key."""
        ...

    def put(self, name: str, content: bytes) -> None:
        """Write an object, over one of that name.

        Raises:
            ObjectsError: It cannot be written, after some tries.
        """
        ...

    def put_file(self, name: str, path: Path) -> None:
        """Write a file as an object, in parts where it is large.

        Raises:
            ObjectsError: It cannot be written, after some tries.
            OSError: The file cannot be read.
        """
        ...

    def get(self, name: str) -> bytes:
        """All of an object.

        Raises:
            MissingObjectError: There is none of that name.
            ObjectsError: It cannot be read, after some tries.
        """
        ...

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Some bytes of an object.

        Raises:
            MissingObjectError: There is none of that name.
            ObjectsError: It cannot be read, after some tries, or is too short.
        """
        ...

    def pieces(self, name: str) -> Iterator[bytes]:
        """All of an object, piece by piece; what was given before an error is to be thrown away.

        Raises:
            MissingObjectError: There is none of that name.
            ObjectsError: It cannot be read.
        """
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there are passed over.

        Raises:
            ObjectsError: One of them cannot be removed.
        """
        ...

    def names(self, prefix: str) -> Iterator[str]:
        """The names of the objects below a prefix: for rebuilding, for nothing else is listed.

        Raises:
            ObjectsError: They cannot be listed.
        """
        ...


def blob(digest: str) -> str:
    """The object with the content of that SHA-256."""
    return f"blobs/{digest}"


def pack(digest: str) -> str:
    """The object with many small contents one after another."""
    return f"packs/{digest}"


def code(tree: str) -> str:
    """The object with all that a git tree holds, as a pack of git's."""
    return f"code/{tree}"


def manifest(digest: str) -> str:
    """The object that lists the files of a run or an upload."""
    return f"manifests/{digest}"


def segment(number: int, attempt: int, stream: str, start: int) -> str:
    """The object with the part of a run's log or metrics that begins at a multiple of `SEGMENT_BYTES`."""
    return f"runs/{number}/{attempt}/{stream}/{start:012}"


def checkpoint(number: int, attempt: int) -> str:
    """The object that tells of the files that an attempt, while it goes on, keeps for the next one."""
    return f"runs/{number}/{attempt}/checkpoint.json"


def attempt_object(number: int, place: int) -> str:
    """The object that tells which supervisor an attempt had, counted as the record counts attempts."""
    return f"runs/{number}/attempts/{place}.json"


def record_object(number: int) -> str:
    """The object with a run's record: what its row is rebuilt from."""
    return f"runs/{number}/run.json"


def upload_object(name: str, version: int) -> str:
    """The object that tells of a version of an upload."""
    return f"uploads/{quote(name, safe='')}/{version}.json"


def number_of_record(name: str) -> int | None:
    """The run whose record an object is, or None."""
    match = _RECORD.fullmatch(name)
    return None if match is None else int(match[1])
