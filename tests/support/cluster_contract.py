"""What every kind of cluster must do: tests for whichever one the fixture `nodes` starts.

A module of tests for one kind imports all of this; its `nodes` is a cluster of two nodes, of which the second
has two cores and the first has one.
"""

import json
import os
import shlex
import shutil
import signal
from contextlib import suppress

import pytest

from conjure.core.home import Home
from conjure.core.team_settings import objects_team, read_team
from conjure.python_api import Client, Run
from conjure.runs.artifacts.team_transfer import shared_files
from conjure.runs.database.open_database import open_database
from conjure.runs.executors.cluster import JobState
from conjure.runs.executors.cluster_executor import ClusterExecutor
from conjure.runs.host.process import descendants, find_process, with_variables
from conjure.runs.maintenance.team import join
from conjure.runs.scheduling.scheduler_start import dispatcher_lock_path
from conjure.runs.schema.status import RunStatus
from support.casting import UNTIL_GO, is_running, nap, release, supervisor_of, wait_until
from support.repositories import files_with, read_files, write_files
from support.team_members import set_heartbeat
from support.terminal import conjure

SECRET = "hunter2-of-a-run"
CORES = 3


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
    home.config_file.write_text(
        f"[executors.gpu]\n{nodes.definition(folder)}[team]\nheartbeat = {nodes.heartbeat_s}\n"
    )


def join_nodes(nodes, home):
    """Have the nodes join a team, each with a home of its own beside those of other tests' teams."""
    team = read_team(home)
    for node in nodes.homes:
        set_heartbeat(node, nodes.heartbeat_s)
        join(node.named(team.identity), team.database)


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

    # A cluster takes its time to find out that a node is lost.
    wait_until(has_started, f"attempt {number}", patience_s=120.0)


def wait_for_checkpoint(run):
    """Wait until files of the run's first attempt are where the next one finds them."""
    with shared_files(run.home, objects_team(run.home)) as files:
        wait_until(lambda: files.newest_checkpoint(run.number, 9), "a checkpoint in the object store")


def jobs_of(home, run):
    """The jobs for a run, as the cluster tells of them."""
    executor = ClusterExecutor.named(home, "gpu")
    jobs = executor.cluster.jobs()
    return [job for attempt in range(1, 9) for job in executor.jobs_of(run.number, attempt, jobs)]


@pytest.fixture
def occupy(home, nodes, tmp_path):
    """Have jobs of somebody else's use so many cores, until the file `free` is there or the test ends."""

    def do(cores):
        nodes.occupy(cores, tmp_path / "free")
        executor = ClusterExecutor.named(home, "gpu")
        wait_until(lambda: not any(node.free.cpus for node in executor.cluster.nodes()), "busy cores")

    yield do
    (tmp_path / "free").touch()


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
    assert not any(line.startswith(("RAY_", "SLURM")) for line in made["env.txt"].splitlines())
    shown = json.loads(succeed("info", "1", "--json"))
    assert (shown["status"], shown["spec"]["on"]) == ("complete", "gpu")
    assert read_team(home).member not in shown["owner"]["host_id"]
    (job,) = jobs_of(home, run)
    assert job.id.endswith("-1-1")
    wait_until(lambda: jobs_of(home, run)[0].exit_code == 0, "the end of the job")
    report = "python -c \"import conjure; conjure.log_metric('loss', 0.5, step=3)\"; exit 7"
    mounted = conjure("run", "--on", "gpu", "-m", "runs/1/size.txt", f"cat size.txt; {report}")
    assert (mounted.returncode, f"\n{len(SECRET)}\n" in mounted.stdout) == (7, True)
    assert "loss,3,0.5" in succeed("metrics", "2", "--csv")
    for number in map(str, range(3, 9)):
        assert conjure("run", "--on", "gpu", "-b", "exit 3").returncode == 0
        assert conjure("wait", number).returncode == 3
        if json.loads(succeed("info", number, "--json"))["owner"]["host_id"] == shown["owner"]["host_id"]:
            break  # the next job on a node puts what is done there in order
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


def test_two_nodes_that_share_a_folder_work_in_it_together(shared_home, nodes):
    line = "echo $RANK $NODE_RANK > made-$RANK.txt; until [ -e made-1.txt ]; do sleep 0.1; done"
    done = conjure("run", "--on", "gpu", "--nodes", "2", "--distributed", "1", line)
    assert done.returncode == 0, done.stdout + done.stderr
    made = {"made-0.txt": "0 0\n", "made-1.txt": "1 1\n"}
    assert read_files(shared_home.run_folder(1) / "outputs") == made
    wait_until(lambda: list(shared_home.node_parts.iterdir()) == [], "the end of the other part")


def test_no_secret_is_in_a_job_nor_in_what_stays(client, home, nodes, s3):
    run = client.run(f"echo ready; {UNTIL_GO}", env={"API_KEY": SECRET}, on="gpu")
    wait_for_attempt(run, 1)
    (job,) = jobs_of(home, run)
    told = nodes.tell_all(job.id)
    assert job.id in told
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
    for secret in (SECRET, nodes.token, s3.secret):
        assert secret not in told
        assert files_with(on_node.parent, secret) == []
        assert files_with(home.root, secret) == []


