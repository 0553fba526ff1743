import errno
import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from conjure.core.dir_fd import Folder
from conjure.core.home import Home
from conjure.core.trees import remove_tree
from conjure.errors import StoreError
from conjure.runs.database.base import KILL, STOP
from conjure.runs.executors import run_lock
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.host.disk_reserve import DiskReserve
from conjure.runs.host.orphan_detection import ProcessMarks
from conjure.runs.host.process import Process, find_process, this_process
from conjure.runs.host.process_control import set_name
from conjure.runs.lifecycle.abandoned_runs import (
    is_other_supervisor,
    mark_abandoned,
    mark_interrupted,
    process_name,
)
from conjure.runs.lifecycle.heartbeat import TAKE_OVER_AFTER
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.lifecycle.submission import request_of_this_process
from conjure.runs.scheduling import scheduler_start
from conjure.runs.scheduling.run_queue import write_request
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import EndReason, RunStatus
from conjure.runs.telemetry.metrics import Summary
from support.casting import add_run, advance, wait_until

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


# ---- what becomes of a run whose supervisor is gone --------------------------------------------------------

ELSEWHERE, ANOTHER = Owner("elsewhere", "boot", 2, "2"), Owner("another", "boot", 3, "3")


def abandon(store, **spec):
    """A run of this machine whose command was running when its supervisor and guard were killed."""
    number = add_run(store, **spec).number
    store.begin_attempt(number, replace(this_process(store.home), started="before"))
    advance(store, number, RunStatus.RUNNING)
    return number


def test_nothing_is_left_that_only_its_supervisor_needed(home, store):
    number = abandon(store)
    files = RunFolder.of(home, number)
    with Folder.open(files.path) as folder:
        DiskReserve(folder).allocate()
        ProcessMarks(folder).note_pipes([])
    files.record.with_name(".run.json.abcd1234").write_text("{half")
    write_request(home, number, request_of_this_process(home, store.get(number).spec, 0.0, "local"))
    mark_interrupted(store, store.supervised())
    assert {each.name for each in files.path.iterdir()} == {"lock", "log.jsonl", "run.json"}
    assert not home.queued_request(number).exists()


def test_the_last_points_are_indexed_that_its_supervisor_did_not_come_to_see(home, store):
    number = abandon(store)
    RunFolder.of(home, number).metrics.write_text('{"name": "loss", "step": 3, "value": 1.5, "time": 0}\n')
    mark_interrupted(store, store.supervised())
    assert store.summaries(number)["loss"].points == 1


@pytest.mark.parametrize(
    ("wish", "reason"), [(KILL, EndReason.KILL_REQUESTED), (STOP, EndReason.SUPERVISOR_DIED)]
)
def test_only_who_wanted_it_killed_got_what_was_wanted(store, wish, reason):
    number = abandon(store)
    store.request_end(number, wish)
    mark_interrupted(store, store.supervised())
    assert store.get(number).ending.reason is reason


def test_a_record_of_nobody_is_closed(store):
    number = abandon(store)
    store._session.execute("UPDATE runs SET owner = NULL")
    mark_interrupted(store, store.supervised())
    assert store.get(number).ending.message == "its supervisor died while the run was running"


def test_a_supervisor_that_has_ended_and_was_not_waited_for_is_gone(home, store):
    number = add_run(store).number
    child = os.fork()
    if child == 0:
        set_name(process_name(number))
        os._exit(0)
    wait_until(lambda: find_process(child).is_zombie, "its end")
    me = this_process(home)
    store.set_facts(number, owner=replace(me, pid=child, started=find_process(child).started))
    mark_interrupted(store, store.supervised())
    os.waitpid(child, 0)
    assert store.get(number).ending.reason is EndReason.SUPERVISOR_DIED


def test_what_waits_for_its_next_attempt_has_a_scheduler(home, store, monkeypatch):
    started = []
    monkeypatch.setattr(scheduler_start, "start_scheduler", started.append)
    number = abandon(store, retry=1)
    write_request(home, number, request_of_this_process(home, store.get(number).spec, 0.0, "local"))
    mark_interrupted(store, store.supervised())
    assert store.get(number).waits_in_queue
    assert started == [home]


@pytest.mark.parametrize("fails_in", ["end_run", "retry_run"])
def test_a_run_is_told_of_as_ended_where_that_cannot_be_written(home, store, monkeypatch, fails_in):
    def fail(*_, **__):
        raise StoreError("the disk is full")

    number = abandon(store, retry=1)
    write_request(home, number, request_of_this_process(home, store.get(number).spec, 0.0, "local"))
    if fails_in == "end_run":
        home.queued_request(number).unlink()  # so that there is no further attempt
    monkeypatch.setattr(store, fails_in, fail)
    mark_interrupted(store, store.supervised())
    assert store.get(number).ending.reason is EndReason.SUPERVISOR_DIED


# ---- of another machine ------------------------------------------------------------------------------------


def lose(store, silent_s, owner=ELSEWHERE):
    """A run of another machine that was not heard of for so long."""
    number = add_run(store).number
    store.begin_attempt(number, owner)
    advance(store, number, RunStatus.RUNNING)
    be_silent(store, silent_s)
    return number


def be_silent(store, seconds):
    store._session.execute("UPDATE leases SET heartbeat_at = heartbeat_at - ?", (seconds,))


@pytest.mark.parametrize("interval_s", [5.0, 0.1])
def test_a_run_of_another_machine_is_closed_once_its_supervisor_must_have_given_up(
    member, shared_store, interval_s
):
    member.config_file.write_text(f"[team]\nheartbeat = {interval_s}\n")
    number = lose(shared_store, TAKE_OVER_AFTER * interval_s - 5)
    shared_store.set_summaries(number, [Summary("loss", 1, 0, 1.5, 1.5, 1.5)])
    remove_tree(member.run_folder(number))  # where its metrics are, that machine knows
    mark_abandoned(shared_store)
    assert shared_store.get(number).status is RunStatus.RUNNING
    be_silent(shared_store, 10)
    mark_abandoned(shared_store)
    assert shared_store.get(number).ending.reason is EndReason.SUPERVISOR_DIED
    assert shared_store.summaries(number)["loss"].points == 1


def test_where_no_other_machine_uses_the_database_a_copied_run_of_one_is_let_alone(store):
    number = lose(store, 10**6)
    mark_interrupted(store, store.supervised())
    assert store.get(number).status is RunStatus.RUNNING


@pytest.mark.parametrize("moment", ["newest_attempt", "begin_attempt"])
def test_a_run_that_a_third_machine_takes_over_at_that_moment_is_let_alone(shared_store, monkeypatch, moment):
    number, act = lose(shared_store, 10**6), getattr(shared_store, moment)

    def take_over_meanwhile(*args, **options):
        monkeypatch.undo()
        expected = act(number) if moment == "newest_attempt" else None
        shared_store.begin_attempt(number, ANOTHER)
        return expected if moment == "newest_attempt" else act(*args, **options)

    monkeypatch.setattr(shared_store, moment, take_over_meanwhile)
    mark_interrupted(shared_store, shared_store.active())
    record = shared_store.get(number)
    assert (record.owner, record.status) == (ANOTHER, RunStatus.RUNNING)


def test_who_may_only_read_is_told_the_truth_of_it_too(shared_store, monkeypatch):
    def refuse(*_, **__):
        raise StoreError("permission denied")

    number = lose(shared_store, 10**6)
    monkeypatch.setattr(shared_store, "begin_attempt", refuse)
    mark_interrupted(shared_store, shared_store.active())
    assert shared_store.get(number).ending.message == "its supervisor died while the run was running"
