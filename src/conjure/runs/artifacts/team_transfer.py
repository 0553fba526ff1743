"""Having here what other machines of a team have: files, logs, metrics, code, uploads; and the other way.

Main entries: `bring_files`, `bring_streams`, `bring_attempt`, `bring_code`, `bring_kept_file`,
`bring_upload_list`; `send_inputs`. In a home of its own, or one whose folder is on a shared disk, each does
nothing. Invariant: what is brought lies under ``fetched/`` (uploads: in their place), is checked by its
digest, and may be removed at any time.
"""

import json
import os
import re
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from conjure.core.config import load_config
from conjure.core.files import is_locked, locked, write_atomically
from conjure.core.home import Home
from conjure.core.team_settings import TeamSettings, objects_team
from conjure.core.text import error_text
from conjure.core.trees import remove_tree, tree_size_bytes
from conjure.core.units import parse_size
from conjure.errors import ConjureError, NotFoundError, StoreError
from conjure.installation import install_command
from conjure.runs.artifacts.manifest import Manifest
from conjure.runs.code.snapshot_packs import has_tree, read_pack
from conjure.runs.database.base import Database
from conjure.runs.database.record_files import read_record
from conjure.runs.host.process import machine_id
from conjure.runs.objects import base
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.resource import KEPT_FILES, UPLOADS, Resource
from conjure.runs.schema.run_folder import COLUMNS_FILE, LOG_FILE, MANIFEST, METRICS_FILE, RunFolder
from conjure.runs.schema.status import RunStatus

if TYPE_CHECKING:
    from conjure.runs.artifacts.team_files import SharedManifest
    from conjure.runs.artifacts.team_runs import TeamRuns
    from conjure.runs.objects.index import Streams, UploadRow

UPLOAD_SUMMARY = "upload.json"
_NOT_HERE = "elsewhere"  # in the folder of an upload's version whose content is still to be brought
_ATTEMPT = "attempt"
_LOCK = ".lock"
_YOUNG_S = 3600.0
_DIGEST = re.compile(r"[0-9a-f]{64}")


def shared_files(
    home: Home, team: TeamSettings, *, tries: int | None = None, store: Database | None = None
) -> "AbstractContextManager[TeamRuns]":
    """A team's files.

    Args:
        home: A home of the team.
        team: The team.
        tries: How often what fails for the moment is tried.
        store: The team's database, where it is open; it stays open.

    Raises:
        StoreError: What it takes is not installed.
    """
    try:
        # Of the extra `team`; a home of one machine needs none of it.
        from conjure.runs.artifacts.team_runs import TeamRuns
    except ModuleNotFoundError as error:
        raise StoreError(
            f"this home has its files in an object store, and {error.name} is not installed",
            fix=install_command("team"),
        ) from error
    return TeamRuns.of(home, team, tries=tries, store=store)


def send_inputs(home: Home, number: int) -> None:
    """Have the code and the local files that a run is given in its team's object store, for another machine.

    In a home of its own, or one whose folder is on a shared disk, it does nothing.

    Raises:
        ConjureError: The database or the object store cannot be reached.
    """
    team = objects_team(home)
    if team is None:
        return
    with shared_files(home, team) as files:
        files.send_inputs(home, files.database.get(number))


# ---- runs --------------------------------------------------------------------------------------------------


def is_left_over(home: Home, record: RunRecord) -> bool:
    """Whether a home of a team can only have the folder of an attempt that another machine has followed."""
    owner = record.owner
    if record.spec.on is None or owner is None or record.waits_in_queue:
        return False
    if record.status.is_final and RunStatus.RUNNING not in record.facts.entered:
        return False  # the attempt that followed never came to its command: what is here is the newest
    return owner.machine != machine_id(home)


def leave_behind(home: Home, record: RunRecord) -> None:
    """Have the folder of an attempt that was lost here not stand for a run that another machine has.

    In a home of its own, or one whose folder is on a shared disk, it does nothing.
    """
    if objects_team(home) is None or home.is_elsewhere(record.number) or not is_left_over(home, record):
        return
    _cache_folder(home, record.number)


def _is_elsewhere(home: Home, team: TeamSettings, number: int) -> bool:
    """Whether another machine has a run."""
    if home.is_elsewhere(number) or not _may_leave(home, number):
        return home.is_elsewhere(number)
    with shared_files(home, team) as files:
        return _has_left(home, number, files)


