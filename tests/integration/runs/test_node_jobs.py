"""Jobs on the nodes of a cluster, with all that they start: a laptop's run is carried out where its job is.

No cluster is here: a process of the test's is what the cluster has started. The laptop and the node are homes
of a team, so that each has of the other only what is in the database and the object store.
"""

import json
import os
import signal
import subprocess
import sys

import pytest

from conjure.core.home import HOME_VARIABLE, Home
from conjure.core.trees import remove_tree
from conjure.runs.artifacts.team_transfer import StreamFollower, send_inputs
from conjure.runs.database.open_database import open_database
from conjure.runs.host.process import this_process
from conjure.runs.lifecycle.submission import request_of_this_process, snapshot_code
from conjure.runs.objects.base import record_object, segment
from conjure.runs.objects.index import Streams
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.run_folder import LOG_FILE, RunFolder
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import RunStatus
from support.casting import UNTIL_GO, is_running, nap, wait_until
from support.local_teams import LocalTeam
from support.repositories import write_files
from support.terminal import environment

pytestmark = pytest.mark.slow


@pytest.fixture
def team(tmp_path, monkeypatch):
    return LocalTeam(tmp_path, monkeypatch)


@pytest.fixture
def laptop(team, tmp_path):
    return team.join(Home(tmp_path / "laptop"))


@pytest.fixture
def node(team, tmp_path):
    return team.join(Home(tmp_path / "node"))


@pytest.fixture
def start_job(tmp_path, node):
    """Starts the job for a run's first attempt, which ends with the test."""
    started = []

    def start(number, home=node):
        root = str(home.root)
        variables = environment() | {HOME_VARIABLE: root, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = (sys.executable, "-m", "support.node_job", str(tmp_path), root, str(number), "1")
        started.append(subprocess.Popen(command, env=variables, start_new_session=True))
        return started[-1]

    yield start
    for job in started:
        job.kill()
        job.wait()


def hand_over(home, folder, line):
    """What the laptop does of a run: it then waits for a job."""
    write_files(folder, {"code.txt": "from the code\n"})
    asked = RunSpec(command=(line,), folder=folder, on="gpu")
    with open_database(home) as store:
        record = store.create_run(
            asked, this_process(home), lambda number: home.run_folder(number).mkdir(parents=True)
        )
        number = record.number
        store.set_facts(number, code=snapshot_code(home, store, number, asked), mounts=())
        send_inputs(home, number)
        store.set_request(number, request_of_this_process(home, asked, 0.0, "gpu").to_json())
        store.enqueue(number, Owner.queue_of_executor("gpu"))
    remove_tree(home.runs / str(number))
    return number


def record_of(home, number):
    with open_database(home) as store:
        return store.get(number)


def test_a_run_is_carried_out_by_its_job_and_all_of_it_is_there_for_others(
    team, laptop, node, folder, start_job
):
    number = hand_over(laptop, folder, "cat code.txt; cp code.txt made.txt; exit 3")
    assert start_job(number).wait(timeout=60) == 0
    record = record_of(laptop, number)
    assert (record.status, record.ending.exit_code) == (RunStatus.FAILED, 3)
    assert team.read(laptop, record.outputs.manifest) == {"made.txt": b"from the code\n"}
    with team.files(laptop) as files:
        assert b"from the code" in files.objects.get(segment(number, 1, LOG_FILE, 0))
        stored = json.loads(files.objects.get(record_object(number)))
    assert stored["end_reason"] == "nonzero_exit"
    assert not RunFolder.of(node, number).work.exists()
    with open_database(laptop) as store:
        assert store.request(number) is None


def test_a_job_that_is_told_to_end_stops_its_run_which_saves(team, laptop, node, folder, start_job):
    number = hand_over(laptop, folder, f"cp code.txt made.txt; echo ready; exec sleep {nap(88674)}")
    job, log = start_job(number), node.runs / str(number) / LOG_FILE
    wait_until(lambda: log.exists() and '"ready' in log.read_text(), "the command's start", patience_s=30)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=60) == 0
    record = record_of(laptop, number)
    assert record.status is RunStatus.STOPPED
    assert team.read(laptop, record.outputs.manifest) == {"made.txt": b"from the code\n"}
    assert not is_running(nap(88674))


def test_a_machine_that_asks_for_a_run_and_follows_it_can_carry_it_out_itself(
    team, laptop, folder, start_job
):
    """As a workstation of a cluster, or its head, with one home for both."""
    number = hand_over(laptop, folder, f"echo begun; {UNTIL_GO}; echo gone; cp code.txt made.txt")
    own = RunFolder(laptop.runs / str(number))
    with StreamFollower(laptop, number) as follower:
        follower.bring()  # it waits, and whoever follows it cannot know for which machine
        job = start_job(number, laptop)
        wait_until(lambda: own.log.exists() and '"begun' in own.log.read_text(), "its start")
        team.index.set_streams(number, Streams(1, 1, 0))  # as the supervisor has written down
        follower.bring()
        (own.path / "go").touch()
        assert job.wait(timeout=60) == 0
    record = record_of(laptop, number)
    assert record.status is RunStatus.COMPLETE, record.ending
    assert team.read(laptop, record.outputs.manifest) == {"made.txt": b"from the code\n"}
    with team.files(laptop) as files:
        assert b"gone" in files.objects.get(segment(number, 1, LOG_FILE, 0))
