"""Checking kept files against the digests they were kept with.

Main entry: `verify`. Invariant: every byte of every file is read again.
"""

from dataclasses import asdict, dataclass
from typing import Any

from conjure.core.home import Home
from conjure.core.team_settings import objects_team
from conjure.core.text import plural
from conjure.errors import ConflictError, NotFoundError
from conjure.runs.artifacts.manifest import Manifest
from conjure.runs.artifacts.resource_paths import parse, pin
from conjure.runs.artifacts.team_transfer import leave_behind, shared_files, upload_elsewhere
from conjure.runs.database.base import Database
from conjure.runs.schema.resource import UPLOADS, Resource
from conjure.runs.schema.run_folder import MANIFEST, RunFolder


@dataclass(frozen=True, slots=True)
class Verified:
    """What a check found.

    Attributes:
        resource: The run or version of an upload.
        files: How many files were kept.
        size_bytes: Their size.
        faults: How they differ now, one phrase each; none when all is well.
    """

    resource: str
    files: int
    size_bytes: int
    faults: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return asdict(self) | {"faults": list(self.faults)}


def verify(home: Home, store: Database, text: str) -> Verified:
    """Check a run's outputs or an upload.

    Args:
        store: The store of that home.
        text: A run's number, ``runs/N``, ``uploads/NAME`` or a link's name; a path inside means the whole.

    Raises:
        NotFoundError: There is no such thing, or its files were removed.
        ConflictError: The run has not ended.
        StoreError: The list of digests is itself damaged.
    """
    number = text.removeprefix("#")
    resource = parse(f"runs/{number}" if number.isdecimal() else text, store.lookup_link)
    if resource.kind == UPLOADS:
        resource = parse(pin(home, str(resource), store.lookup_link), store.lookup_link)
        folder = home.uploads / resource.name / str(resource.version)
        content = folder / ("folder" if (folder / "folder").is_dir() else "file")
    else:
        record = store.get(int(resource.name))
        if not record.status.is_final:
            raise ConflictError(
                f"run {record.number} is {record.status}; only ended runs can be verified",
                fix=f"conjure wait {record.number}",
            )
        if record.outputs is not None and record.outputs.removed:
            raise NotFoundError(f"the files of run {record.number} were removed")
        leave_behind(home, record)
        folder = home.run_folder(record.number)
        content = RunFolder(folder).outputs
        if record.outputs is None and not (folder / MANIFEST).exists():
            raise NotFoundError(
                f"{resource.owner} has no saved outputs: the run ended as {record.status}",
                fix=f"conjure info {record.number}",
            )
        if home.is_elsewhere(record.number):
            return _verify_stored(home, resource, record.outputs.manifest if record.outputs else None)
    digest = upload_elsewhere(folder)
    if digest is not None:
        return _verify_stored(home, resource, digest)
    try:
        manifest = Manifest.load(folder / MANIFEST)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{resource.owner} cannot be checked: {folder / MANIFEST} is missing", fix="conjure doctor"
        ) from error
    faults = tuple(manifest.find_faults(content))
    if manifest.entries and not content.is_dir():
        faults = (f"{plural(len(manifest.entries), 'file')} missing: there is no {content}",)
    return Verified(resource.owner, len(manifest.entries), manifest.size_bytes, faults)


def _verify_stored(home: Home, resource: Resource, digest: str | None) -> Verified:
    """Check what the team's object store has of a run or an upload that is not here."""
    team = objects_team(home)
    if team is None or digest is None:
        raise NotFoundError(f"the files of {resource.owner} are only on another machine")
    with shared_files(home, team) as files:
        shared = files.load(digest)
        faults = tuple(files.find_faults(shared))
    return Verified(resource.owner, len(shared.manifest.entries), shared.manifest.size_bytes, faults)