def _may_leave(home: Home, number: int) -> bool:
    """Whether another machine may have a run, or come to have it; any other stays where it was asked for."""
    here = None if home.is_elsewhere(number) else read_record(home.runs / str(number))
    return here is None or here.spec.on is not None


def _has_left(home: Home, number: int, files: "TeamRuns") -> bool:
    """Whether another machine has a run now, of which there may have been an attempt here."""
    if not home.is_elsewhere(number):
        with suppress(NotFoundError):
            leave_behind(home, files.database.get(number))
    return home.is_elsewhere(number)


def bring_files(home: Home, resource: Resource) -> None:
    """Have a run's or an upload's files here, or those at and below a path in it.

    Raises:
        NotFoundError: They cannot be had: the run goes on elsewhere, saved nothing, or they were removed.
        StoreError: The database or the object store cannot be reached, or holds something damaged.
    """
    team = objects_team(home)
    if team is None:
        return
    if resource.kind == UPLOADS:
        _bring_upload(home, team, resource)
    elif resource.number is not None:
        _bring_outputs(home, team, resource.number, resource.parts)


def _bring_outputs(home: Home, team: TeamSettings, number: int, parts: tuple[str, ...]) -> None:
    with shared_files(home, team) as files:
        record = files.database.get(number)
        if record.outputs is not None and record.outputs.removed:
            raise NotFoundError(f"the files of run {number} were removed")
        leave_behind(home, record)
        if not home.is_elsewhere(number):
            return
        shared = _manifest_of(files, record)
        place = _cache_folder(home, number)
        if place is None:
            return
        folder = RunFolder(place)
        with _cache_errors(home), locked(folder.path / _LOCK):
            files.fetch(shared, folder.outputs, parts)
            write_atomically(folder.manifest, shared.to_bytes())
        os.utime(folder.path)
        evict(home, {*_mounted_by_active(files), number})


def _manifest_of(files: "TeamRuns", record: RunRecord) -> "SharedManifest":
    number, where = record.number, _where(record)
    if not record.status.is_final:
        raise NotFoundError(
            f"run {number} is {record.status}{where}; its files are available here after it has ended",
            fix=f"conjure wait {number}",
        )
    if record.outputs is None:
        raise NotFoundError(
            f"run {number} ended as {record.status} and saved no outputs;"
            f" its remaining files are{where or ' elsewhere'}"
        )
    if record.outputs.removed:
        raise NotFoundError(f"the files of run {number} were removed")
    if record.outputs.manifest is None:
        raise NotFoundError(f"the files of run {number} are only{where or ' elsewhere'}")
    return files.load(record.outputs.manifest)


def _where(record: RunRecord) -> str:
    """`` on ada@gpu-2`` where that is known."""
    member = "" if record.owner is None else record.owner.member
    return f" on {member}" if member else ""


def bring_manifest(home: Home, number: int) -> Manifest | None:
    """The list of files that a run on another machine saved, without the files; None for a run that is here.

    Raises:
        NotFoundError, StoreError: As `bring_files`.
    """
    team = objects_team(home)
    if team is None or not _is_elsewhere(home, team, number):
        return None
    with shared_files(home, team) as files:
        return _manifest_of(files, files.database.get(number)).manifest


def _cache_folder(home: Home, number: int) -> Path | None:
    """The folder for what is brought of a run; it is not made while a supervisor here has the run: None.

    From then on it is the run's folder here, and the supervisor would no more find its own.
    """
    folder = home.fetched / str(number)
    with _cache_errors(home):
        home.fetched.mkdir(mode=0o700, exist_ok=True)
        with locked(home.fetched_lock):
            if not folder.is_dir():
                if is_locked(RunFolder(home.runs / str(number)).lock):
                    return None
                folder.mkdir(mode=0o700)
    return folder


def remove_from_cache(home: Home, number: int) -> None:
    """Have what was brought of a run not stand for it any more. The caller possesses the run's own folder."""
    with locked(home.fetched_lock):
        remove_tree(home.fetched / str(number))


@contextmanager
def _cache_errors(home: Home) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{home.fetched} cannot be written: {error_text(error)}",
            hint="free space, for example with `conjure prune`",
        ) from error


# ---- logs and metrics --------------------------------------------------------------------------------------