def test_what_waits_for_room_never_starts_once_it_is_stopped(client, home, occupy, tmp_path):
    occupy(CORES)
    run = client.run(f"touch {tmp_path}/started", on="gpu")
    assert run.status is RunStatus.QUEUED
    executor = ClusterExecutor.named(home, "gpu")
    in_line = [job.state for job in jobs_of(home, run)]  # where there is a queue, it takes its place there
    assert in_line == [JobState.PENDING] * executor.cluster.has_queue
    handed = client.run(f"touch {tmp_path}/started", on="gpu")
    with open_database(home) as store:  # as if the cores had been free when we looked
        (claim,) = [claim for claim in store.claims() if claim.number == handed.number]
        executor._submit(claim, 1, {}, [], 1)
    assert jobs_of(home, handed)[0].state is JobState.PENDING
    for each in (run, handed):
        each.stop()
        assert each.status is RunStatus.STOPPED
    (tmp_path / "free").touch()
    wait_until(lambda: jobs_of(home, handed)[0].state is JobState.OVER, "the end of the job")
    assert not (tmp_path / "started").exists()


def test_the_machine_that_asked_for_runs_may_go_away(client, home, nodes, occupy, tmp_path, monkeypatch):
    team = read_team(home)
    going = client.run(f"echo begun; {UNTIL_GO}; echo made > made.txt", on="gpu")
    wait_for_attempt(going, 1)
    occupy(CORES - 1)
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


def test_a_run_is_stopped_and_saves(client, home, nodes, tmp_path):
    run = client.run(f"echo some > some.txt; echo ready; exec sleep {nap(88666)}", on="gpu", retry=3)
    wait_for_attempt(run, 1)
    run.stop().wait()
    assert (run.status, outputs(run, tmp_path)) == (RunStatus.STOPPED, {"some.txt": "some\n"})
    assert not is_running(nap(88666))


def test_a_job_that_is_stopped_stops_its_run(client, home, nodes, tmp_path):
    run = client.run(f"echo some > some.txt; echo ready; exec sleep {nap(88667)}", on="gpu")
    wait_for_attempt(run, 1)
    (job,) = jobs_of(home, run)
    nodes.stop_job(job.id)
    run.wait()
    assert (run.status, outputs(run, tmp_path)) == (RunStatus.STOPPED, {"some.txt": "some\n"})


def parts_on_nodes(nodes, run):
    """What nodes have of a run beside the first one."""
    folders = [node.named(read_team(run.home).identity).node_parts for node in nodes.homes]
    return [each for folder in folders if folder.is_dir() for each in folder.iterdir()]


def test_two_nodes_carry_out_one_run(client, home, nodes, folder, tmp_path):
    write_files(folder, {"code.sh": "cat given.txt; echo $NODE_RANK > made-$RANK.txt; printf err >&2"})
    write_files(tmp_path, {"given.txt": "given\n"})
    line = "echo $RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE; sh code.sh"
    asked = ("--on", "gpu", "--nodes", "2", "--distributed", "1", "-m", "../given.txt")
    done = conjure("run", *asked, line)
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run(home, 1)
    printed = sorted(run.logs())
    assert [each for each in printed if each.startswith("[")] == [
        *("[0] 0 2 0 1", "[0] err", "[0] given", "[1] 1 2 0 1", "[1] err", "[1] given"),
    ]
    assert outputs(run, tmp_path) == {"made-0.txt": "0\n"}
    shown = json.loads(succeed("info", "1", "--json"))
    assert (shown["spec"]["nodes"], shown["spec"]["resources"]["cpus"]) == (2, 1)
    wait_until(lambda: not parts_on_nodes(nodes, run), "the end of the other part")


def processes_of_second_node(nodes, run):
    """What carries out a run on its second node: the guard, the supervisor, and all below it."""
    homes = [node.named(read_team(run.home).identity).root for node in nodes.homes]
    found = []
    for home in homes:
        variables = (f"CONJURE_RUN={run.number}", f"CONJURE_HOME={home}", "NODE_RANK=1")
        found += with_variables([each.encode() for each in variables])
    parents = {process.parent for process in found} - {process.pid for process in found}
    (supervisor,) = map(find_process, parents)
    return [supervisor.parent, supervisor.pid, *(each.pid for each in descendants(supervisor.pid))]


def lose_second_node(nodes, run):
    """End all of it at one stroke."""
    lost = processes_of_second_node(nodes, run)
    for pid in lost:  # halted first, so that none can do anything about the others' end
        os.kill(pid, signal.SIGSTOP)
    for pid in lost:
        with suppress(ProcessLookupError):  # the kernel ended the command with its supervisor
            os.kill(pid, signal.SIGKILL)


def wait_for_both_nodes(run, attempt):
    wait_for_attempt(run, attempt)
    wait_until(lambda: {"[0] ready", "[1] ready"} <= set(run.logs()), "both processes")


def test_a_run_on_two_nodes_is_tried_again_if_one_is_lost_and_stopped_on_both(client, home, nodes, tmp_path):
    run = client.run(f"echo ready; exec sleep {nap(88668)}", on="gpu", nodes=2, distributed=1, retry=2)
    wait_for_both_nodes(run, 1)
    lose_second_node(nodes, run)
    wait_for_both_nodes(run, 2)
    (attempt,) = run.record.attempts
    assert attempt.end_reason == "supervisor_died"
    assert attempt.message.startswith("node 2 of 2 (")
    before = processes_of_second_node(nodes, run)
    os.kill(supervisor_of(run).pid, signal.SIGKILL)
    wait_for_both_nodes(run, 3)
    wait_until(lambda: not any(map(find_process, before)), "the end of the second attempt on the second node")
    run.stop().wait()
    assert run.status is RunStatus.STOPPED
    assert not is_running(nap(88668))
    wait_until(lambda: not parts_on_nodes(nodes, run), "the end of the other part")


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
