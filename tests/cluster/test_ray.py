"""Runs on a Ray cluster of two nodes: carried out, stopped before they start, and lost with their node."""

import json
import os
import signal
import urllib.request
from contextlib import suppress

import pytest

from conjure.core.home import Home
from conjure.python_api import Run
from conjure.runs.database.opening import open_database
from conjure.runs.executors.ray import RayExecutor
from conjure.runs.host.process import family
from conjure.runs.scheduling.scheduler_start import dispatcher_lock_path
from conjure.runs.schema.status import RunStatus
from support.casting import (
    UNTIL_GO,
    is_running,
    nap,
    outputs,
    release,
    supervisor_of,
    wait_until,
)
from support.ray_nodes import RayNodes
from support.terminal import conjure
from support.tuning import OPTIONS, tuning_inputs

SECRET = "hunter2-of-a-run"
TOKEN = "hunter2-of-the-cluster"
CORES = 3  # the head has one, the other node two


@pytest.fixture(scope="module")
def nodes():
    with RayNodes.running() as running:
        yield running


@pytest.fixture
def home(nodes, postgres, home, folder, tmp_path):
    succeed("team", "init", "--database", postgres.new_database())
    token = tmp_path / "token"
    token.write_text(TOKEN)
    home.config_file.write_text(
        f'[executors.gpu]\nkind = "ray"\naddress = "{nodes.address}"\ntoken_file = "{token}"\n'
    )
    return home