class StreamFollower:
    """Brings what is new of the log and the metrics of a run; a context manager.

    Args:
        home: The home.
        number: The run.
    """

    def __init__(self, home: Home, number: int) -> None:
        self._home = home
        self._number = number
        team = objects_team(home)
        if team is not None and not _may_leave(home, number):
            team = None
        self._opened = None if team is None else shared_files(home, team)
        self._files = None if self._opened is None else self._opened.__enter__()
        self._attempt_here: int | None = None  # the newest that was carried out here

    @property
    def may_bring(self) -> bool:
        """Whether there may be something to bring, now or later."""
        return self._files is not None

    def __enter__(self) -> "StreamFollower":
        return self

    def __exit__(self, *_: object) -> None:
        if self._opened is not None:
            self._opened.__exit__(None, None, None)

    def bring(self) -> None:
        """Have here what was sent of them by now.

        Raises:
            StoreError: The database or the object store cannot be reached.
        """
        if self._files is None:
            return
        streams = self._files.index.streams(self._number)
        # Asked each time: one attempt may be carried out here, and the next one elsewhere.
        if not _has_left(self._home, self._number, self._files):
            self._note_attempt_here(self._files, streams)
            return
        folder = _cache_folder(self._home, self._number)
        if folder is None:
            return
        # What is removed meanwhile is brought by the next look.
        with _cache_errors(self._home), suppress(FileNotFoundError), locked(folder / _LOCK):
            (folder / LOG_FILE).touch()
            # The next attempt has not sent anything yet: what the one here sent was read in its own folder.
            if streams is None or streams.attempt == self._attempt_here:
                return
            _begin_attempt(folder, streams.attempt)
            for name, length in ((LOG_FILE, streams.log_bytes), (METRICS_FILE, streams.metrics_bytes)):
                bring_stream(self._files.objects, self._number, streams.attempt, folder / name, length)
            os.utime(folder)  # it is in use, which adding to a file in it does not show

    def _note_attempt_here(self, files: "TeamRuns", streams: "Streams | None") -> None:
        if streams is not None and streams.attempt != self._attempt_here:
            with suppress(NotFoundError):
                if not is_left_over(self._home, files.database.get(self._number)):
                    self._attempt_here = streams.attempt


def _begin_attempt(folder: Path, attempt: int) -> None:
    """Another supervisor's log is another log, however it begins."""
    try:
        known = (folder / _ATTEMPT).read_text()
    except FileNotFoundError:
        known = str(attempt)
    if known != str(attempt):
        for name in (METRICS_FILE, COLUMNS_FILE):
            (folder / name).unlink(missing_ok=True)
        # While the old one is there, so that who reads it can tell that this is another file.
        write_atomically(folder / LOG_FILE, b"")
    (folder / _ATTEMPT).write_text(str(attempt))


