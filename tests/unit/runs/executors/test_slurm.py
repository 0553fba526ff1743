"""What Slurm is told of a run, and what its answers mean."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from conjure.core.team_settings import TeamSettings
from conjure.errors import UsageError
from conjure.runs.database.base import STOP
from conjure.runs.database.open_database import share
from conjure.runs.executors import cluster_check
from conjure.runs.executors.cluster import NOTHING, Amounts, JobState, UnreachableError
from conjure.runs.executors.cluster_check import check_nodes, survey
from conjure.runs.executors.cluster_executor import ClusterExecutor
from conjure.runs.executors.slurm import SlurmCluster
from conjure.runs.lifecycle import dispatcher
from conjure.runs.lifecycle.dispatcher import poll_clusters
from conjure.runs.schema.spec import ComputeRequest, RunSpec
from conjure.runs.schema.status import RunStatus
from support.casting import add_run
from support.clusters import job_of, queue_run

GIB = 1 << 30


@pytest.fixture
def executor(programs, store):
    return ClusterExecutor(store.home, programs.settings())


def test_what_fits_now_and_the_next_are_handed_over_in_order(programs, store, executor):
    first, large, small = (queue_run(store, executor, cpus) for cpus in (1, 2, 1))
    executor.submit_waiting(store)
    handed = [job_of(executor, number) for number in (first, large)]
    assert list(programs.jobs) == handed  # the large one takes its place in Slurm's queue
    programs.begin(handed[0])
    programs.set(nodes=[programs.node("a", "1/1/0/2")])
    executor.submit_waiting(store)
    assert list(programs.jobs) == handed  # and the small one does not overtake it
    programs.set(nodes=[programs.node("a", "0/2/0/2"), programs.node("b", "0/2/0/2")])
    executor.submit_waiting(store)
    assert list(programs.jobs) == [*handed, job_of(executor, small)]


def test_a_job_names_run_attempt_and_home_and_what_it_takes(programs, store, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    settings = programs.settings(partition="big", options=("--account=lm",), setup="module load uv")
    executor = ClusterExecutor(store.home, settings)
    needs = ComputeRequest(cpus=1.5, gpus=2, memory_bytes=GIB + 1)
    number = add_run(store, on="gpu", resources=needs, variables={"API_KEY": "hunter2"}).number
    store.enqueue(number, executor.queue)
    executor.submit_waiting(store)
    job = programs.jobs[job_of(executor, number)]
    assert job["options"] == [
        *("--account=lm", "--partition=big", "--gres=gpu:2", "--mem=1025M"),
        *("--export=NONE", "--propagate=NONE", "--no-requeue", f"--job-name={job_of(executor, number)}"),
        *("--chdir=/", "--input=/dev/null", "--output=/dev/null", "--error=/dev/null"),
        *("--nodes=1", "--ntasks=1", "--cpus-per-task=2", "--signal=B:TERM@120"),
    ]
    home = store.home.root
    supervise = f"CONJURE_HOME={home} exec conjure supervise {number} 1"
    assert job["script"] == f"#!/bin/bash\nmodule load uv\n{supervise}\n"
    assert "SLURM_JOB_ID" not in job["variables"]


def test_a_run_on_several_nodes_is_one_job_with_a_step_on_all_but_the_first(programs, store):
    executor = ClusterExecutor(store.home, programs.settings(setup="module load uv"))
    number = queue_run(store, executor, 2, distributed=1, nodes=3)
    executor.submit_waiting(store)  # it does not fit, and takes its place in Slurm's queue
    job = programs.jobs[job_of(executor, number)]
    assert {"--nodes=3", "--ntasks=3", "--cpus-per-task=2"} < set(job["options"])
    supervise = f"CONJURE_HOME={store.home.root} exec conjure supervise"
    others = "\n".join(
        [
            "module load uv",
            "case $SLURM_PROCID in",
            *(f"{place}) {supervise} --node {place + 1} {number} 1 ;;" for place in (0, 1)),
            "esac",
        ]
    )
    assert job["script"] == (
        "#!/bin/bash\nmodule load uv\nexport CONJURE_JOB=$SLURM_JOB_ID\n"
        "srun --relative=1 --nodes=2 --ntasks=2 --cpus-per-task=2 --export=ALL"
        f" bash -c '{others}' < /dev/null &\n{supervise} {number} 1\n"
    )


def test_a_job_of_a_stopped_run_is_taken_back_while_it_is_pending(programs, store, executor):
    stopped, asked, begun = (queue_run(store, executor) for _ in range(3))
    programs.set(nodes=[programs.node("a", "0/8/0/8")])
    executor.submit_waiting(store)
    programs.begin(job_of(executor, begun))
    for number in (asked, begun):
        store.request_end(number, STOP)
    poll_clusters(store, [executor])
    executor.end(stopped)
    assert [job["State"] for job in programs.jobs.values()] == ["CANCELLED", "CANCELLED", "RUNNING"]


def test_a_limit_of_the_account_leaves_the_run_waiting(programs, store, executor, monkeypatch):
    monkeypatch.setattr(dispatcher, "_REFUSED_FOR_S", 0.0)
    number = queue_run(store, executor)
    words = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    programs.set(refuses=[job_of(executor, number)], refusal=words)
    assert poll_clusters(store, [executor])
    assert store.get(number).status is RunStatus.QUEUED
    programs.set(refusal="Invalid account")
    assert poll_clusters(store, [executor])
    said = "executor gpu refused the request: sbatch: error: Batch job submission failed: Invalid account"
    assert store.get(number).ending.message == said


def test_a_large_run_that_is_refused_is_in_nobodys_way(programs, store, executor):
    large, small = (queue_run(store, executor, cpus) for cpus in (64, 1))
    programs.set(refuses=[job_of(executor, large)])
    assert list(executor.submit_waiting(store).refused) == [large]
    assert list(programs.jobs) == [job_of(executor, small)]


def test_what_a_cluster_has(programs):
    programs.set(
        nodes=[
            programs.node("a", "1/3/4/8", Gres="gpu:a100:2(S:0-1),gpu:4", GresUsed="gpu:a100:1(IDX:0),gpu:0"),
            programs.node("b", "0/2/0/2", StateLong="idle~", AllocMem="1024", Partition="other"),
            programs.node("b", "0/2/0/2", StateLong="idle~", AllocMem="1024"),
            *(programs.node("c", "0/2/0/2", StateLong=state) for state in ("down", "drained", "draining@")),
            programs.node("d", "0/2/0/2", Partition="other"),
        ]
    )
    found = survey(programs.settings())
    assert (found.nodes, found.fault) == (2, None)
    assert (found.total, found.free) == (Amounts(6.0, 6.0, 8 * GIB), Amounts(5.0, 5.0, 7 * GIB))
    assert len(SlurmCluster(programs.settings(partition="main")).nodes()) == 3
    programs.set(is_up=False)
    said = (
        "executor gpu cannot be reached: sinfo: error: Unable to contact slurm controller (connect failure)"
    )
    assert survey(programs.settings()).fault == said


@pytest.mark.parametrize("options", [("--partition=big",), ("--time=9", "-p", "big"), ("-pbig",)])
def test_the_nodes_of_a_partition_that_an_option_names_are_those_that_count(programs, store, options):
    programs.set(nodes=[programs.node("a", "0/2/0/2"), programs.node("b", "0/64/0/64", Partition="big")])
    asked = RunSpec(command=("true",), folder=Path("/"), on="gpu", resources=ComputeRequest(cpus=64))
    with pytest.raises(UsageError, match="executor gpu has no node with 64 cores"):
        ClusterExecutor(store.home, programs.settings()).refuse_impossible(asked)
    ClusterExecutor(store.home, programs.settings(options=options)).refuse_impossible(asked)


def check(home):
    home.create()
    home.config_file.write_text('[executors.gpu]\nkind = "slurm"\n')
    share(home, TeamSettings("postgresql://nobody@/none", "file:///none", "ada@host/1"))
    return check_nodes(home, "gpu")


def test_a_check_tells_what_is_missing(programs, home):
    programs.set(becomes={"State": "FAILED", "exit_code": 127 << 8})
    said = "on node a `conjure` is not on the PATH of jobs; `setup` in config.toml can put it there"
    assert check(home) == (1, [said])
    (job,) = programs.jobs.values()
    assert {"--nodelist=a", "--mem=256M", "--cpus-per-task=1"} < set(job["options"])


def test_a_check_finds_what_its_job_left_with_the_controller(programs, home):
    told = {"version": version("conjure"), "joined": True, "uv": "", "store": "its name is a|b"}
    programs.set(becomes={"State": "COMPLETED", "Comment": json.dumps(told)})
    assert check(home) == (1, ["on node a its name is a|b"])


def test_a_check_that_waits_for_too_long_is_taken_back(programs, home, monkeypatch):
    monkeypatch.setattr(cluster_check, "_PATIENCE_S", 1.0)
    assert check(home) == (1, ["on node a a job did not finish within 1.0s"])
    assert [job["State"] for job in programs.jobs.values()] == ["CANCELLED"]


def test_a_machine_without_slurm_is_told(programs, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UnreachableError, match="`squeue` is not on the PATH of this machine"):
        SlurmCluster(programs.settings()).jobs()


@pytest.mark.parametrize(
    ("state", "status", "expected"),
    [
        ("PENDING", 0, (JobState.PENDING, None)),
        ("CONFIGURING", 0, (JobState.RUNNING, None)),
        ("COMPLETING", 0, (JobState.RUNNING, None)),
        ("COMPLETED", 0, (JobState.OVER, 0)),
        ("FAILED", 3 << 8, (JobState.OVER, 3)),
        ("FAILED", 9, (JobState.OVER, -9)),
        ("CANCELLED", 15, (JobState.OVER, None)),
        ("NODE_FAIL", 0, (JobState.OVER, None)),
        ("TIMEOUT", 0, (JobState.OVER, None)),
        ("SOMETHING_NEW", 0, (JobState.RUNNING, None)),
    ],
)
def test_states_of_jobs(programs, state, status, expected):
    programs.set(becomes={"State": state, "exit_code": status})
    cluster = SlurmCluster(programs.settings())
    cluster.submit("job|1", "true", NOTHING)
    (job,) = cluster.jobs()
    assert (job.id, job.state, job.exit_code) == ("job|1", *expected)
