"""What is handed to a cluster of either kind, and what ends a run that is there: not the cluster alone."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from conjure.core.config import HEARTBEAT_EVERY_S
from conjure.errors import ExecutorError, UsageError
from conjure.runs.database.base import STOP
from conjure.runs.database.record_files import foreign_entries
from conjure.runs.executors import cluster_executor
from conjure.runs.executors.base import SupervisorState
from conjure.runs.executors.cluster_executor import ClusterExecutor
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.lifecycle import dispatcher
from conjure.runs.lifecycle.dispatcher import Refusals, poll_clusters
from conjure.runs.lifecycle.heartbeat import LOST_AFTER
from conjure.runs.lifecycle.submission import request_of_this_process
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.spec import ComputeRequest, RunSpec
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from support.casting import add_run, finish
from support.clusters import claim, job_of, queue_run

LOST_AFTER_S = LOST_AFTER * HEARTBEAT_EVERY_S


@pytest.fixture(params=["rest", "programs"], ids=["ray", "slurm"])
def cluster(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def executor(cluster, store):
    return ClusterExecutor(store.home, cluster.settings())


def test_runs_that_wait_for_others_and_for_their_time_are_not_handed_over(cluster, store, executor, clock):
    other = add_run(store).number
    waiting = queue_run(store, executor, after=(other,))
    retried = queue_run(store, executor, retry=3)
    claim(store, retried)
    died = Ending(EndReason.SUPERVISOR_DIED)
    store.retry_run(retried, died, executor.queue, host="node-7", delay_s=5.0)
    executor.submit_waiting(store)
    assert cluster.jobs == {}
    clock.now += 6
    executor.submit_waiting(store)
    assert list(cluster.jobs) == [job_of(executor, retried, 2)]
    assert store.get(waiting).waits_in_queue


def test_a_run_is_in_the_queue_though_nobody_can_remove_what_was_here(
    cluster, member, shared_store, monkeypatch
):
    executor = ClusterExecutor(member, cluster.settings())
    record = add_run(shared_store, on="gpu")
    lock, held = RunLock.take_if_free(member.run_folder(record.number)), []

    def refuse(folder):
        held.append(lock.descriptor)
        raise OSError(errno.EBUSY, "Device or resource busy", str(folder))

    monkeypatch.setattr(cluster_executor, "remove_tree", refuse)
    request = request_of_this_process(member, record.spec, 0.0, "gpu")
    with executor.prepare(record.number, lock, request) as start:
        start()
    assert held == [None]  # else NFS would keep what is open
    assert shared_store.get(record.number).waits_in_queue
    assert not (member.runs / str(record.number)).exists()
    assert foreign_entries(member.runs) == []
    assert list(cluster.jobs) == [job_of(executor, record.number)]


def test_a_run_that_is_claimed_meanwhile_gets_no_further_job(cluster, store, executor):
    number = queue_run(store, executor)
    claims = store.claims()
    claim(store, number)
    store.claims = lambda: claims  # as they were read a moment ago
    executor.submit_waiting(store)
    assert cluster.jobs == {}


def test_more_nodes_than_are_large_enough_are_refused(cluster, store, executor):
    asked = RunSpec(command=("true",), folder=Path("/"), on="gpu", distributed=2, nodes=2)
    with pytest.raises(UsageError, match=r"^nodes=2: executor gpu has only 1 node with 1 core$"):
        executor.refuse_impossible(asked)
    more = replace(asked, resources=ComputeRequest(cpus=64, memory_bytes=10**9))
    with pytest.raises(UsageError, match=r"has only 0 nodes with 64 cores and 1.0 GB of memory$"):
        executor.refuse_impossible(more)


def test_a_run_that_no_node_is_large_enough_for_is_refused(cluster, store, executor):
    asked = RunSpec(command=("true",), folder=Path("/"), on="gpu", resources=ComputeRequest(cpus=2))
    executor.refuse_impossible(asked)
    more = replace(asked, resources=ComputeRequest(cpus=64, memory_bytes=10**9))
    with pytest.raises(UsageError, match=r"^executor gpu has no node with 64 cores and 1.0 GB of memory$"):
        executor.refuse_impossible(more)
    cluster.set(nodes=[])
    executor.refuse_impossible(more)  # it waits for a node to come


def test_a_run_that_is_refused_is_in_nobodys_way(cluster, store, executor):
    refused, *others = (queue_run(store, executor, cpus) for cpus in (2, 1, 1))
    cluster.set(refuses=[job_of(executor, refused)])
    assert list(executor.submit_waiting(store).refused) == [refused]
    assert list(cluster.jobs) == [job_of(executor, number) for number in others]
    cluster.set(refuses=[])
    assert store.get(refused).waits_in_queue


def test_only_some_refused_runs_are_tried_at_a_look(cluster, store, executor):
    numbers = [queue_run(store, executor) for _ in range(12)]
    cluster.set(refuses=[job_of(executor, number) for number in numbers[:11]])
    assert list(executor.submit_waiting(store).refused) == numbers[:10]
    assert cluster.jobs == {}


def test_a_run_that_is_refused_for_long_ends_and_says_why(cluster, store, executor, monkeypatch):
    number, refusals = queue_run(store, executor), Refusals()
    cluster.set(refuses=[job_of(executor, number)])
    for _ in range(3):
        poll_clusters(store, [executor], refusals)
    assert store.get(number).waits_in_queue
    monkeypatch.setattr(dispatcher, "_REFUSED_FOR_S", 0.0)
    poll_clusters(store, [executor], refusals)
    record = store.get(number)
    assert record.status is RunStatus.BUILD_FAILED
    assert record.ending.message.startswith("executor gpu refused the request: ")


def test_a_refusal_that_is_withdrawn_is_forgotten(monkeypatch):
    refusals, refusal = Refusals(), ExecutorError("no")
    assert refusals.note("gpu", {7: refusal}) == []
    assert refusals.note("other", {}) == []
    monkeypatch.setattr(dispatcher, "_REFUSED_FOR_S", 1e-6)
    assert refusals.note("gpu", {7: refusal}) == [7]
    assert refusals.note("gpu", {}) == []
    monkeypatch.setattr(dispatcher, "_REFUSED_FOR_S", 60.0)
    assert refusals.note("gpu", {7: refusal}) == []


def test_a_lost_run_is_found_whatever_the_cluster_says_of_others(
    cluster, store, executor, clock, monkeypatch, capsys
):
    number = queue_run(store, executor)
    executor.submit_waiting(store)
    claim(store, number)
    cluster.lose(job_of(executor, number))
    clock.now += LOST_AFTER_S + 1

    def refuse(_):
        raise ExecutorError("it refuses")

    monkeypatch.setattr(executor, "submit_waiting", refuse)
    poll_clusters(store, [executor])
    assert store.get(number).status is RunStatus.INTERRUPTED
    queue_run(store, executor)
    poll_clusters(store, [executor])
    assert capsys.readouterr().err == "it refuses\n" * 2  # in the dispatcher's log


def test_a_stopped_run_is_never_started(cluster, store, executor):
    number = queue_run(store, executor)
    executor.submit_waiting(store)
    store.request_end(number, STOP)
    poll_clusters(store, [executor])
    assert store.get(number).status is RunStatus.STOPPED
    assert store.request(number) is None


def test_a_run_after_one_that_failed_is_never_started(cluster, store, executor):
    other = finish(store, add_run(store).number, Ending(EndReason.NONZERO_EXIT, 1)).number
    number = queue_run(store, executor, after=(other,))
    poll_clusters(store, [executor])
    record = store.get(number)
    assert (record.ending.reason, record.ending.message) == (
        EndReason.DEPENDENCY_FAILED,
        f"run {other} failed",
    )
    assert cluster.jobs == {}


def test_a_run_that_waits_for_another_cluster_is_left_to_it(cluster, store, executor):
    """This machine may not know that cluster, so it could not take a job of it back."""
    queue_run(store, executor)
    other = add_run(store, on="other").number
    store.enqueue(other, Owner.queue_of_executor("other"))
    store.request_end(other, STOP)
    poll_clusters(store, [executor])
    assert store.get(other).waits_in_queue


def test_a_job_that_ends_before_there_is_a_supervisor_is_tried_again_and_then_told(cluster, store, executor):
    number = queue_run(store, executor, retry=3)
    for end in ("", "-2", "-3"):
        executor.submit_waiting(store)
        cluster.fail(f"{job_of(executor, number)}{end}", 127)
    assert len(cluster.jobs) == 3
    poll_clusters(store, [executor])
    record = store.get(number)
    assert (record.status, record.attempts) == (RunStatus.BUILD_FAILED, ())
    assert record.ending.message.startswith("its supervisor did not start on gpu: ")


def test_a_cluster_that_does_not_answer_ends_nothing(cluster, store, executor, clock):
    running, queued = queue_run(store, executor), queue_run(store, executor)
    claim(store, running)
    cluster.set(is_up=False)
    clock.now += 10 * LOST_AFTER_S
    assert executor.state(running) is SupervisorState.UNKNOWN
    assert poll_clusters(store, [executor])
    assert store.get(running).status is RunStatus.RUNNING
    assert store.get(queued).waits_in_queue
    cluster.set(is_up=True)  # it was restarted, and remembers no job
    poll_clusters(store, [executor])
    assert store.get(running).status is RunStatus.RUNNING


@pytest.mark.parametrize("retry", [0, 1])
def test_a_run_is_lost_where_job_and_supervisor_are(cluster, store, executor, clock, retry):
    number = queue_run(store, executor, retry=retry)
    executor.submit_waiting(store)
    claim(store, number)
    cluster.lose(job_of(executor, number))
    poll_clusters(store, [executor])
    assert store.get(number).status is RunStatus.RUNNING  # the supervisor outlives its job
    clock.now += LOST_AFTER_S + 1
    poll_clusters(store, [executor])
    record = store.get(number)
    if not retry:
        assert record.status is RunStatus.INTERRUPTED
        return
    assert record.waits_in_queue
    assert [(each.host, each.end_reason) for each in record.attempts] == [("node-7", "supervisor_died")]
    clock.now += 10
    poll_clusters(store, [executor])
    assert job_of(executor, number, store.newest_attempt(number) + 1) in cluster.jobs


def test_a_silent_supervisor_whose_job_goes_on_is_waited_for(cluster, store, executor, clock):
    number = queue_run(store, executor)
    executor.submit_waiting(store)
    claim(store, number)
    cluster.begin(job_of(executor, number))
    clock.now += 3 * LOST_AFTER_S
    poll_clusters(store, [executor])
    assert store.get(number).status is RunStatus.RUNNING