def bring_stream(objects: base.ObjectStore, number: int, attempt: int, path: Path, length: int) -> None:
    """Have the log or the metrics of an attempt at a path, whose last part says which, up to a length.

    Raises:
        ObjectsError: The object store cannot be reached.
        OSError: The disk is full.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        have = os.fstat(descriptor).st_size
        while have < length:
            start = have - have % base.SEGMENT_BYTES
            end = min(start + base.SEGMENT_BYTES, length)
            name = base.segment(number, attempt, path.name, start)
            have += os.pwrite(descriptor, objects.get_range(name, have - start, end - have), have)
    finally:
        os.close(descriptor)


def bring_streams(home: Home, number: int) -> None:
    """Have the log and the metrics of a run here, as far as they were sent.

    Raises:
        StoreError: The database or the object store cannot be reached.
    """
    with StreamFollower(home, number) as follower:
        follower.bring()


def bring_attempt(home: Home, number: int, place: int) -> None:
    """Have the log of an earlier attempt at a run here, where that was on another machine.

    Args:
        home: The home.
        number: The run.
        place: Which attempt of the record's, from 1.

    Raises:
        NotFoundError: It was not sent.
        StoreError: The database or the object store cannot be reached.
    """
    team = objects_team(home)
    if team is None or not _is_elsewhere(home, team, number):
        return
    cache = _cache_folder(home, number)
    if cache is None:
        return
    folder = RunFolder(cache).attempt(place).path
    if (folder / LOG_FILE).exists():
        return  # nothing is added to it any more
    with shared_files(home, team) as files, _cache_errors(home):
        try:
            attempt = files.attempt_at(number, place)
        except base.MissingObjectError as error:
            raise NotFoundError(f"the log of attempt {place} at run {number} was not sent") from error
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / LOG_FILE, b"".join(_segments(files.objects, number, attempt)))


def _segments(objects: base.ObjectStore, number: int, attempt: int) -> Iterator[bytes]:
    """The log of an attempt, piece by piece."""
    start = 0
    while True:
        try:
            piece = objects.get(base.segment(number, attempt, LOG_FILE, start))
        except base.MissingObjectError:
            return
        yield piece
        start += base.SEGMENT_BYTES


# ---- code and kept files -----------------------------------------------------------------------------------


def bring_code_to_compare(home: Home, *runs: RunRecord) -> None:
    """Have the code of runs in the store of this home, as far as it is anywhere.

    Raises:
        StoreError: The object store cannot be reached.
        SnapshotError: It is damaged.
    """
    for run in runs:
        with suppress(NotFoundError):
            bring_code(home, run.number, "" if run.code is None else run.code.tree)


def bring_code(home: Home, number: int, tree: str) -> None:
    """Have a run's code in the store of this home, and keep it for that run.

    Raises:
        NotFoundError: It is not in the team's object store, or not yet.
        StoreError: The object store cannot be reached.
        SnapshotError: It is damaged.
    """
    team = objects_team(home)
    if team is None or not tree or has_tree(home, tree):
        return
    with (
        shared_files(home, team) as files,
        tempfile.TemporaryDirectory(dir=home.root, prefix=".code-") as place,
    ):
        path = Path(place) / "pack"
        try:
            with path.open("wb") as file:
                for piece in files.objects.pieces(base.code(tree)):
                    file.write(piece)
        except base.MissingObjectError as error:
            raise NotFoundError(f"the code of run {number} is not in {files.objects.address}") from error
        read_pack(home, number, tree, path)


def bring_kept_file(home: Home, resource: Resource) -> None:
    """Have a local file here that some run was given on another machine.

    Raises:
        NotFoundError: It is not in the team's object store.
        StoreError: The object store cannot be reached.
    """
    team = objects_team(home)
    if team is None or not _DIGEST.fullmatch(resource.name) or len(resource.parts) != 1:
        return
    path = home.root / KEPT_FILES / resource.name / resource.parts[0]
    if path.is_file() or resource.parts[0] == "..":
        return
    with shared_files(home, team) as files, _cache_errors(home):
        try:
            files.fetch_file(resource.name, path)
        except base.MissingObjectError as error:
            raise NotFoundError(f"the file stored as {resource} is not in {files.objects.address}") from error


# ---- uploads -----------------------------------------------------------------------------------------------


def bring_upload_list(home: Home, name: str | None = None) -> None:
    """Know of all versions of an upload, or of all uploads, whoever of the team gave them; not their files.

    Raises:
        StoreError: The database or the object store cannot be reached.
    """
    team = objects_team(home)
    if team is None:
        return
    with shared_files(home, team) as files, _cache_errors(home):
        for row in files.index.uploads(name):
            _note_upload(home, files, row)


def _note_upload(home: Home, files: "TeamRuns", row: "UploadRow") -> None:
    place = home.uploads / row.name / str(row.version)
    if row.removed:
        if place.is_dir():
            remove_tree(place)
        return
    if place.is_dir():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=place.parent, prefix=".new-", ignore_cleanup_errors=True
    ) as temporary:
        built = Path(temporary) / "version"
        (built / row.kind).mkdir(parents=True)
        (built / MANIFEST).write_bytes(files.load(row.manifest).to_bytes())
        (built / _NOT_HERE).write_text(row.manifest)
        stored = asdict(row)
        summary = {
            each: stored[each] for each in ("name", "version", "files", "size_bytes", "created_at", "source")
        }
        (built / UPLOAD_SUMMARY).write_text(json.dumps(summary, indent=1))
        with suppress(OSError):  # another process was faster
            built.rename(place)


def _bring_upload(home: Home, team: TeamSettings, resource: Resource) -> None:
    bring_upload_list(home, resource.name)
    folder = home.uploads / resource.name
    version = resource.version or max((int(each.name) for each in _versions(folder)), default=0)
    place = folder / str(version)
    manifest = upload_elsewhere(place)
    if manifest is None:
        return
    content = next(each for each in (place / "folder", place / "file") if each.is_dir())
    with shared_files(home, team) as files, _cache_errors(home), locked(place / _LOCK):
        parts = resource.parts if content.name == "folder" else ()
        files.fetch(files.load(manifest), content, parts)
        if not parts:
            (place / _NOT_HERE).unlink(missing_ok=True)


def _versions(folder: Path) -> list[Path]:
    return [each for each in folder.glob("*") if each.name.isdecimal()] if folder.is_dir() else []


def upload_elsewhere(version_folder: Path) -> str | None:
    """The digest of the manifest of an upload's version of which something was not brought here yet."""
    try:
        return (version_folder / _NOT_HERE).read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None


