"""What a check of a cluster's nodes says is missing, one sentence for each node: by Ray's answers."""

import json
from importlib.metadata import version

import pytest

from conjure.core.team_settings import TeamSettings, read_team
from conjure.errors import ExecutorError, UsageError
from conjure.runs.database.open_database import share
from conjure.runs.executors.cluster_check import check_nodes
from support.ray_rest import RayRest

GOOD = {"version": version("conjure"), "joined": True, "uv": "", "store": ""}


@pytest.fixture
def rest(home):
    with RayRest.running() as running:
        home.create()
        home.config_file.write_text(f'[executors.gpu]\nkind = "ray"\naddress = "{running.address}"\n')
        share(home, TeamSettings("postgresql://nobody@/none", "file:///none", "ada@host/1"))
        yield running


def found(rest, *told):
    """What a check finds where the job on each node ended so: its output, or its exit code."""
    outcomes = iter(told)

    def end(name):
        outcome = next(outcomes)
        if isinstance(outcome, int):
            rest.fail(name, outcome)
        else:
            rest.outputs[name] = f"Ray says something first\n{json.dumps(outcome)}\n"
            rest.complete(name)

    rest.on_submission = end


def test_nodes_where_all_is_there(rest, home):
    rest.nodes["b"] = {"CPU": [1.0, 1.0]}
    rest.nodes["head"] = {}
    found(rest, GOOD, GOOD)
    assert check_nodes(home, "gpu") == (2, [])
    entrypoints = {job["entrypoint"] for job in rest.jobs.values()}
    assert entrypoints == {f"exec conjure supervise --team {read_team(home).identity} --check"}
    assert [job["entrypoint_label_selector"] for job in rest.jobs.values()] == [
        {"ray.io/node-id": "a"},
        {"ray.io/node-id": "b"},
    ]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (127, "on node a `conjure` is not on the PATH of Ray"),
        (
            1,
            "on node a the check failed (exit status 1); check that the node has the same version of conjure",
        ),
        (GOOD | {"version": "0.1.0"}, f"on node a conjure is 0.1.0, and here it is {version('conjure')}"),
        (
            GOOD | {"joined": False, "uv": "uv is not installed"},
            "on node a no home has joined the team: run `conjure team join --database postgresql://nobody@/none`"
            " there, as the account that Ray runs as; uv is not installed",
        ),
        (GOOD | {"store": "it cannot be reached"}, "on node a it cannot be reached"),
    ],
)
def test_what_is_missing_is_said(rest, home, told, said):
    found(rest, told)
    assert check_nodes(home, "gpu") == (1, [said])


def test_what_cannot_be_checked_is_refused(rest, home):
    with pytest.raises(UsageError, match="there is no executor 'gpus'; did you mean gpu"):
        check_nodes(home, "gpus")
    rest.nodes = {"head": {}}
    with pytest.raises(ExecutorError, match="gpu has no node with a core"):
        check_nodes(home, "gpu")


def test_in_a_shared_folder_the_nodes_have_the_home_itself(rest, home):
    share(home, TeamSettings("postgresql://nobody@/none"))
    found(rest, GOOD | {"joined": False})
    assert check_nodes(home, "gpu") == (1, [f"on node a the home folder {home.root} is not there"])
    (job,) = rest.jobs.values()
    assert job["entrypoint"] == f"CONJURE_HOME={home.root} exec conjure supervise --check"
