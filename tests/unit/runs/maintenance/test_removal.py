"""Removing a run whose supervisor is about to let go of it, or which somebody recovers."""

import pytest

from conjure.errors import ConflictError
from conjure.runs.executors import run_lock
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.maintenance import removal
from conjure.runs.maintenance.removal import remove
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import Ending, EndReason
from support.casting import add_run, finish
from support.repositories import write_files


@pytest.fixture
def run(store):
    """A run that has ended."""
    number = add_run(store).number
    write_files(RunFolder.of(store.home, number).outputs, {"made.txt": "made"})
    finish(store, number, Ending(EndReason.COMPLETED, 0))
    return number


def test_a_run_is_removed_as_soon_as_its_supervisor_has_let_go(home, store, run, monkeypatch):
    lock = RunLock.take_if_free(home.run_folder(run))
    monkeypatch.setattr(run_lock.time, "sleep", lambda _: lock.release())
    assert remove(home, store, f"runs/{run}") == len("made")


def test_a_run_that_is_being_recovered_is_not_removed(home, store, run, monkeypatch):
    monkeypatch.setattr(removal, "_PATIENCE_S", 0.01)
    with RunLock.possession(home.run_folder(run)), pytest.raises(ConflictError, match="is being recovered"):
        remove(home, store, f"runs/{run}")
