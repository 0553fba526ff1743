"""What is handed to a cluster, in which order; and what ends a run that is there: not the cluster alone."""

from dataclasses import replace

import pytest

from conjure.core.config import HEARTBEAT_EVERY_S, ExecutorSettings
from conjure.core.home import Home
from conjure.errors import ExecutorError
from conjure.runs.database.base import STOP
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.executors.base import SupervisorState
from conjure.runs.executors.ray import RayExecutor
from conjure.runs.executors.ray_check import survey
from conjure.runs.executors.ray_cluster import RayCluster, UnreachableError
from conjure.runs.lifecycle.dispatcher import poll_clusters
from conjure.runs.lifecycle.heartbeat import LOST_AFTER
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.spec import ComputeRequest
from conjure.runs.schema.status import PHASES, Ending, EndReason, RunStatus
from support.casting import add_run
from support.ray_rest import RayRest

LOST_AFTER_S = LOST_AFTER * HEARTBEAT_EVERY_S
NODE = Owner("a node", "boot", 7, "7", "node-7")


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def rest():
    with RayRest.running() as running:
        yield running


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    with SqliteDatabase.open(Home(tmp_path / "home"), clock=clock) as store:
        yield store


@pytest.fixture
def executor(rest, store):
    return RayExecutor(store.home, rest.settings())


def queue_run(store, executor, cpus=None, **spec):
    number = add_run(store, on="gpu", resources=ComputeRequest(cpus=cpus), **spec).number
    store.set_request(number, "{}")
    store.enqueue(number, executor.queue)
    return number


def claim(store, number):
    """Take a run over as its supervisor on a node would, and begin its command."""
    store.begin_attempt(number, NODE)
    for phase in PHASES[2:5]:
        store.move(number, phase)


def job_of(executor, number, attempt=1):
    return f"conjure-{executor._home_id()}-{number}-{attempt}"


def test_only_what_fits_now_is_handed_over_in_order(rest, store, executor):
    first, large, small = (queue_run(store, executor, cpus) for cpus in (1, 2, 1))
    executor.submit_waiting(store)
    assert list(rest.jobs) == [job_of(executor, first)]  # the small one does not overtake the large one
    executor.submit_waiting(store)
    assert len(rest.jobs) == 1
    claim(store, first)
    rest.end(job_of(executor, first), "SUCCEEDED", 0)
    store.request_end(large, STOP)
    executor.submit_waiting(store)
    assert list(rest.jobs)[1:] == [job_of(executor, small)]


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


def test_runs_that_wait_for_others_and_for_their_time_are_not_handed_over(rest, store, executor, clock):
    other = add_run(store).number
    waiting = queue_run(store, executor, after=(other,))
    retried = queue_run(store, executor, retry=3)
    claim(store, retried)
    died = Ending(EndReason.SUPERVISOR_DIED)
    store.retry_run(retried, died, executor.queue, host="node-7", delay_s=5.0)
    executor.submit_waiting(store)
    assert rest.jobs == {}
    clock.now += 6
    executor.submit_waiting(store)
    assert list(rest.jobs) == [job_of(executor, retried, 2)]
    assert store.get(waiting).waits_in_queue


def test_a_run_that_is_claimed_meanwhile_gets_no_further_job(rest, store, executor):
    number = queue_run(store, executor)
    claims = store.claims()
    claim(store, number)
    store.claims = lambda: claims  # as they were read a moment ago
    executor.submit_waiting(store)
    assert rest.jobs == {}


def test_a_stopped_run_is_never_started(rest, store, executor):
    number = queue_run(store, executor)
    executor.submit_waiting(store)
    store.request_end(number, STOP)
    poll_clusters(store, [executor])
    assert store.get(number).status is RunStatus.STOPPED
    assert store.request(number) is None


def test_a_job_that_ends_before_there_is_a_supervisor_is_tried_again_and_then_told(rest, store, executor):
    number = queue_run(store, executor, retry=3)
    for end in ("", "-2", "-3"):
        executor.submit_waiting(store)
        rest.end(f"{job_of(executor, number)}{end}", "FAILED", 127, "log:\nsh: conjure: not found\n")
    assert len(rest.jobs) == 3
    poll_clusters(store, [executor])
    record = store.get(number)
    assert (record.status, record.attempts) == (RunStatus.BUILD_FAILED, ())
    assert record.ending.message == "its supervisor did not start on gpu: sh: conjure: not found"


def test_a_cluster_that_does_not_answer_ends_nothing(rest, store, executor, clock):
    running, queued = queue_run(store, executor), queue_run(store, executor)
    claim(store, running)
    rest.is_up = False
    clock.now += 10 * LOST_AFTER_S
    assert executor.state(running) is SupervisorState.UNKNOWN
    assert poll_clusters(store, [executor])
    assert store.get(running).status is RunStatus.RUNNING
    assert store.get(queued).waits_in_queue
    rest.is_up = True  # it was restarted, and remembers no job
    poll_clusters(store, [executor])
    assert store.get(running).status is RunStatus.RUNNING


@pytest.mark.parametrize("retry", [0, 1])
def test_a_run_is_lost_where_job_and_supervisor_are(rest, store, executor, clock, retry):
    number = queue_run(store, executor, retry=retry)
    executor.submit_waiting(store)
    claim(store, number)
    rest.end(job_of(executor, number), "FAILED", message="the node died")
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
    assert job_of(executor, number, store.newest_attempt(number) + 1) in rest.jobs


def test_a_silent_supervisor_whose_job_goes_on_is_waited_for(rest, store, executor, clock):
    number = queue_run(store, executor)
    executor.submit_waiting(store)
    claim(store, number)
    rest.end(job_of(executor, number), "RUNNING")
    clock.now += 3 * LOST_AFTER_S
    poll_clusters(store, [executor])
    assert store.get(number).status is RunStatus.RUNNING


def test_a_second_submission_of_a_job_changes_nothing(rest, store, executor):
    number = queue_run(store, executor)
    (waiting,) = store.claims()
    executor._submit(waiting, 1, 0)
    executor._submit(waiting, 1, 0)
    assert list(rest.jobs) == [job_of(executor, number)]


def test_the_token_is_sent(rest, tmp_path):
    file = tmp_path / "token"
    file.write_text("word\n")
    RayCluster(rest.settings(token_file=file)).jobs()
    assert rest.tokens == ["Bearer word"]


def test_what_a_cluster_has(rest):
    found = survey(rest.settings())
    assert (found.nodes, found.total.cpus, found.fault) == (1, 2.0, None)
    rest.is_up = False
    assert "executor gpu cannot be reached" in str(survey(rest.settings()).fault)
    with pytest.raises(UnreachableError):
        RayCluster(replace(rest.settings(), address="http://127.0.0.1:1")).nodes()
    with pytest.raises(ExecutorError):
        RayCluster(ExecutorSettings("gpu", "ray", "http://127.0.0.1:1")).jobs()
