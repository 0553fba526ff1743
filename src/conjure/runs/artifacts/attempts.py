"""The files of attempts at a run: each earlier one's are in ``attempts/A`` of the run's folder.

Main entries: `archive_attempt`, `pass_checkpoints`, `remove_passed`, `copy_chosen`, `newest_kept_attempt`,
`has_kept_work`, `bring_back`. Invariant: each may be cut off and called again. An attempt whose baseline is
there has every checkpoint of those before it, and theirs are removed only then: the newest with a baseline
has all there is.
"""

import errno
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from conjure.core.dir_fd import Entry, Folder, FolderCursor, open_file, remove_entry, walk
from conjure.core.globs import GlobSet
from conjure.core.trees import clone_open_file, is_partial, partial_name
from conjure.runs.schema.run_folder import (
    ATTEMPTS,
    BASELINE,
    COLUMNS_FILE,
    FOLDERS_FILE,
    LOG_FILE,
    MANIFEST,
    MARKS_FILE,
    METRICS_FILE,
    OUTPUTS,
    WORK,
    RunFolder,
)
from conjure.runs.telemetry.metrics import parse_point

# The baseline leaves first and comes back last: until then the working folder may be in either place.
_FILES_OF_AN_ATTEMPT = (
    *(BASELINE, WORK, OUTPUTS, MANIFEST, FOLDERS_FILE, MARKS_FILE),
    *(COLUMNS_FILE, METRICS_FILE, LOG_FILE),
)
_BROUGHT_BACK = (WORK, OUTPUTS, FOLDERS_FILE, MARKS_FILE, BASELINE)
_MODE = 0o600
_CLOCK_OF_FILES = 5  # CLOCK_REALTIME_COARSE in linux/time.h: the time of the kernel's last tick


def archive_attempt(run_folder: Path, attempt: int) -> None:
    """Move what an attempt left in the run's folder out of the way of the next one.

    What its processes still have open they can go on writing to, but it is the next one's no more.

    Raises:
        OSError: The disk is full or the folder not writable.
    """
    with _folders_of(run_folder, attempt) as (run, own):
        for name in _FILES_OF_AN_ATTEMPT:
            if run.id_of(name) is not None and own.id_of(name) is None:
                os.rename(name, name, src_dir_fd=run.descriptor, dst_dir_fd=own.descriptor)


def kept_attempt_folders(run_folder: Path) -> list[Path]:
    """The folders that were kept of attempts for a next one, which came no further or never came."""
    return sorted(
        folder
        for attempt in _attempt_folders(run_folder)
        for folder in (attempt / WORK, attempt / OUTPUTS)
        if folder.is_dir() and not folder.is_symlink()
    )


def _attempt_folders(run_folder: Path) -> list[Path]:
    """The folder of each earlier attempt; a command may have put a link there, or something of its own."""
    attempts = run_folder / ATTEMPTS
    if attempts.is_symlink():
        return []
    return [each for each in attempts.glob("[0-9]*") if each.name.isdecimal() and not each.is_symlink()]


def newest_kept_attempt(run_folder: Path) -> int | None:
    """The earlier attempt that has all there is to save; None without one, or if the run's folder has it."""
    run = RunFolder(run_folder)
    if run.manifest.exists() or (run.work.is_dir() and run.baseline.is_file()):
        return None
    kept = [
        int(folder.name)
        for folder in _attempt_folders(run_folder)
        if (folder / BASELINE).is_file() and ((folder / WORK).is_dir() or run.work.is_dir())
    ]
    return max(kept, default=None)


def has_kept_work(run_folder: Path) -> bool:
    """Whether a working folder is kept of a run that has ended, from which its outputs can be saved."""
    run = RunFolder(run_folder)
    return (run.work.is_dir() and run.baseline.is_file()) or newest_kept_attempt(run_folder) is not None


def bring_back(run_folder: Path, attempt: int) -> None:
    """Put what an attempt made back in its place, because the later ones came to nothing; logs stay.

    Raises:
        OSError: The disk is full or the folder not writable.
    """
    with _folders_of(run_folder, attempt) as (run, own):
        if own.id_of(WORK) is not None:
            remove_entry(run, BASELINE)  # a later attempt's, which says nothing of this one's working folder
        for name in _BROUGHT_BACK:
            if own.id_of(name) is not None:
                if run.id_of(name) is not None:
                    remove_entry(run, name)
                os.rename(name, name, src_dir_fd=own.descriptor, dst_dir_fd=run.descriptor)


@contextmanager
def _folders_of(run_folder: Path, attempt: int) -> Iterator[tuple[Folder, Folder]]:
    """A run's folder, and the one in it for what an attempt left."""
    with (
        Folder.open(run_folder) as run,
        _subfolder(run, ATTEMPTS) as attempts,
        _subfolder(attempts, str(attempt)) as own,
    ):
        yield run, own


@contextmanager
def _subfolder(folder: Folder, name: str) -> Iterator[Folder]:
    with suppress(FileExistsError):
        os.mkdir(name, mode=0o700, dir_fd=folder.descriptor)
    with folder.open_in(name) as opened:
        yield opened


@dataclass(slots=True)
class PassedCheckpoints:
    """What an attempt was given of those before it.

    Attributes:
        files: How many files.
        newest: For each glob that names some, when the newest of them was written.
        as_of: Up to when the earlier attempts count: when the newest file was written that the first of the
            globs names which names any.
    """

    files: int = 0
    newest: dict[str, float] = field(default_factory=dict)
    as_of: float | None = None


