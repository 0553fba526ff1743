"""Uploads: data a person gives to conjure under a name, kept in versions that never change.

An upload lies in ``uploads/<name>/<version>/``: what was given, a manifest with digests, and a summary. The
same content given again makes no new version; other content makes the next one, and the number of a version
that was removed is not given again, so that a run that used it still means the same.

Main entries: `upload`, `list_uploads`. Invariant: a version is there whole or not at all.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from conjure.core.dir_fd import Folder, change_mode, walk
from conjure.core.files import is_locked, lock_folder, parse_json, write_atomically
from conjure.core.home import Home
from conjure.core.team_settings import TeamSettings, objects_team
from conjure.core.text import error_text
from conjure.core.trees import Copied, Found, copy_entry, remove_tree
from conjure.errors import NotFoundError, StoreError, UsageError
from conjure.runs.artifacts.manifest import Manifest, take_manifest
from conjure.runs.artifacts.resource_paths import check_name, is_own_name, latest_version, versions
from conjure.runs.artifacts.team_transfer import (
    UPLOAD_SUMMARY,
    bring_upload_list,
    shared_files,
    upload_elsewhere,
)
from conjure.runs.artifacts.upload_change_detection import EarlierVersion, FileMarks, kept_mode
from conjure.runs.schema.run_folder import MANIFEST

_SUMMARY = UPLOAD_SUMMARY
LAST_VERSION = "last-version"  # a file beside the versions, once one was removed: the highest number given


@dataclass(frozen=True, slots=True)
class Upload:
    """One version of an upload.

    Attributes:
        name: What it is called.
        version: Which version it is, from 1.
        files: How many files it holds.
        size_bytes: Their size.
        created_at: When it was given, seconds since the epoch.
        source: Where it came from.
    """

    name: str
    version: int
    files: int
    size_bytes: int
    created_at: float
    source: str

    @property
    def resource(self) -> str:
        """The resource path of the newest version."""
        return f"uploads/{self.name}"


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What `upload` did: the version that holds the content, whether it is new, and what was left out."""

    upload: Upload
    is_new: bool
    skipped: tuple[str, ...]


def _no_watch(_copied: Copied) -> None:
    pass


def upload(
    home: Home, source: Path, name: str | None = None, *, watch: Callable[[Copied], None] = _no_watch
) -> Uploaded:
    """Keep a copy of a file or folder.

    A file uploaded under its own name is the upload; under another name it lies in it. Nothing is copied if
    the newest version is the same already, and a new version shares the files that have not changed with it.

    Args:
        home: Where uploads are kept.
        source: What to copy; links that lead to files outside are followed.
        name: What to call it; the source's own name if None.
        watch: Told after each file what has been compared, or copied, so far.

    Raises:
        NotFoundError: There is no such file or folder.
        UsageError: The name cannot be one, or the folder holds conjure's own home.
        StoreError: The copy cannot be made.
    """
    source = _checked_source(home, source)
    name = check_name("upload", source.name if name is None else name)
    bring_upload_list(home, name)
    place = home.create().uploads / name
    try:
        earlier = _newest(home, name, source)
        same = None if earlier is None else earlier.is_same_as(source, watch)
        if earlier is not None and same is not None:
            return Uploaded(read_upload(home, name, int(earlier.folder.name)), False, tuple(same.skipped))
        place.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=place, prefix=".new-", ignore_cleanup_errors=True) as temporary,
            lock_folder(Path(temporary)),
        ):
            return _keep(home, source, name, Path(temporary) / "version", earlier, watch)
    except OSError as error:
        raise StoreError(f"{source} could not be uploaded: {error_text(error)}") from error


def _newest(home: Home, name: str, source: Path) -> EarlierVersion | None:
    """The version that a source may be equal to."""
    newest = latest_version(home, name)
    if newest is None:
        return None
    return EarlierVersion.load(home.uploads / name / str(newest), _kind(source), source)


def _kind(source: Path) -> str:
    """Where in a version's folder the files of a source lie."""
    return "folder" if source.is_dir() else "file"


def _checked_source(home: Home, source: Path) -> Path:
    if not os.path.exists(source):  # noqa: PTH110 - false, too, for a name no filesystem can hold
        raise NotFoundError(f"there is no file or folder {source}")
    source = source.resolve()
    if not source.is_dir() and not source.is_file():
        raise UsageError(f"{source} is not a file or folder")
    if home.root.resolve().is_relative_to(source):
        raise UsageError(f"{source} contains conjure's home folder, which cannot be uploaded")
    return source


def _keep(
    home: Home,
    source: Path,
    name: str,
    built: Path,
    earlier: EarlierVersion | None,
    watch: Callable[[Copied], None],
) -> Uploaded:
    content = built / _kind(source)
    content.mkdir(parents=True)
    marks = FileMarks(str(source))

    def place(found: Found, folder: int, name: str) -> bool:
        assert found.reader is not None
        path, facts = found.name or source.name, os.fstat(found.reader)
        marks.note(path, facts)
        return earlier is not None and earlier.place(path, facts, folder, name)

    with Folder.open(content) as opened:
        name_in = "" if source.is_dir() else source.name
        copied = copy_entry(source, opened, name_in, boundary=Path(source.anchor), watch=watch, place=place)
        placed = {} if earlier is None else earlier.placed
        for path, entry in walk(opened):
            if entry.is_file and path not in placed:
                change_mode(entry.folder, entry.name, kept_mode(entry.stat().st_mode))
        manifest = take_manifest(opened, skipped=copied.skipped, known=placed)
    newest = latest_version(home, name)
    damaged = int(earlier.folder.name) if earlier is not None and earlier.is_damaged else None
    if newest is not None and newest != damaged and _is_same(home, name, newest, manifest, content.name):
        return Uploaded(read_upload(home, name, newest), False, manifest.skipped)
    manifest.save(built / MANIFEST)
    marks.save(built)
    return Uploaded(_put_in_place(home, name, built, manifest, source), True, manifest.skipped)


