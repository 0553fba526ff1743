"""Runs on a Ray cluster of two nodes: what every cluster must do, and what is lost of this one."""

import json
import os
import signal
from contextlib import suppress

import pytest

from conjure.core.team_settings import read_team
from conjure.python_api import Client, Run
from conjure.runs.artifacts.uploads import upload
from conjure.runs.host.process import descendants
from conjure.runs.schema.run_folder import LOG_FILE
from conjure.runs.schema.status import RunStatus
from support.casting import (
    UNTIL_GO,
    is_running,
    nap,
    supervisor_of,
    wait_for_lines,
    wait_until,
)
from support.cluster_contract import *  # noqa: F403
from support.cluster_contract import (
    CORES,
    define_executor,
    folder_on_node,
    jobs_of,
    join_nodes,
    let_go,
    lose_second_node,
    outputs,
    processes_of_second_node,
    succeed,
    wait_for_attempt,
    wait_for_checkpoint,
)
from support.ray_nodes import RayNodes
from support.team_members import COUNTING
from support.terminal import conjure
from support.tuning import OPTIONS, tuning_inputs


@pytest.fixture(scope="module")
def nodes(s3, extent):
    with RayNodes.running(s3.variables(), extent.cluster_heartbeat_s) as running:
        yield running


def replace_worker(nodes, home):
    nodes.replace_worker()
    join_nodes(nodes, home)


def test_runs_wait_for_room_in_their_order(client, home, nodes, occupy):
    first = client.run(f"echo ready; {UNTIL_GO}", on="gpu")
    wait_for_attempt(first, 1)
    occupy(CORES - 1)
    runs = [client.run("true", on="gpu") for _ in range(3)]
    assert [run.status for run in runs] == [RunStatus.QUEUED] * 3
    let_go(nodes, first)
    started = [run.wait(check=True).record.facts.entered[RunStatus.BUILDING] for run in runs]
    assert started == sorted(started)


def test_a_node_carries_out_what_was_asked_for_and_is_followed_there(home, nodes, tmp_path):
    own = nodes.worker.home.named(read_team(home).identity)
    define_executor(own, nodes, tmp_path)
    run = Client(own.root).run(f"echo begun; {UNTIL_GO}; echo gone; echo > made.txt", on="gpu", cpus=2)
    printed = run.logs(follow=True)
    assert next(printed) == "begun"
    (own.runs / str(run.number) / "go").touch()
    assert list(printed) == ["gone"]
    run.wait(check=True)
    assert outputs(run, tmp_path) == {"made.txt": "\n"}


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
    assert sorted(job.id[-4:] for job in jobs_of(home, run)) == ["-1-1", "-1-2"]


def test_a_sweep_is_carried_out_there(client, home, nodes):
    report = "python -c \"import conjure; conjure.log_metric('loss', :x:, step=1)\""
    sweep = client.sweep(report, {"x": [3, 1]}, metric="loss", direction="minimize", run={"on": "gpu"})
    sweep.wait(check=True)
    assert [Run(home, trial.run).record.spec.on for trial in sweep.trials] == ["gpu", "gpu"]
    assert (sweep.best().params, sweep.best().value) == ({"x": "1"}, 1.0)


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


def test_a_fine_tune_on_two_nodes_has_the_losses_of_one_even_if_one_is_lost(client, home, nodes, tmp_path):
    data, model = tuning_inputs(tmp_path)
    upload(home, model, "base")
    options = OPTIONS | {"epochs": 3, "eval_every": 14, "save_every": 10, "split": "lines", "dropout": 0.1}
    options |= {"model": "uploads/base", "distributed": 1}  # two processes of one machine: tests/story
    struck = client.finetune(data, nodes=2, run={"on": "gpu", "retry": 1}, **options)
    alone = client.finetune(data, run={"cpus": 1}, **options)
    wait_until(lambda: struck.record.status is RunStatus.RUNNING, "its start")
    work = folder_on_node(nodes, struck) / "work"
    wait_until((work / "output.training").is_dir, "the first save")
    first, second = descendants(supervisor_of(struck).pid), processes_of_second_node(nodes, struck)[2:]
    for pid in (*(process.pid for process in first), *second):  # so that it is not done too soon
        os.kill(pid, signal.SIGSTOP)
    wait_for_checkpoint(struck)
    lose_second_node(nodes, struck)
    struck.wait(check=True)
    assert [each.end_reason for each in struck.record.attempts] == ["supervisor_died"]
    assert training_of(struck, tmp_path) == training_of(alone.wait(check=True), tmp_path)
    assert any(line.startswith("Machine  2 processes on 2 nodes of 1 thread") for line in struck.logs())


def test_a_stopped_job_of_the_second_node_stops_the_run_on_both(client, home, nodes):
    run = client.run(f"echo ready; exec sleep {nap(88669)}", on="gpu", nodes=2, distributed=1)
    wait_for_attempt(run, 1)
    (job,) = jobs_of(home, run)
    nodes.stop_job(f"{job.id}-node2")
    assert run.wait().status is RunStatus.STOPPED
    assert not is_running(nap(88669))


def test_more_nodes_than_there_are_are_refused(client, home, nodes):
    for asked, words in (
        (("--nodes", "3"), "--nodes 3: executor gpu has only 2 nodes with 1 core"),
        (("--nodes", "2", "--cpus", "2"), "--nodes 2: executor gpu has only 1 node with 2 cores"),
    ):
        refused = conjure("run", "--on", "gpu", "--distributed", "1", *asked, "true")
        assert (refused.returncode, words in refused.stderr) == (125, True), refused.stderr
    assert json.loads(succeed("ps", "-a", "--json")) == []


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
