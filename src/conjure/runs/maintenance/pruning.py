"""Freeing what can be had again, and what no run needs any more.

Main entries: `prune`, `find_leftovers`. Invariant: outputs, records, logs, metrics and uploads are never
touched, and neither is anything a run at work uses. What cannot be done, as packing on a full disk, keeps the
rest from nothing: it is told.
"""

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from conjure.core.files import is_locked
from conjure.core.home import Home
from conjure.core.team_settings import objects_team
from conjure.core.text import error_text
from conjure.core.trees import remove_tree, tree_size_bytes
from conjure.errors import ConjureError
from conjure.runs.artifacts.attempts import kept_attempt_folders, newest_kept_attempt
from conjure.runs.artifacts.resource_paths import versions
from conjure.runs.artifacts.run_folders import RunFolders
from conjure.runs.artifacts.team_transfer import evict, is_left_over, prune_objects
from conjure.runs.artifacts.uploads import LAST_VERSION
from conjure.runs.code import code_store, mirrors, snapshot
from conjure.runs.database.base import Database
from conjure.runs.database.record_files import folder_numbers, read_record
from conjure.runs.environments import environment_build, image_layers
from conjure.runs.executors.run_lock import RunLock, take_out_of_sight
from conjure.runs.host.disk_reserve import BALLAST_FOLDER
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.resource import KEPT_FILES, Resource
from conjure.runs.schema.run_folder import (
    ATTEMPTS,
    BASELINE,
    COLUMNS_FILE,
    FOLDERS_FILE,
    LOCK_FILE,
    LOG_FILE,
    MANIFEST,
    MARKS_FILE,
    METRICS_FILE,
    OUTPUTS,
    PARTIAL_FILE,
    RECORD_FILE,
    REMOVED,
    SUPERVISOR_LOG,
    WORK,
)