def pass_checkpoints(
    run_folder: Path, earlier: int, globs: Sequence[str], work: Folder, *, needs_first: bool = False
) -> PassedCheckpoints:
    """Give an attempt the checkpoints of those before it, with the metrics up to then.

    Args:
        run_folder: The run's folder.
        earlier: How many attempts there were.
        globs: Which files are checkpoints.
        work: The new attempt's working folder.
        needs_first: Whether it starts anew unless there are files that the first of the globs names.

    Raises:
        OSError: The disk is full, or a folder is in the place of a file.
    """
    handed = PassedCheckpoints()
    with ExitStack() as stack:
        run = stack.enter_context(Folder.open(run_folder))
        attempts = stack.enter_context(_subfolder(run, ATTEMPTS))
        folders = [stack.enter_context(_subfolder(attempts, str(each + 1))) for each in range(earlier)]
        whole = [place for place, folder in enumerate(folders) if folder.id_of(BASELINE) is not None]
        folders = folders[max(whole, default=0) :]  # what is left of those before could not be removed
        if needs_first and not any(_has_files(folder, globs[:1]) for folder in folders):
            globs = ()
        for folder in folders:  # the oldest first: a file of a later attempt takes its place
            for name in (OUTPUTS, WORK):  # what was about to be saved has left the working folder
                if globs and folder.id_of(name) is not None:
                    with folder.open_in(name) as source:
                        copy_chosen(source, work, globs, handed, on_disk=True)
        handed.as_of = next((handed.newest[glob] for glob in globs if glob in handed.newest), None)
        if handed.as_of is not None:
            _copy_metrics(folders, run, handed.as_of)
    return handed


def remove_passed(run_folder: Path, earlier: int) -> None:
    """Remove what earlier attempts left, once the next one has its checkpoints and a baseline of its own.

    Args:
        run_folder: The run's folder.
        earlier: How many attempts there were.

    Raises:
        OSError: That by which an attempt's files are known to be whole cannot be removed.
    """
    for each in range(earlier):
        with _folders_of(run_folder, each + 1) as (_, own):
            remove_entry(own, BASELINE)
            for name in (OUTPUTS, WORK):
                with suppress(OSError):  # something may be mounted there, or be another user's
                    remove_entry(own, name)


def _has_files(attempt: Folder, globs: Sequence[str]) -> bool:
    """Whether globs name any file that an attempt left."""
    chosen = GlobSet(globs)
    for name in (OUTPUTS, WORK):
        if attempt.id_of(name) is not None:
            with attempt.open_in(name) as source:
                source.give_owner_access()
                if any(entry.is_file and chosen.matches(path) for path, entry in _walk_own(source)):
                    return True
    return False


def _walk_own(folder: Folder) -> Iterator[tuple[str, Entry]]:
    """What is in a folder that a command worked in, without what it mounted there, alive or dead."""

    def pass_over(_: str, error: OSError) -> None:
        if error.errno not in (errno.EXDEV, errno.ENOTCONN):
            raise error

    return walk(folder, on_error=pass_over, one_mount=True)


def copy_chosen(
    source: Folder, work: Folder, globs: Sequence[str], handed: PassedCheckpoints, *, on_disk: bool = False
) -> None:
    """Copy the files that globs name from one folder to another, each in one step.

    Args:
        source: Where they are.
        work: Where they are to be.
        globs: Which files.
        handed: Told of them.
        on_disk: See to it that they outlast a power cut, for where the source is then removed.

    Raises:
        OSError: The disk is full, a folder is in the place of a file, or one was removed meanwhile.
    """
    chosen = {glob: GlobSet([glob]) for glob in globs}
    source.give_owner_access()
    with FolderCursor(work) as target:
        for name, entry in _walk_own(source):
            matching = [glob for glob, pattern in chosen.items() if entry.is_file and pattern.matches(name)]
            if not matching or is_partial(name):  # the latter was being copied for an attempt that was killed
                continue
            *parents, last = name.split("/")
            folder, partial = target.go_to(parents, make=True), partial_name(last)
            with suppress(FileNotFoundError):
                os.unlink(partial, dir_fd=folder)
            reader = open_file(entry.folder, entry.name)
            try:
                facts = os.fstat(reader)
                clone_open_file(reader, folder, partial, mode=facts.st_mode & 0o777 | _MODE)
            finally:
                os.close(reader)
            if on_disk:
                _sync_file(folder, partial)
            os.replace(partial, last, src_dir_fd=folder, dst_dir_fd=folder)
            handed.files += 1
            for glob in matching:
                handed.newest[glob] = max(handed.newest.get(glob, 0.0), facts.st_mtime)


def _sync_file(folder: int, name: str) -> None:
    reader = open_file(folder, name)
    try:
        os.fsync(reader)
    finally:
        os.close(reader)


def _copy_metrics(folders: Sequence[Folder], run: Folder, as_of: float) -> None:
    """Begin the metrics with what the last attempt that has some reported until then."""
    latest = as_of + time.clock_getres(_CLOCK_OF_FILES)  # as_of may be as much too early
    found = next((each for each in reversed(folders) if each.id_of(METRICS_FILE) is not None), None)
    if found is None:
        return
    reader = open_file(found.descriptor, METRICS_FILE)
    writer = os.open(
        METRICS_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, _MODE, dir_fd=run.descriptor
    )
    with os.fdopen(reader, "rb") as lines, os.fdopen(writer, "wb") as kept:
        for line in lines:
            point = parse_point(line)
            if point is not None and line.endswith(b"\n") and point.time <= latest:
                kept.write(line)
