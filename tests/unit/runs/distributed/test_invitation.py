"""How the nodes of a run find one another: an invitation with what the run's supervisors are given."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from conjure.core.files import lock_or_close
from conjure.core.home import Home
from conjure.errors import ConjureError
from conjure.runs.database.base import DatabaseAwayError
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.distributed.connection import Invitation, accept, find_invitation, publish
from conjure.runs.executors.cluster import JOB_VARIABLE
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.executors.supervisor_request import SupervisorRequest
from conjure.runs.host.process import this_process
from conjure.runs.lifecycle import first_node, heartbeat, worker_node
from conjure.runs.lifecycle.submission import request_of_this_process
from conjure.runs.lifecycle.worker_node import main_on_worker_node
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.status import Ending, EndReason
from support.casting import add_run

INVITATION = Invitation(1, "", "a host", ("192.0.2.1",), 9, "hunter2")


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def store(home):
    with SqliteDatabase.open(home) as store:
        yield store


@pytest.fixture
def number(home, store):
    """A run whose supervisor has begun the first attempt."""
    record = add_run(store, on="gpu", distributed=1, nodes=2)
    request = request_of_this_process(home, record.spec, 0.0, "gpu")
    store.set_request(record.number, request.to_json())
    store.enqueue(record.number, Owner.queue_of_executor("gpu"))
    store.begin_attempt(record.number, this_process(home))
    return record.number


def test_an_invitation_is_found_with_the_request_by_its_attempt(store, number):
    assert find_invitation(store.request(number), 1) is None
    before = SupervisorRequest.from_json(store.request(number))
    publish(store, number, INVITATION)
    assert find_invitation(store.request(number), 1) == INVITATION
    assert find_invitation(store.request(number), 2) is None
    assert SupervisorRequest.from_json(store.request(number)) == before
    later = replace(INVITATION, attempt=2)
    publish(store, number, later)
    assert find_invitation(store.request(number), 2) == later


def test_nothing_is_published_of_a_run_that_has_ended(store, number):
    store.end_run(number, Ending(EndReason.KILL_REQUESTED))
    publish(store, number, INVITATION)
    assert store.request(number) is None


def test_nobody_at_an_address_is_no_connection():
    assert accept(replace(INVITATION, addresses=("127.0.0.1",))) is None


def test_a_worker_node_does_nothing_for_an_attempt_that_is_over(home, store, number):
    store.begin_attempt(number, this_process(home))
    main_on_worker_node(home, number, 1, 1)
    store.end_run(number, Ending(EndReason.KILL_REQUESTED))
    main_on_worker_node(home, number, 2, 1)
    assert not home.node_parts.exists()


def test_a_worker_node_of_another_job_does_nothing(home, store, number, monkeypatch):
    monkeypatch.setenv(JOB_VARIABLE, "8")
    publish(store, number, replace(INVITATION, job="7"))
    main_on_worker_node(home, number, 1, 1)
    assert not home.node_parts.exists()


def test_a_worker_node_does_not_wait_for_ever_for_an_invitation(home, store, number, monkeypatch):
    monkeypatch.setattr(worker_node, "JOIN_WITHIN_S", 0.0)
    main_on_worker_node(home, number, 1, 1)
    assert not home.node_parts.exists()


def test_what_a_killed_part_left_is_removed_and_a_part_whose_attempt_is_over_goes(home, store, number):
    publish(store, number, replace(INVITATION, addresses=("127.0.0.1",)))
    left = home.node_parts / "7-1-1"
    left.mkdir(parents=True)
    found = worker_node._wait_for_invitation(home, number, 1)
    folder = worker_node.RunFolder(home.node_parts / f"{number}-1-1")
    part = worker_node._Part(home, number, 1, 1, *found, folder)
    store.enqueue(number, Owner.queue_of_executor("gpu"))  # the first node was lost, and the run waits again
    assert part._join() is None
    first_node.tidy_part_folders(home)
    assert not left.exists()


def test_parts_are_made_and_removed_one_after_the_other(home, monkeypatch):
    """Other nodes may share the home: a folder that is made is in nobody's possession for a moment."""
    create, seen = RunLock.create, []

    def note_whether_locked(_):
        descriptor = os.open(home.node_parts_lock, os.O_RDONLY)
        is_free = lock_or_close(descriptor)
        if is_free:
            os.close(descriptor)
        seen.append(not is_free)

    monkeypatch.setattr(first_node, "remove_tree", note_whether_locked)
    monkeypatch.setattr(RunLock, "create", lambda folder: note_whether_locked(folder) or create(folder))
    (home.node_parts / "8-1-1").mkdir(parents=True)
    first_node.create_part_folder(home, "7-1-1").release()
    assert seen == [True, True]
    with pytest.raises(FileExistsError):
        first_node.create_part_folder(home, "7-1-1")


@pytest.fixture
def waiting(home, store):
    """A run that waits in its queue."""
    record = add_run(store, on="gpu", distributed=1, nodes=2)
    store.set_request(record.number, request_of_this_process(home, record.spec, 0.0, "gpu").to_json())
    store.enqueue(record.number, Owner.queue_of_executor("gpu"))
    return record.number


def test_a_worker_node_waits_while_the_first_ones_job_is_still_to_start(home, waiting, monkeypatch):
    monkeypatch.setattr(worker_node, "JOIN_WITHIN_S", 0.1)
    monkeypatch.setattr(worker_node, "_LOOK_EVERY_S", 0.04)
    found = iter([None] * 10)
    monkeypatch.setattr(worker_node, "find_invitation", lambda *_: next(found, INVITATION))
    _, invitation = worker_node._wait_for_invitation(home, waiting, 1)
    assert invitation == INVITATION


class AwayOnce:
    """Opens a database that cannot be reached at first."""

    def __init__(self, monkeypatch, module):
        self.tries = 0
        monkeypatch.setattr(module, "open_database", self)
        monkeypatch.setattr(heartbeat, "_TRY_EVERY_S", 0.0)

    def __call__(self, home, **_):
        self.tries += 1
        if self.tries == 1:
            raise DatabaseAwayError("it is away")
        return SqliteDatabase.open(home)


def test_a_job_for_the_first_node_waits_for_the_database(home, number, monkeypatch):
    opened = AwayOnce(monkeypatch, first_node)
    first_node.main_on_first_node(home, number, 1)  # the attempt has begun, so there is nothing to do
    assert opened.tries == 2


@pytest.mark.parametrize("is_there", [True, False])
def test_a_part_waits_for_the_database_as_long_as_there_is_a_first_node(home, number, monkeypatch, is_there):
    def found(_part, record):
        raise ConjureError(f"run {record.number} was read")

    opened = AwayOnce(monkeypatch, worker_node)
    monkeypatch.setattr(worker_node._Part, "_place", found)
    folder = worker_node.RunFolder(home.node_parts / f"{number}-1-1")
    part = worker_node._Part(home, number, 1, 1, None, INVITATION, folder)
    leader = SimpleNamespace(has_ended=lambda: not is_there)
    with pytest.raises(ConjureError if is_there else worker_node._LeaderLostError):
        part._execute(leader, lambda _: False)
    assert opened.tries == (2 if is_there else 1)