_YOUNG_S = 3600
# What processes leave that were killed while they wrote it. A run's own is in its folder.
_UNFINISHED = (
    ".code-*",
    ".links.json.*",
    "git/tmp*",
    "import/.conjure.*",
    f"{KEPT_FILES}/.*.part",
    f"runs/{REMOVED}*",
    "sweeps/.*.json.*",
    "uploads/*/.new-*",
    "uploads/*/*/.*.json.*",
)
# What most folders hold, and nothing else.
_ORDINARY = {
    RECORD_FILE,
    LOCK_FILE,
    LOG_FILE,
    METRICS_FILE,
    COLUMNS_FILE,
    MANIFEST,
    BASELINE,
    FOLDERS_FILE,
    OUTPUTS,
}
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was freed.

    Attributes:
        environments: Built environments, and images with packages added.
        working_folders: Numbers of the runs whose working folders are gone.
        kept_files: Local files that no run was given, and models' weights in int8, which can be made again.
        mirrors: Copies of remote repositories.
        leftovers: Files and folders that killed processes had left.
        size_bytes: All of it, with the code that no run started from.
        objects: Objects of the team's store that no run and no upload needs.
        objects_bytes: Their size there.
        not_done: What could not be freed, and why, one sentence each.
    """

    environments: int
    working_folders: tuple[int, ...]
    kept_files: int
    mirrors: int
    leftovers: int
    size_bytes: int
    objects: int = 0
    objects_bytes: int = 0
    not_done: tuple[str, ...] = ()


@dataclass(slots=True)
class _InRunFolders:
    """What run folders hold beside what a run keeps.

    Attributes:
        work: Runs that have a working folder.
        recoverable: Runs whose outputs `conjure recover` could save: it, or an earlier attempt's, is whole.
        leftovers: What killed processes left, by run.
        empty: Folders in which nothing of a run is: their making was cut off.
    """

    work: list[int] = field(default_factory=list)
    recoverable: list[int] = field(default_factory=list)
    leftovers: dict[int, list[Path]] = field(default_factory=dict)
    empty: list[int] = field(default_factory=list)

    def forget(self, number: int) -> None:
        """Have nothing more of a run."""
        self.leftovers.pop(number, None)
        for numbers in (self.work, self.recoverable, self.empty):
            if number in numbers:
                numbers.remove(number)


def recoverable(home: Home, store: Database) -> list[int]:
    """Ended runs whose outputs were never saved, and still could be by `conjure recover`."""
    at_work, seen = store.active_numbers(), _look_into_run_folders(home)
    left_over = _left_over(home, store, seen)
    return [number for number in seen.recoverable if number not in at_work and number not in left_over]


def _left_over(home: Home, store: Database, seen: _InRunFolders) -> set[int]:
    """Runs that another machine of the team has, of which a lost attempt left something here."""
    if objects_team(home) is None:
        return set()
    found = {*seen.work, *seen.leftovers, *seen.recoverable} & store.numbers()
    return {number for number in found if is_left_over(home, store.get(number))}


def find_leftovers(home: Home, store: Database, *, now: float | None = None) -> list[Path]:
    """What killed processes left, of the kinds that `prune` removes."""
    at_work, seen = store.active_numbers(), _look_into_run_folders(home)
    in_folders = [path for number, paths in seen.leftovers.items() if number not in at_work for path in paths]
    empty = [home.run_folder(number) for number in _unused(home, store, seen.empty)]
    return [*in_folders, *empty, *_old_unfinished(home, _long_ago(now))]


def unused_folders(home: Home, store: Database) -> list[int]:
    """Run folders in which nothing of a run is, because the command that made them was cut off."""
    return _unused(home, store, _look_into_run_folders(home).empty)


def _unused(home: Home, store: Database, empty: list[int]) -> list[int]:
    rows = store.numbers() if empty else set()
    return [number for number in empty if number not in rows and _is_free(home.run_folder(number))]


def prune(home: Home, store: Database, *, everything: bool = False, now: float | None = None) -> Pruned:
    """Free environments, working folders, files and code that no run needs.

    Args:
        store: The store of that home.
        everything: Also what ended runs used but can be had again: environments and mirrors.
        now: The time, seconds since the epoch; what is younger than an hour may belong to a new run.
    """
    long_ago = _long_ago(now)
    not_done: list[str] = []
    seen = _look_into_run_folders(home)
    left, size = _prune_left_over(home, store, _left_over(home, store, seen), seen, not_done)
    folders, others, more = _prune_run_folders(home, store, seen, not_done)
    left, size = left + others, size + more
    unlisted = _unlisted(home, store)
    kept = [*_unused_files(home, store, unlisted), *sorted(home.native_weights.glob("*"))]
    files = [path for path in kept if _changed_at(path) < long_ago]
    unfinished = _old_unfinished(home, long_ago)
    for path in files:
        size += _attempt(lambda path=path: _remove(path), not_done) or 0
    for path in unfinished:
        size += _attempt(lambda path=path: _remove_unfinished(home, path), not_done) or 0
    left += len(unfinished)
    shared = (home.environments, home.mirrors)
    baseline = list(map(tree_size_bytes, shared))
    needed = store.environments_in_use(active_only=everything) | {
        record.environment.digest
        for record in unlisted
        if record.environment is not None and not (everything and record.status.is_final)
    }
    environments = _attempt(lambda: environment_build.prune(home, needed), not_done) or []
    layers = image_layers.prune(home, needed)
    not_done += layers.not_done
    removed_mirrors = (_attempt(lambda: mirrors.prune(home), not_done) or []) if everything else []
    size += sum(max(was - tree_size_bytes(place), 0) for was, place in zip(baseline, shared, strict=True))
    size += layers.size_bytes
    size += _attempt(lambda: code_store.prune(home), not_done) or 0
    size += _attempt(lambda: _prune_copies(home, store), not_done) or 0
    objects = _attempt(lambda: prune_objects(home), not_done) or (0, 0)
    return Pruned(
        environments=len(environments) + layers.count,
        working_folders=tuple(folders),
        kept_files=len(files),
        mirrors=len(removed_mirrors),
        leftovers=left,
        size_bytes=size,
        objects=objects[0],
        objects_bytes=objects[1],
        not_done=tuple(not_done),
    )


def _prune_copies(home: Home, store: Database) -> int:
    """Remove what was fetched of other machines' runs, and outputs here that were removed from there."""
    if objects_team(home) is None:
        return 0
    mounted = {Resource.of_source(mount.source).number for run in store.active() for mount in run.mounts} - {
        None
    }
    size = evict(home, mounted, everything=True)
    here = folder_numbers(home.runs)
    for number in here:
        outputs = home.run_folder(number) / OUTPUTS
        if outputs.is_dir() and number not in mounted:
            record = store.get(number)
            if record.outputs is not None and record.outputs.removed:
                size += _remove(outputs)
    return size


def _prune_left_over(
    home: Home, store: Database, numbers: set[int], seen: _InRunFolders, not_done: list[str]
) -> tuple[int, int]:
    """Remove what lost attempts left of runs that other machines have: how many folders, bytes."""
    left = size = 0
    for number in sorted(numbers):
        folder = home.runs / str(number)
        with RunLock.possession(folder) as ours:
            # Removing others may have taken long, and a later attempt been carried out here.
            is_so = ours and is_left_over(home, store.get(number))
            aside = _attempt(lambda folder=folder: take_out_of_sight(folder), not_done) if is_so else None
        if aside is not None:
            snapshot.release_tree(home, number)
            left += 1
            size += _attempt(lambda aside=aside: _remove(aside), not_done) or 0
        seen.forget(number)
    return left, size


def _prune_run_folders(
    home: Home, store: Database, seen: _InRunFolders, not_done: list[str]
) -> tuple[list[int], int, int]:
    """Remove working folders and leftovers of ended runs: numbers, how many leftovers, bytes."""
    at_work = store.active_numbers()
    folders, left, size = [], 0, 0
    for number in sorted({*seen.work, *seen.leftovers} - at_work):
        folder = home.run_folder(number)
        with RunLock.possession(folder) as ours:
            if not ours:  # somebody is recovering it at this moment
                continue
            paths = seen.leftovers.get(number, [])
            for path in paths:
                size += _attempt(lambda path=path: _remove(path), not_done) or 0
            left += len(paths)
            if number in seen.work:
                freed = _attempt(lambda folder=folder: _remove_working_folder(folder), not_done)
                folders += [number] if freed is not None else []
                size += freed or 0
    if _unused(home, store, seen.empty):
        with store.while_no_number_is_given():
            unused = _unused(home, store, seen.empty)
            for number in unused:
                _attempt(lambda number=number: remove_tree(home.run_folder(number)), not_done)
            left += len(unused)
    return folders, left, size


