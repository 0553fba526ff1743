"""A resource as a value: what ``runs/12/…``, ``uploads/NAME@2/…`` and ``datasets/files/DIGEST/NAME`` say.

Main entry: `Resource`; what a person types is taken apart by `resource_paths.parse`. Invariant: the text of a
resource, taken apart again, is the same resource.
"""

import re
import unicodedata
from dataclasses import dataclass

RUNS, UPLOADS = "runs", "uploads"
LAST = re.compile(r"last(?:~(?P<back>[0-9]{1,9}))?")  # the newest run, or so many before it
KEPT_FILES = "datasets/files"  # copies of local data files, by digest
_NAME = re.compile(r"\w[\w.+ -]{0,98}[\w+-]|\w")


def is_upload_name(name: str) -> bool:
    """Whether an upload or a link can have this name: it is in its normal form and no path."""
    return _NAME.fullmatch(name) is not None and unicodedata.is_normalized("NFC", name)


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource path taken apart.

    Attributes:
        kind: ``runs``, ``uploads`` or ``datasets/files``.
        name: The run's number, the upload's name or the file's digest.
        version: Which version of an upload, None for the newest.
        parts: The path inside, without ``.`` and ``..``; for a file its name.
    """

    kind: str
    name: str
    version: int | None = None
    parts: tuple[str, ...] = ()

    @classmethod
    def of_source(cls, source: str) -> "Resource":
        """What a record holds: links were followed, and an upload has its version. It never fails."""
        kind = KEPT_FILES if source.startswith(f"{KEPT_FILES}/") else source.partition("/")[0]
        name, *parts = source.removeprefix(kind).removeprefix("/").split("/")
        version = None
        if kind == UPLOADS:
            name, _, number = name.partition("@")
            version = int(number) if number.isdecimal() else None
        return cls(kind, name, version, tuple(parts))

    @property
    def number(self) -> int | None:
        """The run's number; None for another resource."""
        return int(self.name) if self.kind == RUNS and self.name.isdecimal() else None

    @property
    def owner(self) -> str:
        """The run, upload or file as a whole: ``runs/12``, ``uploads/NAME@2``."""
        if self.kind == KEPT_FILES:
            return str(self)
        version = "" if self.version is None else f"@{self.version}"
        return f"{self.kind}/{self.name}{version}"

    def __str__(self) -> str:
        whole = f"{KEPT_FILES}/{self.name}" if self.kind == KEPT_FILES else self.owner
        return "/".join((whole, *self.parts))