def _is_same(home: Home, name: str, version: int, manifest: Manifest, kind: str) -> bool:
    kept = home.uploads / name / str(version)
    return (kept / kind).is_dir() and Manifest.load(kept / MANIFEST).entries == manifest.entries


def _put_in_place(home: Home, name: str, built: Path, manifest: Manifest, source: Path) -> Upload:
    team = objects_team(home)
    if team is not None:
        return _share(home, team, name, built, manifest, source)
    while True:
        number = max(latest_version(home, name) or 0, _last_version(home, name)) + 1
        kept = Upload(name, number, len(manifest.entries), manifest.size_bytes, time.time(), str(source))
        write_atomically(built / _SUMMARY, json.dumps(asdict(kept), indent=1))
        try:
            built.rename(home.uploads / name / str(number))
        except OSError:
            if not (home.uploads / name / str(number)).exists():  # not another's upload of this moment
                raise
        else:
            return kept


def _last_version(home: Home, name: str) -> int:
    """The highest number that a version had when one was removed; 0 where none was."""
    try:
        return int((home.uploads / name / LAST_VERSION).read_text("ascii"))
    except (FileNotFoundError, ValueError):
        return 0


def _share(
    home: Home, team: TeamSettings, name: str, built: Path, manifest: Manifest, source: Path
) -> Upload:
    """Put a version into the team's store: first its files, then the row that others see it by."""
    content = next(each for each in (built / "folder", built / "file") if each.is_dir())
    with shared_files(home, team) as files:
        digest = files.store(content, manifest)
        number = max((row.version for row in files.index.uploads(name)), default=0)
        while True:
            number += 1  # past one that another gave meanwhile, or that a row has which is passed over
            kept = Upload(name, number, len(manifest.entries), manifest.size_bytes, time.time(), str(source))
            if files.new_upload(kind=content.name, manifest=digest, **asdict(kept)):
                break
    write_atomically(built / _SUMMARY, json.dumps(asdict(kept), indent=1))
    place = home.uploads / name / str(number)
    try:
        built.rename(place)
    except OSError:
        # Unless another process has noted it here already, which brings the files where they are needed.
        if not place.is_dir():
            raise
    return kept


def is_file_elsewhere(home: Home, upload: Upload) -> bool:
    """Whether an upload is one file of its own name that was not brought here yet."""
    folder = home.uploads / upload.name / str(upload.version)
    if upload_elsewhere(folder) is None or not (folder / "file").is_dir():
        return False
    entries = Manifest.load(folder / MANIFEST).entries
    return len(entries) == 1 and is_own_name(entries[0].path, upload.name)


def read_upload(home: Home, name: str, version: int) -> Upload:
    """The summary of one version.

    Raises:
        NotFoundError: It is not there.
        StoreError: It is damaged.
    """
    path = home.uploads / name / str(version) / _SUMMARY
    try:
        stored = parse_json(path.read_bytes())
        return Upload(**{field: stored[field] for field in Upload.__dataclass_fields__})
    except FileNotFoundError as error:
        raise NotFoundError(f"uploads/{name}@{version} does not exist", fix="conjure ls uploads") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged: {error}") from error


def uploads_here(home: Home) -> list[tuple[str, int]]:
    """Every version of every upload that this home has itself, by name and version."""
    names = sorted(path.name for path in home.uploads.iterdir()) if home.uploads.is_dir() else []
    return [(name, version) for name in names for version in versions(home, name)]


def list_uploads(home: Home) -> list[Upload]:
    """The newest version of every upload, by name."""
    bring_upload_list(home)
    names = sorted(path.name for path in home.uploads.iterdir()) if home.uploads.is_dir() else []
    found: list[Upload] = []
    for name in names:
        version = latest_version(home, name)
        if version is None:
            continue
        try:
            found.append(read_upload(home, name, version))
        except NotFoundError:
            if (home.uploads / name / str(version)).is_dir():  # else it was removed meanwhile
                raise
    return found


def remove_upload(home: Home, name: str, version: int | None) -> None:
    """Remove one version of an upload, or all of it.

    Raises:
        NotFoundError: It is not there.
        ConflictError: It changed meanwhile.
    """
    bring_upload_list(home, name)
    found = versions(home, name)
    wanted = found if version is None else [version]
    if not wanted or not set(wanted) <= set(found):
        raise NotFoundError(f"uploads/{name} does not exist", fix="conjure ls uploads")
    team = objects_team(home)
    if team is not None:
        with shared_files(home, team) as files:
            for number in wanted:
                files.remove_upload(name, number)
    else:
        last = max(*found, _last_version(home, name))
        write_atomically(home.uploads / name / LAST_VERSION, str(last))
    aside = Path(tempfile.mkdtemp(dir=home.uploads / name, prefix=".new-"))  # what is in it is no version
    for number in wanted:
        with suppress(FileNotFoundError):  # another process is removing it
            (home.uploads / name / str(number)).rename(aside / str(number))
    remove_tree(aside)
    folder = home.uploads / name
    is_in_use = any(is_locked(each) for each in folder.glob(".new-*"))  # another version is being copied
    if team is not None and not versions(home, name) and not is_in_use:
        remove_tree(folder)
