"""What Ray is told of a run, and what its answers mean."""

import socket
import threading
from dataclasses import replace

import pytest

from conjure.core.config import ExecutorSettings
from conjure.errors import ExecutorError
from conjure.runs.database.base import STOP
from conjure.runs.executors.cluster import UnreachableError
from conjure.runs.executors.cluster_check import survey
from conjure.runs.executors.cluster_executor import ClusterExecutor
from conjure.runs.executors.ray import RayCluster
from conjure.runs.lifecycle.dispatcher import Refusals, poll_clusters
from conjure.runs.schema.spec import ComputeRequest
from support.casting import add_run
from support.clusters import claim, job_of, queue_run
from support.ray_rest import RayRest


@pytest.fixture
def executor(rest, store):
    return ClusterExecutor(store.home, rest.settings())


def test_the_reason_why_no_job_starts_a_supervisor_is_told(rest, store, executor):
    number = queue_run(store, executor)
    executor.submit_waiting(store)
    rest.fail(job_of(executor, number), 127, "log:\nsh: conjure: not found\n")
    assert executor.why_hopeless(number, 1) == "its supervisor did not start on gpu: sh: conjure: not found"


def test_only_what_fits_now_is_handed_over_in_order(rest, store, executor):
    first, large, small = (queue_run(store, executor, cpus) for cpus in (1, 2, 1))
    executor.submit_waiting(store)
    assert list(rest.jobs) == [job_of(executor, first)]  # the small one does not overtake the large one
    executor.submit_waiting(store)
    assert len(rest.jobs) == 1
    claim(store, first)
    rest.complete(job_of(executor, first))
    store.request_end(large, STOP)
    executor.submit_waiting(store)
    assert list(rest.jobs)[1:] == [job_of(executor, small)]


@pytest.mark.parametrize("wanted", [{"cpus": 3}, {"cpus": 2, "distributed": 2, "nodes": 2}])
def test_a_run_whose_nodes_have_left_keeps_its_place_and_is_in_nobodys_way(
    rest, store, executor, capsys, wanted
):
    large, small, other = queue_run(store, executor, **wanted), *(queue_run(store, executor, 2) for _ in "12")
    refusals = Refusals()
    for _ in range(2):
        poll_clusters(store, [executor], refusals)
    assert list(rest.jobs) == [job_of(executor, small)]  # nobody overtakes the next one, which waits for room
    told = f"run {large}: executor gpu has too few nodes of its size now; it waits\n"
    assert capsys.readouterr().err == told  # in the dispatcher's log
    rest.nodes |= {name: {"CPU": [0.0, 3.0]} for name in "bc"}
    rest.nodes["a"] = {"CPU": [2.0, 2.0]}
    poll_clusters(store, [executor], refusals)
    rest.nodes = {}
    poll_clusters(store, [executor], refusals)
    assert job_of(executor, large) in rest.jobs
    assert store.get(other).waits_in_queue
    assert capsys.readouterr().err == ""


def test_a_job_names_run_attempt_and_home_and_what_it_takes(rest, store, executor):
    rest.nodes["a"]["GPU"] = [0.0, 4.0]
    needs = ComputeRequest(gpus=2, memory_bytes=1 << 30)
    number = add_run(store, on="gpu", resources=needs, variables={"API_KEY": "hunter2"}).number
    store.enqueue(number, executor.queue)
    executor.submit_waiting(store)
    assert rest.jobs[job_of(executor, number)] == {
        "submission_id": job_of(executor, number),
        "entrypoint": f"CONJURE_HOME={store.home.root} exec conjure supervise {number} 1",
        "entrypoint_num_cpus": 1.0,
        "entrypoint_num_gpus": 2.0,
        "entrypoint_memory": 1 << 30,
        "status": "PENDING",
        "message": "",
        "driver_exit_code": None,
    }


def test_a_run_on_several_nodes_is_handed_over_when_all_have_room(rest, store, executor):
    one = {"CPU": [0.0, 1.0]}
    rest.nodes = {"a": one, "b": {**one, "CPU": [1.0, 1.0]}}
    number = queue_run(store, executor, 1, distributed=1, nodes=2)
    executor.submit_waiting(store)
    assert rest.jobs == {}
    rest.nodes |= {"c": one}
    executor.submit_waiting(store)
    job, supervise = job_of(executor, number), f"CONJURE_HOME={store.home.root} exec conjure supervise"
    # The first node's is the last to go: where that fails, the run still waits, and is handed over again.
    assert [
        (name, told["entrypoint"], told["entrypoint_label_selector"]) for name, told in rest.jobs.items()
    ] == [
        (f"{job}-node2", f"{supervise} --node 1 {number} 1", {"ray.io/node-id": "c"}),
        (job, f"{supervise} {number} 1", {"ray.io/node-id": "a"}),
    ]
    assert [told.id for told in executor.jobs_of(number, 1, executor.cluster.jobs())] == [job]