def succeed(*arguments):
    done = conjure(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_for_attempt(run, number):
    def has_started():
        record = run.record
        return record.status is RunStatus.RUNNING and len(record.attempts) == number - 1 and list(run.logs())

    wait_until(has_started, f"attempt {number}")


def jobs_of(home, nodes, run):
    executor = RayExecutor.named(home, "gpu")
    names = {
        job.id
        for attempt in range(1, 9)
        for job in executor.jobs_of(run.number, attempt, executor.cluster.jobs())
    }
    return [job for job in nodes.ask("/api/jobs/") if job["submission_id"] in names]


def occupy(nodes, tmp_path, cores):
    """Have jobs of somebody else's use so many cores until the file ``free`` is there."""
    for place in range(cores):
        body = {
            "submission_id": f"other-{tmp_path.name}-{place}",
            "entrypoint": f"while [ ! -e {tmp_path}/free ]; do sleep 0.1; done",
            "entrypoint_num_cpus": 1,
        }
        request = urllib.request.Request(
            f"{nodes.address}/api/jobs/", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=30).close()
    executor = RayExecutor.named(Home.from_environment(), "gpu")
    wait_until(
        lambda: sum(node.free.cpus for node in executor.cluster.nodes()) == CORES - cores, "busy cores"
    )


def test_a_run_is_carried_out_there_as_here(client, home, nodes):
    (home.root / "config.toml").chmod(0o600)
    done = conjure(
        "run",
        "--on",
        "gpu",
        "-e",
        f"API_KEY={SECRET}",
        "echo ${#API_KEY} > size.txt; env > env.txt; echo out",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nout\n" in done.stdout
    run = Run(home, 1)
    assert outputs(run)["size.txt"] == f"{len(SECRET)}\n"
    assert "RAY_JOB_CONFIG" not in outputs(run)["env.txt"]
    shown = json.loads(succeed("info", "1", "--json"))
    assert (shown["status"], shown["spec"]["on"], shown["owner"]["host_name"]) == (
        "complete",
        "gpu",
        os.uname().nodename,
    )
    (job,) = jobs_of(home, nodes, run)
    assert job["submission_id"].endswith("-1-1")
    wait_until(lambda: jobs_of(home, nodes, run)[0]["status"] == "SUCCEEDED", "the end of the job")
    assert conjure("run", "--on", "gpu", "exit 7").returncode == 7
    failed = conjure("run", "--on", "gpu", "-b", "exit 3")
    assert failed.returncode == 0
    assert conjure("wait", "3").returncode == 3


def test_no_secret_is_in_a_job_nor_in_what_stays(client, home, nodes, tmp_path):
    run = client.run(f"echo ready; {UNTIL_GO}", env={"API_KEY": SECRET}, on="gpu")
    wait_for_attempt(run, 1)
    (job,) = jobs_of(home, nodes, run)
    with urllib.request.urlopen(f"{nodes.address}/api/jobs/{job['submission_id']}/logs") as answer:
        told = json.dumps(job) + answer.read().decode()
    release(run)
    run.wait(check=True)
    with open_database(home) as store:
        assert store.request(run.number) is None
    told += (
        succeed("info", str(run.number), "--json") + (home.run_folder(run.number) / "run.json").read_text()
    )
    for secret in (SECRET, TOKEN):
        assert secret not in told
        assert not is_in_files(home.run_folder(run.number), secret)


def is_in_files(folder, text):
    return any(text.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_what_waits_for_room_never_starts_once_it_is_stopped(client, home, nodes, tmp_path):
    occupy(nodes, tmp_path, CORES)
    run = client.run(f"touch {tmp_path}/started", on="gpu")
    assert run.status is RunStatus.QUEUED
    assert jobs_of(home, nodes, run) == []
    handed = client.run(f"touch {tmp_path}/started", on="gpu")
    executor = RayExecutor.named(home, "gpu")
    with open_database(home) as store:  # as if the cores had been free when we looked
        (claim,) = [claim for claim in store.claims() if claim.number == handed.number]
        executor._submit(claim, 1, 0)
    assert jobs_of(home, nodes, handed)[0]["status"] == "PENDING"
    for each in (run, handed):
        each.stop()
        assert each.status is RunStatus.STOPPED
    (tmp_path / "free").touch()
    wait_until(lambda: jobs_of(home, nodes, handed)[0]["status"] == "SUCCEEDED", "the end of the job")
    assert not (tmp_path / "started").exists()


def test_runs_wait_for_room_in_their_order(client, home, nodes, tmp_path):
    occupy(nodes, tmp_path, CORES)
    runs = [client.run("true", on="gpu") for _ in range(3)]
    (tmp_path / "free").touch()
    started = [run.wait(check=True).record.facts.entered[RunStatus.BUILDING] for run in runs]
    assert started[2] > started[0]


def test_what_waits_is_handed_over_by_whoever_is_there(client, home, nodes, tmp_path):
    occupy(nodes, tmp_path, CORES)
    run = client.run("true", on="gpu")
    lock = dispatcher_lock_path(home)
    wait_until(lock.read_text, "the dispatcher's start")
    os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)  # its machine was switched off
    (tmp_path / "free").touch()
    succeed("ps")  # on another machine that knows the cluster
    with open_database(home) as store:
        wait_until(lambda: store.get(run.number).status is RunStatus.COMPLETE, "the run")


def test_a_killed_supervisor_is_followed_by_another_attempt(client, home, nodes):
    run = client.run(
        f"echo one >> kept.txt; echo ready; {UNTIL_GO}", on="gpu", retry=1, checkpoint=["kept.txt"]
    )
    wait_for_attempt(run, 1)
    os.kill(supervisor_of(run).pid, signal.SIGKILL)
    wait_for_attempt(run, 2)
    release(run)
    run.wait(check=True)
    assert outputs(run) == {"kept.txt": "one\none\n"}
    assert sorted(job["submission_id"][-4:] for job in jobs_of(home, nodes, run)) == ["-1-1", "-1-2"]


def test_a_run_is_stopped_and_saves(client, home, nodes):
    run = client.run(f"echo some > some.txt; echo ready; exec sleep {nap(88666)}", on="gpu", retry=3)
    wait_for_attempt(run, 1)
    run.stop()
    run.wait()
    assert (run.status, outputs(run)) == (RunStatus.STOPPED, {"some.txt": "some\n"})
    assert not is_running(nap(88666))


def test_a_job_that_is_stopped_stops_its_run(client, home, nodes):
    run = client.run(f"echo some > some.txt; echo ready; exec sleep {nap(88667)}", on="gpu")
    wait_for_attempt(run, 1)
    (job,) = jobs_of(home, nodes, run)
    RayExecutor.named(home, "gpu").cluster.stop(job["submission_id"])
    run.wait()
    assert (run.status, outputs(run)) == (RunStatus.STOPPED, {"some.txt": "some\n"})


def test_executors_are_listed_and_checked(client, home, nodes, monkeypatch):
    assert "gpu" in succeed("executors")
    (found,) = json.loads(succeed("executors", "--json"))
    assert (found["nodes"], found["total"]["cpus"]) == (2, CORES)
    assert "runs can be executed on 2 nodes" in succeed("executors", "check", "gpu")


def test_language_model_work_is_carried_out_there(client, home, nodes):
    done = conjure(
        *("generate", "--save", "--on", "gpu", "-d", "there", "-n", "2", "--max-new-tokens", "3", "My dog")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    client.score("My dog", run={"on": "gpu", "cpus": 1}).wait(check=True)
    generated, scored = Run(home, 1).record, Run(home, 2).record
    assert (generated.spec.kind, generated.spec.on, generated.spec.variables) == ("generate", "gpu", {})
    assert (scored.spec.kind, scored.spec.on, scored.spec.resources.cpus) == ("score", "gpu", 1)
    assert json.loads(outputs(Run(home, 2))["score.json"])["tokens"] > 0


def test_a_run_outlives_the_raylet(client, home, nodes):
    run = client.run(f"echo ready; {UNTIL_GO}; echo made > made.txt", on="gpu", cpus=2, retry=1)
    wait_for_attempt(run, 1)
    os.kill(nodes.worker.raylet().pid, signal.SIGKILL)
    nodes.wait_for_nodes(1)
    release(run)
    run.wait(check=True)
    assert (outputs(run), run.record.attempts) == ({"made.txt": "made\n"}, ())
    nodes.replace_worker()


def lose(nodes, run):
    """End a run's node with everything on it, at one stroke."""
    supervisor = supervisor_of(run)
    lost = [supervisor.parent, supervisor.pid, *(each.pid for each in family(supervisor.pid))]
    for pid in lost:  # halted first, so that none can do anything about the others' end
        os.kill(pid, signal.SIGSTOP)
    nodes.worker.kill()
    for pid in lost:
        with suppress(ProcessLookupError):  # the kernel ended the command with its supervisor
            os.kill(pid, signal.SIGKILL)


def test_a_run_whose_node_is_lost_goes_on_at_another(client, home, nodes):
    command = f"echo one >> kept.txt; echo ready; {UNTIL_GO}"
    run = client.run(command, on="gpu", cpus=2, retry=1, checkpoint=["kept.txt"])
    wait_for_attempt(run, 1)
    lose(nodes, run)
    wait_until(lambda: run.record.attempts, "the end of the first attempt")
    nodes.replace_worker()
    wait_for_attempt(run, 2)
    release(run)
    run.wait(check=True)
    assert outputs(run) == {"kept.txt": "one\none\n"}


def test_a_fine_tune_whose_node_is_lost_repeats_the_unbroken_losses(client, home, nodes, tmp_path):
    data, model = tuning_inputs(tmp_path)
    options = OPTIONS | {"epochs": 2, "eval_every": 14, "save_every": 10, "split": "lines"}
    there = {"on": "gpu", "cpus": 2, "retry": 1}
    unbroken = client.finetune(data, model=model, run=there, **options).wait(check=True)
    struck = client.finetune(data, model=model, run=there, **options)
    work = home.run_folder(struck.number) / "work"
    wait_until((work / "output.training").is_dir, "the first save")
    lose(nodes, struck)
    nodes.replace_worker()
    struck.wait(check=True)
    assert len(struck.record.attempts) == 1
    assert losses(struck) == losses(unbroken)


def losses(run):
    stored = json.loads((run.home.run_folder(run.number) / "outputs/output/training.json").read_text())
    return stored["step"], stored["history"]["train"], stored["history"]["held_out"]


def test_runs_go_on_when_the_head_is_gone(client, home, nodes):
    run = client.run(f"echo ready; {UNTIL_GO}; echo made > made.txt", on="gpu", cpus=2, retry=1)
    wait_for_attempt(run, 1)
    nodes.head.kill()
    refused = conjure("run", "--on", "gpu", "true")
    assert refused.returncode == 125
    assert "executor gpu cannot be reached" in refused.stderr
    assert run.status is RunStatus.RUNNING
    release(run)
    run.wait(check=True)
    assert (outputs(run), run.record.attempts) == ({"made.txt": "made\n"}, ())
