"""Runs on a Slurm cluster of two nodes: what every cluster must do, and what is lost of this one."""

import json

import pytest

from conjure.runs.schema.run_folder import LOG_FILE
from conjure.runs.schema.status import RunStatus
from support.casting import UNTIL_GO, wait_for_lines
from support.cluster_contract import *  # noqa: F403
from support.cluster_contract import (
    CORES,
    folder_on_node,
    folders_on_nodes,
    jobs_of,
    join_nodes,
    let_go,
    outputs,
    succeed,
    wait_for_attempt,
    wait_for_checkpoint,
)
from support.slurm_nodes import SlurmNodes
from support.team_members import COUNTING
from support.terminal import conjure


@pytest.fixture(scope="module")
def nodes(s3, extent):
    with SlurmNodes.running(s3.variables(), extent.cluster_heartbeat_s) as running:
        yield running


def test_a_run_asks_for_gpus_and_is_given_them(client, home, nodes):
    run = client.run("echo $CUDA_VISIBLE_DEVICES", on="gpu", gpus=1, memory="200MB").wait(check=True)
    assert list(run.logs()) == ["0"]
    (found,) = json.loads(succeed("executors", "--json"))
    assert (found["kind"], found["total"]["gpus"], found["fault"]) == ("slurm", 2, None)
    asked = {"on": "gpu", "gpus": 1}  # which this machine has not
    report = "python -c \"import conjure; conjure.log_metric('loss', :x:, step=1)\""
    sweep = client.sweep(report, {"x": [2]}, metric="loss", direction="minimize", run=asked)
    sweep.wait(check=True)
    assert [trial.status for trial in sweep.trials] == ["complete"]


def test_a_job_of_a_stopped_run_leaves_the_queue(client, home, nodes, occupy):
    occupy(CORES)
    run = client.run("true", on="gpu")
    (job,) = jobs_of(home, run)
    run.stop()
    assert nodes.ask("squeue", "-h", f"--name={job.id}") == ""


def test_a_run_whose_node_is_lost_goes_on_elsewhere(client, home, nodes, tmp_path):
    run = client.run(
        f"echo one >> kept.txt; echo ready; {UNTIL_GO}", on="gpu", retry=1, checkpoint=["kept.txt"]
    )
    wait_for_attempt(run, 1)
    wait_for_checkpoint(run)
    (lost,) = [
        node for node in nodes.nodes if str(folder_on_node(nodes, run)).startswith(str(node.home.root))
    ]
    nodes.lose(lost, run)
    wait_for_attempt(run, 2)
    let_go(nodes, run)
    run.wait(check=True)
    assert outputs(run, tmp_path) == {"kept.txt": "one\none\n"}
    assert [each.end_reason for each in run.record.attempts] == ["supervisor_died"]
    assert len(folders_on_nodes(nodes, run)) == 2
    nodes.replace(lost)
    join_nodes(nodes, home)


def test_runs_go_on_while_the_controller_is_gone(client, home, nodes, extent, tmp_path):
    run = client.run(f"echo ready; {COUNTING}; echo made > made.txt", on="gpu", retry=1)
    wait_for_attempt(run, 1)
    nodes.end_controller()
    refused = conjure("run", "--on", "gpu", "true")
    assert refused.returncode == 125
    assert "executor gpu cannot be reached" in refused.stderr
    wait_for_lines(folder_on_node(nodes, run) / LOG_FILE, extent.outage_s)
    assert run.status is RunStatus.RUNNING
    nodes.start_controller()
    let_go(nodes, run)
    run.wait(check=True)
    assert (outputs(run, tmp_path), run.record.attempts) == ({"made.txt": "made\n"}, ())
    nodes.wait_for_nodes(2)
    assert conjure("run", "--on", "gpu", "true").returncode == 0
