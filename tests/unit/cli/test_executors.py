"""`conjure executors`, and where a run is asked for that is none."""

import json

import pytest

from conjure.cli.main import _run
from support.ray_rest import RayRest


@pytest.fixture
def call(capsys):
    def run(*arguments):
        status = _run(list(arguments))
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def define(home):
    def _define(address):
        home.create()
        home.config_file.write_text(f'[executors.gpu]\nkind = "ray"\naddress = "{address}"\n')

    return _define


def test_there_are_none(call):
    none = "No executors are defined; docs/clusters.md explains how to define one\n"
    assert call("executors")[:2] == (0, none)
    assert json.loads(call("executors", "--json")[1]) == []


def test_they_are_listed_with_what_is_free(call, define):
    with RayRest.running() as rest:
        rest.nodes["b"] = {"CPU": [1.0, 4.0], "GPU": [0.0, 2.0]}
        define(rest.address)
        status, out, _ = call("executors")
        assert status == 0
        assert all(part in out for part in ("5 of 6", "2 of 2"))
        (found,) = json.loads(call("executors", "--json")[1])
    assert (found["nodes"], found["used"]["cpus"], found["fault"]) == (2, 1.0, None)


def test_one_that_does_not_answer_is_no_failure(call, define):
    define("http://127.0.0.1:1")
    status, _, err = call("executors")
    assert status == 0
    assert "executor gpu cannot be reached at http://127.0.0.1:1" in err


def test_a_home_of_one_machine_cannot_use_one(call, define, folder):
    define("http://127.0.0.1:1")
    status, _, err = call("run", "--on", "gpu", "true")
    assert status == 125
    assert "executor gpu needs a team's home, which its nodes have joined as well" in err


def test_what_was_not_typed_is_not_named(call, define):
    define("http://127.0.0.1:1")
    for name, said in (("gpu", "executor gpu needs a team's home"), ("gpus", "there is no executor 'gpus'")):
        status, _, err = call("executors", "check", name)
        assert (status, said in err, "--on" in err) == (2, True, False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("generate", "--on", "gpu", "hi"), "--on applies only to recorded runs"),
        (("score", "--retry", "1", "hi"), "--retry applies only to recorded runs"),
        (("finetune", "--no-run", "--retry", "1", "x.txt"), "--retry applies only to recorded runs"),
    ],
)
def test_only_a_run_is_carried_out_elsewhere(call, words, said):
    status, _, err = call(*words)
    assert (status, said in err) == (2, True)
