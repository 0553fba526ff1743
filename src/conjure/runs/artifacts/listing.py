"""What there is, one level at a time: the runs and uploads, and the files in one of them.

Main entries: `list_resource`, `list_contents`. Invariant: looking follows no link and changes nothing; of a
run on another machine, it fetches the list of its files and none of them.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from conjure.core.home import Home
from conjure.core.quoting import shell_words
from conjure.core.text import to_iso, valid_utf8
from conjure.errors import NotFoundError
from conjure.runs.artifacts.manifest import Manifest
from conjure.runs.artifacts.resource_paths import find_roots, find_saved_first, parse, upload_content
from conjure.runs.artifacts.team_transfer import bring_manifest
from conjure.runs.artifacts.uploads import Upload, is_file_elsewhere, list_uploads
from conjure.runs.database.base import Database, RunSize
from conjure.runs.schema.resource import RUNS, UPLOADS, Resource
from conjure.runs.schema.run_folder import OUTPUTS, WORK


class Listed(NamedTuple):
    """One line of a listing.

    Attributes:
        name: What to add to the resource that was listed.
        kind: ``file``, ``folder`` or ``link`` (in a folder, or a name for a resource).
        size_bytes: Size of a file, or of everything in a run or upload; None where it is not known.
        modified_at: When it was last changed, seconds since the epoch, or None.
        target: Where a link leads, or None.
    """

    name: str
    kind: str
    size_bytes: int | None = None
    modified_at: float | None = None
    target: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The line as plain JSON values."""
        return {
            "name": valid_utf8(self.name),
            "kind": self.kind,
            "size_bytes": self.size_bytes,
            "modified_at": to_iso(self.modified_at),
            "target": None if self.target is None else valid_utf8(self.target),
        }


def list_resource(home: Home, store: Database, text: str | None) -> list[Listed]:
    """What is in a resource; without one, what resources there are.

    Raises:
        NotFoundError, UsageError: It cannot be resolved.
    """
    place = None if text is None else text.rstrip("/")
    if place is None:
        links = [Listed(link.name, "link", target=link.resource) for link in store.links()]
        return [Listed(RUNS, "folder"), Listed(UPLOADS, "folder"), *links]
    if place == RUNS:
        return [_listed_run(run) for run in reversed(store.sizes()) if _has_files(home, run)]
    if place == UPLOADS:
        return [_listed_upload(home, upload) for upload in list_uploads(home)]
    return list_contents(home, store, place).entries


class Contents(NamedTuple):
    """What there is at a path of a run or an upload.

    Attributes:
        is_folder: Whether it is a folder.
        entries: What is in the folder; of anything else, the one line for itself.
    """

    is_folder: bool
    entries: list[Listed]


def list_contents(home: Home, store: Database, text: str) -> Contents:
    """What there is at a path of a run or an upload.

    Raises:
        NotFoundError, UsageError: It cannot be resolved.
    """
    resource = parse(text, store.lookup_link)
    manifest = None if resource.number is None else bring_manifest(home, resource.number)
    if manifest is not None:
        return _saved_at(resource, manifest)
    path = find_saved_first(home, resource)
    if path.is_dir():
        return Contents(True, _listed_folder(home, resource, path))
    return Contents(False, [_listed_file(path)])


def _has_files(home: Home, run: RunSize) -> bool:
    # There may be very many: no look into the folder of each, and no pathlib, which would take half the time.
    return run.was_saved or any(_is_folder(f"{home.runs}/{run.number}/{name}") for name in (OUTPUTS, WORK))


def _is_folder(path: str) -> bool:
    """Whether it is a folder itself, no link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _listed_run(run: RunSize) -> Listed:
    return Listed(str(run.number), "folder", run.size_bytes, run.changed_at)


def _listed_upload(home: Home, upload: Upload) -> Listed:
    content = upload_content(home, upload.name, upload.version)
    is_folder = content is not None and content.is_dir() and not is_file_elsewhere(home, upload)
    kind = "folder" if is_folder else "file"
    return Listed(upload.name, kind, upload.size_bytes, upload.created_at)


def _listed_folder(home: Home, resource: Resource, path: Path) -> list[Listed]:
    """The entries of a folder; while a run's outputs are being saved, of both folders its files are in."""
    folders = {path, *(root.joinpath(*resource.parts) for root in find_roots(home, resource))}
    found: dict[str, Listed] = {}
    for folder in folders:
        # A run at work may have removed it, or one of its entries.
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in folder.iterdir():
                with suppress(FileNotFoundError):
                    found[entry.name] = _listed_file(entry)
    return [found[name] for name in sorted(found)]


def _saved_at(resource: Resource, manifest: Manifest) -> Contents:
    """What a run on another machine saved at a path."""
    found: dict[str, Listed] = {}
    for entry in manifest.entries:
        path = tuple(entry.path.split("/"))
        inside = path[len(resource.parts) :]
        if path[: len(resource.parts)] != resource.parts:
            continue
        if entry.target is not None:
            listed = Listed(path[-1], "link", target=entry.target)
        else:
            listed = Listed(path[-1], "file", entry.size_bytes)
        if not inside:
            return Contents(False, [listed])
        found.setdefault(inside[0], listed if len(inside) == 1 else Listed(inside[0], "folder"))
    if not found and resource.parts:
        raise NotFoundError(f"{resource} does not exist", fix=shell_words("conjure", "ls", resource.owner))
    return Contents(True, [found[name] for name in sorted(found)])


def _listed_file(path: Path) -> Listed:
    facts = path.lstat()
    if stat.S_ISLNK(facts.st_mode):
        return Listed(path.name, "link", None, facts.st_mtime, os.fspath(path.readlink()))
    if stat.S_ISDIR(facts.st_mode):
        return Listed(path.name, "folder", None, facts.st_mtime)
    return Listed(path.name, "file", facts.st_size, facts.st_mtime)
