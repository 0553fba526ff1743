"""The exit status of commands that follow a sweep; what they show is tried in `tests/story/test_sweep.py`."""

import pytest

from conjure.cli.sweeps.following import follow_sweep
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.database.sweep_rows import SweepState
from conjure.sweeps.control import SweepLock, driver_lock
from support.sweeps import grid


@pytest.fixture
def store(home):
    with SqliteDatabase.open(home.create()) as store:
        store.create_sweep(grid(2).to_dict(), trials=2, parallel=1, rung_metric=None)
        yield store


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("as_json", [True, False])
def test_a_sweep_that_has_lost_its_driver_is_no_success(home, as_json):
    assert follow_sweep(home, 1, background=False, as_json=as_json) == 1


@pytest.mark.usefixtures("store")
def test_a_sweep_that_goes_on_in_the_background_is_a_success(home):
    lock = SweepLock.take_if_free(driver_lock(home, 1))
    assert lock is not None
    assert follow_sweep(home, 1, background=True, as_json=True) == 0
    lock.release()


@pytest.mark.parametrize(("state", "status"), [(SweepState.COMPLETE, 0), (SweepState.STOPPED, 1)])
def test_the_end_of_a_sweep_says_how_its_command_ends(home, store, state, status):
    store.end_sweep(1, state)
    assert follow_sweep(home, 1, background=False, as_json=True) == status