def test_a_second_submission_of_a_job_changes_nothing(rest, store, executor):
    number = queue_run(store, executor)
    (waiting,) = store.claims()
    executor._submit(waiting, 1, {}, nodes=[], count=1)
    executor._submit(waiting, 1, {}, nodes=[], count=1)
    assert list(rest.jobs) == [job_of(executor, number)]


@pytest.fixture
def half_handed_over(rest, store, executor):
    """A run on two nodes; of its jobs, that for the first node did not arrive."""
    rest.nodes = {"a": {"CPU": [0.0, 1.0]}, "b": {"CPU": [0.0, 2.0]}}
    number = queue_run(store, executor, 1, distributed=1, nodes=2)
    job = job_of(executor, number)
    rest.fails = [job]
    with pytest.raises(UnreachableError):
        executor.submit_waiting(store)
    assert list(rest.jobs) == [f"{job}-node2"]
    rest.fails = []
    return job


def test_only_the_job_that_did_not_arrive_is_handed_over_again(rest, store, executor, half_handed_over):
    job = half_handed_over
    rest.begin(f"{job}-node2", "b")
    rest.nodes = {"a": {"CPU": [1.0, 1.0]}, "b": {"CPU": [1.0, 2.0]}}
    executor.submit_waiting(store)
    assert job not in rest.jobs  # there is room on the second node's machine alone
    rest.nodes = {"a": {"CPU": [0.0, 1.0]}, "b": {"CPU": [2.0, 2.0]}}
    executor.submit_waiting(store)
    assert list(rest.jobs) == [f"{job}-node2", job]
    assert rest.jobs[job]["entrypoint_label_selector"] == {"ray.io/node-id": "a"}


def test_a_job_for_a_worker_node_that_is_over_is_followed_by_another(rest, store, executor, half_handed_over):
    job = half_handed_over
    rest.complete(f"{job}-node2")
    executor.submit_waiting(store)
    assert list(rest.jobs) == [f"{job}-node2", f"{job}-node2-2", job]
    assert [told.id for told in executor.jobs_of(int(job.split("-")[-2]), 1, executor.cluster.jobs())] == [
        job
    ]


def test_the_token_is_sent(rest, tmp_path):
    file = tmp_path / "token"
    file.write_text("word\n")
    RayCluster(rest.settings(token_file=file)).jobs()
    assert rest.tokens == ["Bearer word"]


def test_the_token_is_sent_to_the_configured_address_alone(rest, tmp_path):
    file = tmp_path / "token"
    file.write_text("word\n")
    with RayRest.running() as other:
        rest.moved_to = other.address
        with pytest.raises(
            UnreachableError, match=f"it redirects to {other.address}/api/jobs/, which is not"
        ):
            RayCluster(rest.settings(token_file=file)).jobs()
        assert other.tokens == []


def test_what_does_not_speak_http_cannot_be_reached(rest):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=greet, args=(listener,))
        thread.start()
        port = listener.getsockname()[1]
        with pytest.raises(UnreachableError, match="executor gpu cannot be reached at"):
            RayCluster(replace(rest.settings(), address=f"http://127.0.0.1:{port}")).jobs()
        thread.join()
    with pytest.raises(UnreachableError, match="nonnumeric port: '8265x'"):
        RayCluster(replace(rest.settings(), address="http://127.0.0.1:8265x")).jobs()


def greet(listener):
    connected, _ = listener.accept()
    with connected:
        connected.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        connected.recv(1 << 16)


def test_what_a_cluster_has(rest):
    found = survey(rest.settings())
    assert (found.nodes, found.total.cpus, found.fault) == (1, 2.0, None)
    rest.is_up = False
    assert "executor gpu cannot be reached" in str(survey(rest.settings()).fault)
    with pytest.raises(UnreachableError):
        RayCluster(replace(rest.settings(), address="http://127.0.0.1:1")).nodes()
    with pytest.raises(ExecutorError):
        RayCluster(ExecutorSettings("gpu", "ray", "http://127.0.0.1:1")).jobs()
