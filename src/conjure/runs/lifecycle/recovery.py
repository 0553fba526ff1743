"""Saving what a run made that was killed, interrupted, or could not be saved when it ended.

Main entries: `recover`, and `collect_outputs`, which an ordinary end calls. Invariant: both may be cut off
and called again; a file is in the working folder or in the outputs, never nowhere.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from conjure.core.home import Home
from conjure.core.team_settings import objects_team
from conjure.core.text import error_text
from conjure.errors import ConflictError, NotFoundError, StoreError
from conjure.runs.artifacts.attempts import bring_back, newest_kept_attempt
from conjure.runs.artifacts.outputs import Baseline, Collected, collect
from conjure.runs.artifacts.run_folders import RunFolders, check_run_folder
from conjure.runs.artifacts.team_transfer import leave_behind
from conjure.runs.artifacts.team_upload import RunUploader
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.record import OutputFacts, RunRecord
from conjure.runs.schema.run_folder import BASELINE, MANIFEST, WORK, RunFolder
from conjure.runs.schema.spec import RunSpec


def recover(home: Home, number: int, report: Callable[[str], None] = lambda _: None) -> RunRecord:
    """Move what is new in an ended run's kept working folder to its outputs.

    If its last attempt ended before its command started, that is the working folder of the one before it.

    Args:
        number: The run.
        report: Gets a line for each file that was not saved.

    Raises:
        NotFoundError: There is no such run, or nothing was kept of it.
        ConflictError: The run is still going on, or being recovered by another, or its working folder is no
            longer there but another.
        StoreError: The disk is full; nothing is lost, and it can be tried again.
    """
    with open_store(home) as store:
        record = store.get(number)
        leave_behind(home, record)
        folder = home.run_folder(number)
        if objects_team(home) is not None and home.is_elsewhere(number):
            raise ConflictError(
                f"run {number} was executed on another machine, where its working folder is",
                hint=f"run `conjure recover {number}` there",
            )
        check_run_folder(folder)
        if not record.status.is_final:
            raise ConflictError(
                f"run {number} is {record.status}; it saves its outputs when it ends",
                fix=f"conjure stop {number}",
            )
        lock = RunLock.take_when_free(folder)
        if lock is None:
            raise ConflictError(f"run {number} is being recovered", fix=f"conjure info {number}")
        try:
            earlier = newest_kept_attempt(folder)
            if earlier is not None:
                bring_back(folder, earlier)
            with RunFolders(folder) as folders:
                if folders.run.id_of(WORK) is None or folders.run.id_of(BASELINE) is None:
                    raise _nothing_kept(folder, store.get(number))
                baseline = _load_before(folders.run.here / BASELINE, folder)
                manifest, unsaved = collect_outputs(folders, baseline, record.spec.known_globs())
                uploader = RunUploader(store, number, attempt=0)
                digest = uploader.store_outputs(RunFolder(folder).outputs, manifest)
                facts = OutputFacts(
                    len(manifest.entries), manifest.size_bytes, recovered=True, manifest=digest
                )
                store.set_facts(number, outputs=facts)
                for skipped in manifest.skipped:
                    report(f"not saved: {skipped}")
                if unsaved:
                    report(kept_words(home, number))
                else:
                    with suppress(OSError):  # as at an ordinary end: what was to be saved is saved
                        folders.remove_work()
                uploader.export_record()
        except OSError as error:
            raise StoreError(
                f"run {number} could not be recovered: {error_text(error)}; its files are still there",
                fix=f"conjure recover {number}",
            ) from error
        finally:
            lock.release()
        return store.get(number)


def collect_outputs(folders: RunFolders, baseline: Baseline, spec: RunSpec) -> Collected:
    """Move a run's new and changed files to its outputs and list them; may be cut off and called again.

    Raises:
        ConflictError: Another folder, or a link, is in the place of one of the run's.
        OSError: The disk is full or a folder not writable.
    """
    work = folders.open_work()
    folders.check()
    collected = collect(work, baseline, folders.open_outputs(), spec.output, spec.no_output)
    folders.check()
    collected.manifest.save(folders.run.here / MANIFEST)
    return collected


def kept_words(home: Home, number: int) -> str:
    """What is told where some outputs could not be saved."""
    return (
        f"the working folder {RunFolder.of(home, number).work} is kept, with what could not be saved;"
        f" `conjure recover {number}` saves it once it is readable, and `conjure prune` deletes the folder"
    )


def _load_before(path: Path, folder: Path) -> Baseline:
    try:
        return Baseline.load(path)
    except (ValueError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{RunFolder(folder).baseline} is damaged, so the run's outputs cannot be distinguished"
            " from its inputs",
            hint=f"copy what is wanted out of {RunFolder(folder).work}",
        ) from error


def _nothing_kept(folder: Path, record: RunRecord) -> NotFoundError:
    if record.outputs is not None and not record.outputs.removed and not RunFolder(folder).outputs.is_dir():
        return NotFoundError(
            f"the outputs of run {record.number} were saved, but {RunFolder(folder).outputs} is gone;"
            " nothing is left to recover them from",
            fix="conjure doctor",
        )
    if record.outputs is not None and record.outputs.removed:
        return NotFoundError(f"the files of run {record.number} were removed with `conjure rm`")
    if record.outputs is not None:
        return NotFoundError(
            f"run {record.number} does not need to be recovered: its outputs were saved",
            fix=f"conjure ls runs/{record.number}",
        )
    if record.is_unsaved:
        return NotFoundError(
            f"the files of run {record.number} are lost: {RunFolder(folder).work} no longer exists",
            fix=f"conjure logs {record.number}",
        )
    return NotFoundError(
        f"run {record.number} ended before its command started, so there is nothing to recover"
    )
