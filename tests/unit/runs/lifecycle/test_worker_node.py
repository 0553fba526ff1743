"""A part of a run on a node beside the first one: when there is nothing to do, and what is left of it."""

import shutil
import signal
import threading

import pytest

from conjure.errors import ExecutorError
from conjure.runs.code.code_store import reference
from conjure.runs.code.git import own_git
from conjure.runs.code.snapshot import snapshot
from conjure.runs.database.open_database import open_database
from conjure.runs.distributed.connection import accept, publish
from conjure.runs.distributed.node_coordinator import WorkerNodes
from conjure.runs.lifecycle import worker_node
from conjure.runs.lifecycle.submission import request_of_this_process
from conjure.runs.lifecycle.worker_node import _Part, main_on_worker_node
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.record import CodeFacts
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import Ending, EndReason
from support.casting import add_run
from support.repositories import write_files

LEADER = Owner("leader", "boot", 2, "2")


@pytest.fixture(autouse=True)
def keep_sigterm():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def worker_nodes():
    found = WorkerNodes(2, 1, join_within_s=10.0)
    yield found
    found.close()


@pytest.fixture
def number(store):
    """A run on two nodes whose first one has begun."""
    record = add_run(store, on="gpu", distributed=1, nodes=2)
    store.set_facts(record.number, code=CodeFacts(tree=""))
    request = request_of_this_process(store.home, record.spec, 0.0, "gpu")
    store.set_request(record.number, request.to_json())
    store.enqueue(record.number, Owner.queue_of_executor("gpu"))
    store.begin_attempt(record.number, LEADER)
    return record.number


def part_of(home, store, number, invitation):
    """What another node has of it."""
    folder = home.node_parts / f"{number}-1-1"
    folder.mkdir(parents=True)
    request = request_of_this_process(home, store.get(number).spec, 0.0, "gpu")
    return _Part(home, number, 1, 1, request, invitation, RunFolder(folder))


def test_a_part_whose_first_node_is_gone_starts_nothing(store, number, worker_nodes):
    worker_nodes.close()
    store.end_run(number, Ending(EndReason.SUPERVISOR_DIED))
    part_of(store.home, store, number, worker_nodes.invitation).supervise(lambda _: True)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_part_joins_the_first_node_and_leaves_nothing_when_that_ends(store, number, worker_nodes):
    part, joined = part_of(store.home, store, number, worker_nodes.invitation), []

    def lead():
        worker_nodes.wait()  # until it has all that the command needs
        joined.extend(worker_nodes.hosts)
        worker_nodes.close()

    thread = threading.Thread(target=lead)
    thread.start()
    part.supervise(lambda _: True)
    thread.join()
    assert len(joined) == 1
    assert not part.folder.path.exists()


def test_a_part_waits_for_a_first_node_that_cannot_be_reached_yet(store, number, worker_nodes, monkeypatch):
    """Its address may become known to a node only a moment after its invitation."""
    tries = []

    def accept_second(invitation):
        tries.append(invitation)
        return accept(invitation) if len(tries) == 2 else None

    monkeypatch.setattr(worker_node, "accept", accept_second)
    monkeypatch.setattr(worker_node, "_LOOK_EVERY_S", 0.0)
    leader = part_of(store.home, store, number, worker_nodes.invitation)._join()
    assert len(tries) == 2
    worker_nodes.close()
    leader.part()


def test_a_first_node_that_is_never_reached_is_told_with_its_address(
    store, number, worker_nodes, monkeypatch
):
    worker_nodes.close()
    monkeypatch.setattr(worker_node, "JOIN_WITHIN_S", 0.0)
    port = worker_nodes.invitation.port
    with pytest.raises(ExecutorError, match=f"^no connection to port {port} of "):
        part_of(store.home, store, number, worker_nodes.invitation).supervise(lambda _: True)


def test_a_job_that_is_invited_takes_its_part(store, number, worker_nodes, monkeypatch):
    taken = []

    def note(lock, _become):
        taken.extend(each.name for each in store.home.node_parts.iterdir())
        lock.release()

    monkeypatch.setattr(worker_node, "supervise_below", note)
    (store.home.node_parts / "9-1-1").mkdir(parents=True)  # of a supervisor that was killed
    publish(store, number, worker_nodes.invitation)
    main_on_worker_node(store.home, number, 1, 1)
    assert taken == [f"{number}-1-1"]


@pytest.mark.parametrize("meanwhile", ["ended", "another attempt"])
def test_a_job_that_comes_too_late_makes_nothing(store, number, worker_nodes, meanwhile):
    publish(store, number, worker_nodes.invitation)
    if meanwhile == "ended":
        store.end_run(number, Ending(EndReason.SUPERVISOR_DIED))
    else:
        store.begin_attempt(number, LEADER)
    main_on_worker_node(store.home, number, 1, 1)
    assert not store.home.node_parts.exists()


def test_a_job_of_another_try_leaves_the_part_to_the_one_that_was_invited(store, number):
    other = WorkerNodes(2, 1, "another job")
    publish(store, number, other.invitation)
    main_on_worker_node(store.home, number, 1, 1)
    assert not store.home.node_parts.exists()
    other.close()


@pytest.mark.parametrize("first_node_too", [False, True])
def test_the_code_that_a_node_fetched_for_a_part_is_let_go(member, worker_nodes, folder, first_node_too):
    write_files(folder, {"code.py": "print(1)\n"})
    with open_database(member) as store:
        number = add_run(store, on="gpu", distributed=1, nodes=2).number
        snapshot(member, folder, number=number)
        if not first_node_too:
            shutil.rmtree(member.run_folder(number))
        part = part_of(member, store, number, worker_nodes.invitation)
    part._remove_files()
    kept = own_git(member.code_repository)("for-each-ref", "--format=%(refname)").decode().split()
    assert kept == ([reference(number)] if first_node_too else [])
    assert not part.folder.path.exists()
