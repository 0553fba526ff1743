"""A part of a run on a node beside the first one: when there is nothing to do, and what is left of it."""

import errno
import os
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from conjure.core.files import sha256_bytes
from conjure.errors import BuildError, ExecutorError
from conjure.runs.code.code_store import reference
from conjure.runs.code.git import own_git
from conjure.runs.code.snapshot import snapshot
from conjure.runs.database.open_database import open_database
from conjure.runs.distributed.connection import accept, publish
from conjure.runs.distributed.node_coordinator import WorkerNodes
from conjure.runs.environments.environment_build import Environment
from conjure.runs.executors.command import NotStartedError, Ranks
from conjure.runs.lifecycle import worker_node
from conjure.runs.lifecycle.command_environment import WorkingDirectory
from conjure.runs.lifecycle.submission import request_of_this_process
from conjure.runs.lifecycle.worker_node import _Part, main_on_worker_node
from conjure.runs.schema.argv import to_arguments
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.record import CodeFacts, MountFacts
from conjure.runs.schema.resource import KEPT_FILES
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


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        (NotStartedError("no such program: true", 127), 127, "no such program: true"),
        (BuildError("no such package"), 125, "no such package"),
        (OSError(errno.ENOSPC, "No space left on device"), 125, "No space left on device"),
    ],
)
def test_the_first_node_is_told_why_a_part_cannot_be_carried_out(
    store, number, worker_nodes, monkeypatch, error, exit_code, message
):
    def fail(*_):
        raise error

    part, told = part_of(store.home, store, number, worker_nodes.invitation), []
    leader = SimpleNamespace(send=lambda kind, **said: told.append((kind, said)), part=lambda: None)
    monkeypatch.setattr(worker_node._Part, "_join", lambda _: leader)
    monkeypatch.setattr(worker_node._Part, "_execute", fail)
    part.supervise(lambda _: True)
    assert told == [("not started", {"message": message, "exit_code": exit_code})]
    assert not part.folder.path.exists()


def test_a_job_that_its_cluster_ends_has_the_first_node_know(store, number, worker_nodes, monkeypatch):
    part, told = part_of(store.home, store, number, worker_nodes.invitation), []
    leader = SimpleNamespace(send=lambda kind: told.append((kind, leader.told_to_end)), part=lambda: None)
    leader.told_to_end = False
    monkeypatch.setattr(worker_node._Part, "_join", lambda _: leader)
    monkeypatch.setattr(worker_node._Part, "_execute", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    part.supervise(lambda _: True)
    assert told == [("ended", True)]


@pytest.mark.parametrize(
    ("meanwhile", "is_over"),
    [("goes on", False), ("ended", True), ("waits again", True), ("another attempt", True)],
)
def test_a_part_is_over_once_its_attempt_is(store, number, worker_nodes, meanwhile, is_over):
    if meanwhile == "ended":
        store.end_run(number, Ending(EndReason.SUPERVISOR_DIED))
    elif meanwhile == "waits again":
        store.enqueue(number, Owner.queue_of_executor("gpu"))
    elif meanwhile == "another attempt":
        store.begin_attempt(number, LEADER)
    assert part_of(store.home, store, number, worker_nodes.invitation)._is_over(store) == is_over


def test_a_command_on_another_node_works_in_the_runs_folder_and_reports_metrics_beside_it(
    store, number, worker_nodes
):
    """Those of the run are what the first process reports."""
    part = part_of(store.home, store, number, worker_nodes.invitation)
    environment = Environment("digest", Path("/e/bin/python"), Path("/e/bin"), {"conjure": "1"}, None)
    record = replace(store.get(number), code=CodeFacts("tree", "sub"))
    place = part._place(record)
    work = RunFolder.of(store.home, number).work
    assert place == WorkingDirectory(work, work / "sub")
    job = part._job(record, place, environment, "10.0.0.1")
    assert (job.arguments, job.folder) == (to_arguments(("true",)), work / "sub")
    assert job.variables["CONJURE_METRICS_FILE"] == str(part.folder.metrics)
    assert job.ranks == Ranks(1, node=1, nodes=2, address="10.0.0.1")


def test_a_node_with_a_disk_of_its_own_has_its_own_copy_of_what_the_command_needs(
    member, shared_store, worker_nodes
):
    record = add_run(shared_store, on="gpu", distributed=1, nodes=2, retry=1, checkpoint=("state/",))
    part = part_of(member, shared_store, record.number, worker_nodes.invitation)
    source = f"{KEPT_FILES}/{sha256_bytes(b'given')}/given.txt"
    write_files(member.root, {source: "given"})
    mount = MountFacts("given.txt", "given.txt", read_only=True, source=source)
    record = replace(record, code=CodeFacts(tree=""), mounts=(mount,))
    part._prepare_files(record)
    assert part._place(record).root == part.folder.work
    assert (part.folder.work / "given.txt").read_text() == "given"


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
