"""Runs on a Ray cluster of two nodes: carried out, stopped before they start, and lost with their node."""

import json
import os
import shlex
import shutil
import signal
import urllib.request
from contextlib import suppress

import pytest

from conjure.core.home import Home
from conjure.core.team_settings import objects_team, read_team
from conjure.python_api import Client, Run
from conjure.runs.artifacts.availability import shared_files
from conjure.runs.artifacts.uploads import upload
from conjure.runs.database.open_database import open_database
from conjure.runs.executors.ray import RayExecutor
from conjure.runs.host.process import descendants
from conjure.runs.maintenance.team import join
from conjure.runs.scheduling.scheduler_start import dispatcher_lock_path
from conjure.runs.schema.run_folder import LOG_FILE
from conjure.runs.schema.status import RunStatus
from support.casting import (
    UNTIL_GO,
    is_running,
    nap,
    release,
    supervisor_of,
    wait_for_lines,
    wait_until,
)
from support.ray_nodes import RayNodes
from support.repositories import read_files, write_files
from support.team_members import COUNTING, set_heartbeat
from support.terminal import conjure
from support.tuning import OPTIONS, tuning_inputs

SECRET = "hunter2-of-a-run"
TOKEN = "hunter2-of-the-cluster"
CORES = 3  # the head has one, the other node two


@pytest.fixture(scope="module")
def nodes(s3, extent):
    with RayNodes.running(s3.variables(), extent.cluster_heartbeat_s) as running:
        yield running


@pytest.fixture
def home(nodes, postgres, s3, home, folder, tmp_path, monkeypatch):
    """A laptop's home: of a team with an object store, which the nodes have joined."""
    for name, value in s3.variables().items():
        monkeypatch.setenv(name, value)
    succeed("team", "init", "--database", postgres.new_database(), "--objects", s3.new_address())
    define_executor(home, nodes, tmp_path)
    join_nodes(nodes, home)
    return home


@pytest.fixture
def shared_home(nodes, postgres, conjure_home, folder, tmp_path):
    """A home in a folder that the nodes share."""
    home = Home(conjure_home)
    succeed("team", "init", "--database", postgres.new_database())
    define_executor(home, nodes, tmp_path)
    return home


def define_executor(home, nodes, folder):
    token = folder / "token"
    token.write_text(TOKEN)
    home.config_file.write_text(
        f'[executors.gpu]\nkind = "ray"\naddress = "{nodes.address}"\ntoken_file = "{token}"\n'
        f"[team]\nheartbeat = {nodes.heartbeat_s}\n"
    )


def join_nodes(nodes, home):
    """Have the nodes join a team, each with a home of its own beside those of other tests' teams."""
    team = read_team(home)
    for node in nodes.homes:
        set_heartbeat(node, nodes.heartbeat_s)
        join(node.named(team.identity), team.database)


def replace_worker(nodes, home):
    nodes.replace_worker()
    join_nodes(nodes, home)