# ---- the cache ---------------------------------------------------------------------------------------------


class _Cached(NamedTuple):
    path: Path
    used_at: float
    size_bytes: int


def evict(
    home: Home, keep: Collection[int | None], *, everything: bool = False, now: float | None = None
) -> int:
    """Remove what was brought of runs longest ago, until the rest fits into ``team.cache``.

    Args:
        home: The home.
        keep: Runs that are in use.
        everything: Remove what is not in use even if all fits, but for what is younger than an hour.
        now: The time, seconds since the epoch.

    Returns:
        Bytes that were freed.
    """
    limit = 0 if everything else parse_size(load_config(home, home.root).values["team.cache"])
    cached = sorted(_cached(home), key=lambda each: each.used_at)
    size, freed = sum(each.size_bytes for each in cached), 0
    long_ago = (time.time() if now is None else now) - _YOUNG_S
    for each in cached:
        if size <= limit or int(each.path.name) in keep:
            continue
        if everything and each.used_at > long_ago:
            continue
        if is_locked(each.path / _LOCK):
            continue  # it is being filled
        remove_tree(each.path)
        size -= each.size_bytes
        freed += each.size_bytes
    return freed


def move_to_cache(home: Home, number: int) -> None:
    """Make the folder of a run that ended here what other machines have of it: copies that may be removed.

    The caller possesses the run. One that an active run mounts stays where it is.

    Raises:
        StoreError: The database cannot be reached, or the folder not be moved.
    """
    team = objects_team(home)
    assert team is not None
    with shared_files(home, team) as files:
        in_use = _mounted_by_active(files)
    if number in in_use:
        return
    with _cache_errors(home):
        home.fetched.mkdir(mode=0o700, exist_ok=True)
        target = home.fetched / str(number)
        remove_tree(target)
        (home.runs / str(number)).rename(target)
        os.utime(target)
    evict(home, {*in_use, number})


def _cached(home: Home) -> Iterator[_Cached]:
    for path in home.fetched.glob("*") if home.fetched.is_dir() else ():
        if path.name.isdecimal():
            with suppress(FileNotFoundError):  # another process makes room as well
                yield _Cached(path, path.stat().st_mtime, tree_size_bytes(path))


def _mounted_by_active(files: "TeamRuns") -> set[int]:
    sources = (mount.source for record in files.database.active() for mount in record.mounts)
    return {number for number in (Resource.of_source(source).number for source in sources) if number}


def prune_objects(home: Home) -> tuple[int, int]:
    """Remove objects from the team's store that no run and no upload needs: how many, and their bytes.

    Raises:
        StoreError: The database or the object store cannot be reached.
    """
    team = objects_team(home)
    if team is None:
        return 0, 0
    with shared_files(home, team) as files:
        while files.export_records():
            pass  # what is needed no more must not seem to be there, should the database get lost
        return files.prune()


def rebuild_records(home: Home) -> tuple[list[int], list[int]]:
    """Rebuild the rows that the team's database lacks from the records in the object store.

    Returns:
        Numbers that were rebuilt, and numbers whose record cannot be read. Neither will be given again.

    Raises:
        StoreError: The database or the object store cannot be reached.
    """
    team = objects_team(home)
    assert team is not None
    with shared_files(home, team) as files:
        return files.rebuild()


def export_records(home: Home) -> None:
    """Bring records in the team's object store up to date; a later run or command does what fails now."""
    team = objects_team(home)
    if team is not None:
        with suppress(ConjureError), shared_files(home, team, tries=1) as files:
            files.export_records()
