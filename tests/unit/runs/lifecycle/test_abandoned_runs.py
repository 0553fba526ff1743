import errno
import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from conjure.core.home import Home
from conjure.errors import StoreError
from conjure.runs.executors import run_lock
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.host.process import Process, this_process
from conjure.runs.lifecycle.abandoned_runs import is_other_supervisor, mark_interrupted, process_name
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import EndReason, RunStatus
from support.casting import add_run

_ORDINARY = 65534


def named(name):
    return Process(1, 0, name, is_zombie=False, started="1")


def test_a_lock_is_held_by_one(tmp_path):
    folder = tmp_path / "runs" / "1"
    lock = RunLock.create(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert RunLock.take_if_free(folder) is None
    lock.release()
    again = RunLock.take_if_free(folder)
    assert again is not None
    again.release()


def test_a_folder_that_is_there_is_not_taken(tmp_path):
    RunLock.create(tmp_path / "runs" / "1").release()
    try:
        RunLock.create(tmp_path / "runs" / "1")
    except FileExistsError:
        return
    raise AssertionError("a number was given twice")


def test_a_run_whose_folder_was_removed_is_carried_by_nobody(tmp_path):
    lock = RunLock.take_if_free(tmp_path / "runs" / "1")
    assert lock is not None
    lock.release()


@contextmanager
def ordinary_user(folder):
    """Root reads everything, so it is another user who owns the folder and looks into it."""
    if os.geteuid() != 0:
        yield
        return
    os.chown(folder, _ORDINARY, -1)
    for each in folder.rglob("*"):
        os.chown(each, _ORDINARY, -1)
    os.seteuid(_ORDINARY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder():
    """A folder that another user can get to."""
    with TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.mark.parametrize("closed", ["runs/1", "runs/1/lock"])
def test_a_lock_that_cannot_be_read_is_made_usable(open_folder, closed):
    folder = open_folder / "runs" / "1"
    RunLock.create(folder).release()
    with ordinary_user(open_folder):
        (open_folder / closed).chmod(0)
        assert RunLock.take_if_free(folder) is None
        assert RunLock.make_usable(folder)
        lock = RunLock.take_if_free(folder)
    assert lock is not None
    lock.release()


def test_where_there_can_be_no_lock_a_run_is_closed_whose_supervisor_is_gone(home, store, monkeypatch):
    gone, submitted = (add_run(store).number for _ in range(2))
    me = this_process(home)
    store.set_facts(gone, owner=replace(me, started="before"))
    store.set_facts(submitted, owner=me)
    monkeypatch.setattr(run_lock, "_open_lock", fails)
    mark_interrupted(store, store.supervised())
    assert store.get(gone).ending.reason is EndReason.SUPERVISOR_DIED
    assert store.get(submitted).status is RunStatus.REQUESTED


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_run_is_closed_whatever_is_in_the_place_of_its_metrics(home, store, make):
    number = add_run(store).number
    store.set_facts(number, owner=replace(this_process(home), started="before"))
    make(RunFolder.of(home, number).metrics)
    mark_interrupted(store, store.supervised())
    assert store.get(number).ending.reason is EndReason.SUPERVISOR_DIED


def fails(*_):
    raise OSError(errno.EIO, "Input/output error")


def test_a_child_that_was_given_the_lock_keeps_it(tmp_path):
    folder = tmp_path / "runs" / "1"
    lock = RunLock.create(folder)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    lock.release()
    assert RunLock.take_if_free(folder) is None
    os.close(write)
    os.waitpid(child, 0)
    os.close(read)
    free = RunLock.take_if_free(folder)
    assert free is not None
    free.release()


def test_supervisors_of_other_runs_are_known_by_name_and_lock(tmp_path):
    home = Home(tmp_path)
    lock = RunLock.create(home.run_folder(12))
    assert is_other_supervisor(home, 3, named(process_name(12)))
    assert not is_other_supervisor(home, 12, named(process_name(12)))
    assert not is_other_supervisor(home, 3, named("python"))
    assert not is_other_supervisor(home, 3, named("conjure#x"))
    assert not is_other_supervisor(home, 3, named(process_name(99)))  # it only calls itself so
    lock.release()
    assert not is_other_supervisor(home, 3, named(process_name(12)))


def test_a_run_that_was_left_to_a_queue_meanwhile_is_not_closed(store):
    number = add_run(store, retry=1).number
    store.set_facts(number, owner=this_process())
    read_before = store.get(number)
    store.enqueue(number, Owner.queue("another host", "boot"))
    mark_interrupted(store, [read_before])
    record = store.get(number)
    assert (record.waits_in_queue, record.attempts) == (True, ())


def test_a_database_in_which_a_run_cannot_be_read_is_told_of_and_not_left_open(home, store):
    add_run(store)
    store._session.execute("UPDATE runs SET owner = '{'")
    store.close()
    with pytest.raises(StoreError, match="damaged") as caught:
        open_store(home)
    assert caught.traceback  # what was opened on the way is still referred to
    opened = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    assert [each for each in opened if each.startswith(str(home.database))] == []
