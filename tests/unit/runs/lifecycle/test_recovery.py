"""Two who recover one run; recovering real runs is tried in `tests/integration/runs/test_life.py`."""

import errno

import pytest

from conjure.errors import ConflictError, NotFoundError
from conjure.runs.artifacts import run_folders
from conjure.runs.artifacts.outputs import Baseline
from conjure.runs.artifacts.run_folders import RunFolders
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.host.process import this_process
from conjure.runs.lifecycle.recovery import recover
from conjure.runs.scheduling.scheduler_start import this_queue
from conjure.runs.schema.record import OutputFacts
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from support.casting import add_run, advance, finish
from support.repositories import read_files, write_files


@pytest.fixture
def run(home):
    """A run that was killed, of which nothing is left to recover."""
    with SqliteDatabase.open(home) as store:
        return finish(store, add_run(store).number, Ending(EndReason.KILL_REQUESTED)).number


def test_a_run_that_another_recovers_is_said_to_be_recovered(home, run, monkeypatch):
    monkeypatch.setattr(RunLock, "take_when_free", RunLock.take_if_free)  # it is not waited for
    with RunLock.possession(home.run_folder(run)) as ours:
        assert ours
        with pytest.raises(ConflictError) as refused:
            recover(home, run)
    assert (str(refused.value), refused.value.fix) == ("run 1 is being recovered", "conjure info 1")


def test_a_run_that_another_has_just_recovered_does_not_need_to_be(home, run, monkeypatch):
    def wait_for_the_other(folder):
        with SqliteDatabase.open(home) as store:
            store.set_facts(run, outputs=OutputFacts(1, 5, recovered=True))
        (folder / "outputs").mkdir()
        return RunLock.take_if_free(folder)

    monkeypatch.setattr(RunLock, "take_when_free", wait_for_the_other)
    with pytest.raises(NotFoundError, match="run 1 does not need to be recovered"):
        recover(home, run)


def test_a_working_folder_that_cannot_be_removed_does_not_undo_what_was_recovered(home, run, monkeypatch):
    files = RunFolder.of(home, run)
    with RunFolders(files.path) as folders:
        folders.make_work()
        Baseline({}).save(files.baseline)
    write_files(files.work, {"made": "m"})

    def refuse(_):
        raise OSError(errno.EXDEV, "it is a mount point")

    monkeypatch.setattr(run_folders, "clear", refuse)
    assert recover(home, run).outputs == OutputFacts(1, 1, recovered=True)
    assert read_files(files.outputs) == {"made": "m"}


def test_what_was_pruned_of_an_earlier_attempt_is_said_to_be_lost(home):
    with SqliteDatabase.open(home) as store:
        number = add_run(store, retry=1).number
        store.begin_attempt(number, this_process())
        advance(store, number, RunStatus.RUNNING)
        store.retry_run(number, Ending(EndReason.SUPERVISOR_DIED), this_queue(home), host="here", delay_s=0.0)
        store.end_run(number, Ending(EndReason.STOP_REQUESTED))
    with pytest.raises(NotFoundError, match="the files of run 1 are lost"):
        recover(home, number)
