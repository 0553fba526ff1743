"""Saving what a run made that was killed, interrupted, or could not be saved when it ended.

Main entry: `recover`. Invariant: it may be cut off and called again; a file is in the working folder or in
the outputs, never nowhere.
"""

from conjure.core.home import Home
from conjure.errors import ConflictError, NotFoundError, StoreError
from conjure.runs.artifacts.outputs import Baseline
from conjure.runs.artifacts.run_folders import WORK, RunFolders
from conjure.runs.lifecycle.execution import BASELINE, collect_outputs
from conjure.runs.lifecycle.ownership import RunLock, open_store
from conjure.runs.schema.record import OutputFacts, RunRecord


def recover(home: Home, number: int) -> RunRecord:
    """Move what is new in an ended run's kept working folder to its outputs.

    Raises:
        NotFoundError: There is no such run, or nothing was kept of it.
        ConflictError: The run is still going on, or its working folder is no longer there but another.
        StoreError: The disk is full; nothing is lost, and it can be tried again.
    """
    folder = home.run_folder(number)
    with open_store(home) as store:
        record = store.get(number)
        lock = RunLock.take_when_free(folder) if record.status.is_final else None
        if lock is None:
            raise ConflictError(f"run {number} is {record.status}; it saves its outputs when it ends")
        try:
            with RunFolders(folder) as folders:
                if folders.run.id_of(WORK) is None or folders.run.id_of(BASELINE) is None:
                    raise _nothing_kept(record)
                baseline = Baseline.load(folders.run.here / BASELINE)
                manifest = collect_outputs(folders, baseline, record.spec.known_globs())
                facts = OutputFacts(len(manifest.entries), manifest.size_bytes, recovered=True)
                store.set_facts(number, outputs=facts)
                folders.remove_work()
        except OSError as error:
            raise StoreError(
                f"run {number} could not be recovered: {error.strerror}; its files are still there",
                fix=f"conjure recover {number}",
            ) from error
        finally:
            lock.release()
        return store.get(number)


def _nothing_kept(record: RunRecord) -> NotFoundError:
    if record.outputs is not None:
        return NotFoundError(
            f"run {record.number} does not need to be recovered: its outputs were saved",
            fix=f"conjure ls runs/{record.number}",
        )
    return NotFoundError(
        f"run {record.number} ended before its command started, so there is nothing to recover"
    )