def _look_into_run_folders(home: Home) -> _InRunFolders:
    """One look into each: there may be very many."""
    seen = _InRunFolders()
    runs = str(home.runs)
    for number in folder_numbers(home.runs):
        try:
            names = set(os.listdir(f"{runs}/{number}"))  # noqa: PTH208 - a third of the time
        except OSError:  # removed meanwhile, closed by its command, or on a failing disk
            continue
        if RECORD_FILE in names and names <= _ORDINARY:
            continue
        folder = home.run_folder(number)
        if WORK in names:
            seen.work.append(number)
        if (WORK in names and BASELINE in names) or (
            ATTEMPTS in names and newest_kept_attempt(folder) is not None
        ):
            seen.recoverable.append(number)
        left = [folder / name for name in names if _is_leftover(name)]
        left += kept_attempt_folders(folder) if ATTEMPTS in names else []
        if left:
            seen.leftovers[number] = left
        if all(name in (LOCK_FILE, SUPERVISOR_LOG) or _is_leftover(name) for name in names):
            seen.empty.append(number)
    return seen


def _is_leftover(name: str) -> bool:
    """Whether a file in the folder of a run that has ended is none that it keeps."""
    return (
        name in (BALLAST_FOLDER, MARKS_FILE)
        or name.startswith(REMOVED)
        or PARTIAL_FILE.fullmatch(name) is not None
    )


def _is_free(folder: Path) -> bool:
    with RunLock.possession(folder) as ours:
        return ours


def _attempt(act: Callable[[], _Result], not_done: list[str]) -> _Result | None:
    """Do it; where it cannot be done, as on a full or failing disk, say so and go on."""
    try:
        return act()
    except ConjureError as error:
        not_done.append(str(error))
    except OSError as error:
        not_done.append(error_text(error, with_path=True))
    return None


def _remove_working_folder(run_folder: Path) -> int | None:
    """Remove a run's own working folder; the bytes it held, None where another stands in its place."""
    with RunFolders(run_folder) as folders:
        size = tree_size_bytes(folders.run.here / WORK)
        return size if folders.remove_work() else None


def _remove(path: Path) -> int:
    """Remove it; the bytes it held."""
    size = tree_size_bytes(path)
    remove_tree(path)
    return size


def _remove_unfinished(home: Home, path: Path) -> int:
    """The same of what `_old_unfinished` found; of an upload without a version only an empty folder."""
    if path.parent != home.uploads or path.is_symlink() or not path.is_dir():
        return _remove(path)
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):  # else a version was made meanwhile
            raise
    return 0


def _long_ago(now: float | None) -> float:
    return (time.time() if now is None else now) - _YOUNG_S


def _changed_at(path: Path) -> float:
    return path.lstat().st_ctime


def _unlisted(home: Home, store: Database) -> list[RunRecord]:
    """Runs that have a folder with a record, but no row: what they need must stay until they are rebuilt."""
    numbers = sorted(set(folder_numbers(home.runs)) - store.numbers())
    records = (read_record(home.run_folder(number)) for number in numbers)
    return [record for record in records if record is not None]


def _unused_files(home: Home, store: Database, unlisted: Iterable[RunRecord]) -> Iterator[Path]:
    kept = home.root / KEPT_FILES
    sources = {*store.sources_in_use(), *(mount.source for run in unlisted for mount in run.mounts)}
    used = {Path(source).parts[-2] for source in sources if source.startswith(f"{KEPT_FILES}/")}
    return (
        path for path in sorted(kept.glob("*")) if path.name not in used and not path.name.startswith(".")
    )


def _was_never_made(home: Home, upload: Path) -> bool:
    """Whether the first version of an upload was not finished; one that was removed leaves its number."""
    return not versions(home, upload.name) and not (upload / LAST_VERSION).exists()


def _old_unfinished(home: Home, long_ago: float) -> list[Path]:
    """What processes left that were killed in the middle of something, and uploads without a version."""
    found = [path for pattern in _UNFINISHED for path in home.root.glob(pattern)]
    found += [folder for folder in home.uploads.glob("*") if _was_never_made(home, folder)]
    old = [path for path in found if os.path.lexists(path) and _changed_at(path) < long_ago]
    return [path for path in old if not _is_in_the_making(path)]


def _is_in_the_making(path: Path) -> bool:
    """Whether an upload, or the first version of one, is being copied now, which may take hours."""
    return any(is_locked(folder) for folder in (path, *path.glob(".new-*")) if folder.is_dir())