def succeed(*arguments):
    done = conjure(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def folders_on_nodes(nodes, run):
    """The run's folders on the nodes that have had an attempt at it."""
    identity = read_team(run.home).identity
    folders = [node.named(identity).runs / str(run.number) for node in nodes.homes]
    return [each for each in folders if each.is_dir()]


def folder_on_node(nodes, run):
    """The run's folder on the only node that has had it."""
    (found,) = folders_on_nodes(nodes, run)
    return found


def let_go(nodes, run):
    """Let a run's command go on that waits as `UNTIL_GO` does, on whichever node it is."""
    for folder in folders_on_nodes(nodes, run):
        (folder / "go").touch()


def outputs(run, tmp_path):
    """What the run made, as it comes to the machine that asked for it."""
    return read_files(run.cp(folder=tmp_path / f"outputs-{run.number}"))


def wait_for_attempt(run, number):
    def has_started():
        record = run.record
        return record.status is RunStatus.RUNNING and len(record.attempts) == number - 1 and list(run.logs())

    wait_until(has_started, f"attempt {number}")


def wait_for_checkpoint(run):
    """Wait until files of the run's first attempt are where the next one finds them."""
    with shared_files(run.home, objects_team(run.home)) as files:
        wait_until(lambda: files.newest_checkpoint(run.number, 9), "a checkpoint in the object store")


def jobs_of(home, nodes, run):
    executor = RayExecutor.named(home, "gpu")
    names = {
        job.id
        for attempt in range(1, 9)
        for job in executor.jobs_of(run.number, attempt, executor.cluster.jobs())
    }
    return [job for job in nodes.ask("/api/jobs/") if job["submission_id"] in names]


def occupy(nodes, tmp_path, cores):
    """Have jobs of somebody else's use the cores that are left, until the file ``free`` is there."""
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
    wait_until(lambda: not any(node.free.cpus for node in executor.cluster.nodes()), "busy cores")


def test_a_run_is_carried_out_there_as_here(client, home, nodes, folder, tmp_path):
    write_files(folder, {"code.sh": "cat given.txt data/a.txt; echo ${#API_KEY} > size.txt; env > env.txt"})
    write_files(tmp_path, {"given.txt": "given\n", "data/a.txt": "uploaded\n"})
    succeed("upload", "../data")
    mounts = ("-m", "../given.txt", "-m", "uploads/data")
    done = conjure("run", "--on", "gpu", *mounts, "-e", f"API_KEY={SECRET}", "sh code.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\ngiven\nuploaded\n" in done.stdout
    run = Run(home, 1)
    made = outputs(run, tmp_path)
    assert made["size.txt"] == f"{len(SECRET)}\n"
    assert "RAY_JOB_CONFIG" not in made["env.txt"]
    shown = json.loads(succeed("info", "1", "--json"))
    assert (shown["status"], shown["spec"]["on"]) == ("complete", "gpu")
    assert read_team(home).member not in shown["owner"]["host_id"]
    (job,) = jobs_of(home, nodes, run)
    assert job["submission_id"].endswith("-1-1")
    wait_until(lambda: jobs_of(home, nodes, run)[0]["status"] == "SUCCEEDED", "the end of the job")
    report = "python -c \"import conjure; conjure.log_metric('loss', 0.5, step=3)\"; exit 7"
    mounted = conjure("run", "--on", "gpu", "-m", "runs/1/size.txt", f"cat size.txt; {report}")
    assert (mounted.returncode, f"\n{len(SECRET)}\n" in mounted.stdout) == (7, True)
    assert "loss,3,0.5" in succeed("metrics", "2", "--csv")
    assert conjure("run", "--on", "gpu", "-b", "exit 3").returncode == 0
    assert conjure("wait", "3").returncode == 3
    # What is done is in the nodes' caches, which are bounded; nothing of it fills their disks.
    kept = [node.named(read_team(home).identity).runs for node in nodes.homes]
    assert [path.name for runs in kept if runs.is_dir() for path in runs.iterdir() if path.name == "1"] == []


def test_a_run_is_carried_out_in_a_home_on_a_shared_folder(shared_home, nodes):
    assert conjure("run", "--on", "gpu", "echo out; echo made > made.txt; exit 7").returncode == 7
    client = Client(shared_home.root)
    command = f"echo one >> kept.txt; echo ready; {UNTIL_GO}"
    run = client.run(command, on="gpu", retry=1, checkpoint=["kept.txt"])
    wait_for_attempt(run, 1)
    os.kill(supervisor_of(run).pid, signal.SIGKILL)
    wait_for_attempt(run, 2)
    release(run)
    run.wait(check=True)
    assert read_files(shared_home.run_folder(run.number) / "outputs") == {"kept.txt": "one\none\n"}


def test_no_secret_is_in_a_job_nor_in_what_stays(client, home, nodes, s3):
    run = client.run(f"echo ready; {UNTIL_GO}", env={"API_KEY": SECRET}, on="gpu")
    wait_for_attempt(run, 1)
    (job,) = jobs_of(home, nodes, run)
    with urllib.request.urlopen(f"{nodes.address}/api/jobs/{job['submission_id']}/logs") as answer:
        told = json.dumps(job) + answer.read().decode()
    assert read_team(home).database not in told
    on_node = folder_on_node(nodes, run)
    let_go(nodes, run)
    run.wait(check=True)
    with open_database(home) as store:
        assert store.request(run.number) is None
    told += succeed("info", str(run.number), "--json")
    with shared_files(home, objects_team(home)) as files:
        for name in files.objects.names("runs"):
            told += files.objects.get(name).decode()
    for secret in (SECRET, TOKEN, s3.secret):
        assert secret not in told
        assert not is_in_files(on_node.parent, secret)
        assert not is_in_files(home.root, secret)


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
    first = client.run(f"echo ready; {UNTIL_GO}", on="gpu")
    wait_for_attempt(first, 1)
    occupy(nodes, tmp_path, CORES - 1)
    runs = [client.run("true", on="gpu") for _ in range(3)]
    assert [run.status for run in runs] == [RunStatus.QUEUED] * 3
    let_go(nodes, first)
    started = [run.wait(check=True).record.facts.entered[RunStatus.BUILDING] for run in runs]
    (tmp_path / "free").touch()
    assert started == sorted(started)


def test_the_machine_that_asked_for_runs_may_go_away(client, home, nodes, tmp_path, monkeypatch):
    team = read_team(home)
    going = client.run(f"echo begun; {UNTIL_GO}; echo made > made.txt", on="gpu")
    wait_for_attempt(going, 1)
    occupy(nodes, tmp_path, CORES - 1)
    waiting = client.run("cat made.txt", mounts=[f"runs/{going.number}/made.txt"], on="gpu")
    lock = dispatcher_lock_path(home)
    wait_until(lock.read_text, "the dispatcher's start")
    os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
    on_node = folder_on_node(nodes, going)
    shutil.rmtree(home.root)  # it was switched off, and does not come back
    other = Home(tmp_path / "other")
    monkeypatch.setenv("CONJURE_HOME", str(other.root))
    succeed("team", "join", "--database", team.database)
    define_executor(other, nodes, tmp_path)
    (on_node / "go").touch()
    (tmp_path / "free").touch()
    succeed("ps")
    assert conjure("wait", str(waiting.number)).returncode == 0
    assert succeed("logs", str(going.number)) == "begun\n"
    assert succeed("logs", str(waiting.number)) == "made\n"


def test_a_killed_supervisor_is_followed_by_another_attempt(client, home, nodes, tmp_path):
    run = client.run(
        f"echo one >> kept.txt; echo ready; {UNTIL_GO}", on="gpu", retry=1, checkpoint=["kept.txt"]
    )
    wait_for_attempt(run, 1)
    wait_for_checkpoint(run)
    os.kill(supervisor_of(run).pid, signal.SIGKILL)
    wait_for_attempt(run, 2)
    let_go(nodes, run)
    run.wait(check=True)
    assert outputs(run, tmp_path) == {"kept.txt": "one\none\n"}
    assert sorted(job["submission_id"][-4:] for job in jobs_of(home, nodes, run)) == ["-1-1", "-1-2"]


def test_a_sweep_is_carried_out_there(client, home, nodes):
    report = "python -c \"import conjure; conjure.log_metric('loss', :x:, step=1)\""
    sweep = client.sweep(report, {"x": [3, 1]}, metric="loss", direction="minimize", run={"on": "gpu"})
    sweep.wait(check=True)
    assert [Run(home, trial.run).record.spec.on for trial in sweep.trials] == ["gpu", "gpu"]
    assert (sweep.best().params, sweep.best().value) == ({"x": "1"}, 1.0)


def test_a_run_is_stopped_and_saves(client, home, nodes, tmp_path):
    run = client.run(f"echo some > some.txt; echo ready; exec sleep {nap(88666)}", on="gpu", retry=3)
    wait_for_attempt(run, 1)
    run.stop().wait()
    assert (run.status, outputs(run, tmp_path)) == (RunStatus.STOPPED, {"some.txt": "some\n"})
    assert not is_running(nap(88666))


def test_a_job_that_is_stopped_stops_its_run(client, home, nodes, tmp_path):
    run = client.run(f"echo some > some.txt; echo ready; exec sleep {nap(88667)}", on="gpu")
    wait_for_attempt(run, 1)
    (job,) = jobs_of(home, nodes, run)
    RayExecutor.named(home, "gpu").cluster.stop(job["submission_id"])
    run.wait()
    assert (run.status, outputs(run, tmp_path)) == (RunStatus.STOPPED, {"some.txt": "some\n"})


def test_executors_are_listed_and_checked(client, home, nodes):
    assert "gpu" in succeed("executors")
    (found,) = json.loads(succeed("executors", "--json"))
    assert (found["nodes"], found["total"]["cpus"]) == (2, CORES)
    assert "runs can be executed on 2 nodes" in succeed("executors", "check", "gpu")
    team = read_team(home)
    shutil.rmtree(nodes.worker.home.named(team.identity).root)
    checked = conjure("executors", "check", "gpu")
    assert (checked.returncode, checked.stderr.count("on node")) == (1, 1)
    assert f"run `conjure team join --database {shlex.quote(team.database)}` there" in checked.stderr


def test_language_model_work_is_carried_out_there(client, home, nodes, tmp_path):
    done = conjure(
        *("generate", "--save", "--on", "gpu", "-d", "there", "-n", "2", "--max-new-tokens", "3", "My dog")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    client.score("My dog", run={"on": "gpu", "cpus": 1}).wait(check=True)
    generated, scored = Run(home, 1).record, Run(home, 2).record
    assert (generated.spec.kind, generated.spec.on, generated.spec.variables) == ("generate", "gpu", {})
    assert (scored.spec.kind, scored.spec.on, scored.spec.resources.cpus) == ("score", "gpu", 1)
    assert json.loads(outputs(Run(home, 2), tmp_path)["score.json"])["tokens"] > 0


def test_a_run_outlives_the_raylet(client, home, nodes, tmp_path):
    run = client.run(f"echo ready; {UNTIL_GO}; echo made > made.txt", on="gpu", cpus=2, retry=1)
    wait_for_attempt(run, 1)
    os.kill(nodes.worker.raylet().pid, signal.SIGKILL)
    nodes.wait_for_nodes(1)
    let_go(nodes, run)
    run.wait(check=True)
    assert (outputs(run, tmp_path), run.record.attempts) == ({"made.txt": "made\n"}, ())
    nodes.replace_worker()


def lose(nodes, run):
    """End a run's node with everything on it, at one stroke."""
    supervisor = supervisor_of(run)
    lost = [supervisor.parent, supervisor.pid, *(each.pid for each in descendants(supervisor.pid))]
    for pid in lost:  # halted first, so that none can do anything about the others' end
        os.kill(pid, signal.SIGSTOP)
    nodes.worker.kill()
    for pid in lost:
        with suppress(ProcessLookupError):  # the kernel ended the command with its supervisor
            os.kill(pid, signal.SIGKILL)


def test_a_fine_tune_whose_node_is_lost_repeats_the_unbroken_losses(client, home, nodes, tmp_path):
    data, model = tuning_inputs(tmp_path)
    upload(home, model, "base")
    options = OPTIONS | {"epochs": 2, "eval_every": 14, "save_every": 10, "split": "lines"}
    there = {"on": "gpu", "cpus": 2, "retry": 1}
    unbroken = client.finetune(data, model="uploads/base", run=there, **options).wait(check=True)
    struck = client.finetune(data, model="uploads/base", run=there, **options)
    wait_until(lambda: struck.record.status is RunStatus.RUNNING, "its start")
    work = folder_on_node(nodes, struck) / "work"
    wait_until((work / "output.training").is_dir, "the first save")
    for process in descendants(supervisor_of(struck).pid):  # so that it is not done before its node is lost
        os.kill(process.pid, signal.SIGSTOP)
    wait_for_checkpoint(struck)
    lose(nodes, struck)
    replace_worker(nodes, home)
    struck.wait(check=True)
    assert [each.end_reason for each in struck.record.attempts] == ["supervisor_died"]
    assert training_of(struck, tmp_path) == training_of(unbroken, tmp_path)
    assert steps(struck) == steps(unbroken) != set()


def steps(run):
    return {(point.name, point.step) for name in run.metrics() for point in run.metrics(name)}


def training_of(run, tmp_path):
    stored = json.loads(outputs(run, tmp_path)["output/training.json"])
    return stored["step"], stored["history"]["train"], stored["history"]["held_out"]


def test_runs_go_on_elsewhere_whatever_is_lost_of_a_cluster(client, home, nodes, extent, rng, tmp_path):
    for _ in range(extent.cluster_losses):
        what = rng.choice(["supervisor", "raylet", "node"])
        command = f"echo one >> kept.txt; echo ready; {UNTIL_GO}"
        run = client.run(command, on="gpu", cpus=2, retry=1, checkpoint=["kept.txt"])
        wait_for_attempt(run, 1)
        wait_for_checkpoint(run)
        if what == "supervisor":
            os.kill(supervisor_of(run).pid, signal.SIGKILL)
        elif what == "node":
            lose(nodes, run)
            replace_worker(nodes, home)
        else:
            os.kill(nodes.worker.raylet().pid, signal.SIGKILL)
            nodes.wait_for_nodes(1)
        lost = what != "raylet"
        if lost:
            wait_for_attempt(run, 2)
        let_go(nodes, run)
        run.wait(check=True)
        assert outputs(run, tmp_path) == {"kept.txt": "one\n" * (1 + lost)}
        assert [each.end_reason for each in run.record.attempts] == ["supervisor_died"] * lost
        if what == "raylet":
            replace_worker(nodes, home)


def test_a_model_on_this_machine_alone_is_refused(client, home, nodes, tmp_path):
    data, model = tuning_inputs(tmp_path)
    refused = conjure("finetune", "--on", "gpu", "--model", str(model), str(data))
    assert refused.returncode == 2
    assert f"--on gpu: {model} is on this machine, but not on the nodes" in refused.stderr
    assert json.loads(succeed("ps", "-a", "--json")) == []


def test_runs_go_on_when_the_head_is_gone(client, home, nodes, extent, tmp_path):
    run = client.run(f"echo ready; {COUNTING}; echo made > made.txt", on="gpu", cpus=2, retry=1)
    wait_for_attempt(run, 1)
    nodes.head.kill()
    refused = conjure("run", "--on", "gpu", "true")
    assert refused.returncode == 125
    assert "executor gpu cannot be reached" in refused.stderr
    wait_for_lines(folder_on_node(nodes, run) / LOG_FILE, extent.outage_s)
    assert run.status is RunStatus.RUNNING
    let_go(nodes, run)
    run.wait(check=True)
    assert (outputs(run, tmp_path), run.record.attempts) == ({"made.txt": "made\n"}, ())
