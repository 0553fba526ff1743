"""`conjure metrics` on points that are not finite: a table and a plot have no place for them, a file has."""

import json

import pytest

from conjure.cli.main import _run
from conjure.python_api import Client
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.run_folder import RunFolder
from support.casting import add_run


@pytest.fixture
def metrics(home, capsys):
    """The command on run 1, whose metric x has never had a finite value."""
    with open_store(home) as store:
        add_run(store)
        values = [("x", "nan"), ("x", "inf"), ("x", "-inf"), ("y", "nan"), ("y", 1.0)]
        lines = [
            json.dumps({"name": name, "step": step, "value": value, "time": 1})
            for step, (name, value) in enumerate(values)
        ]
        RunFolder.of(home, 1).metrics.write_text("".join(f"{line}\n" for line in lines))
        store.refresh_summaries(1)

    def call(*arguments):
        status = _run(["metrics", "1", *arguments])
        return status, *capsys.readouterr()

    return call


def test_csv_has_every_point(metrics):
    rows = [row.split(",") for row in metrics("--csv")[1].splitlines()[1:]]
    assert [(name, value) for name, _, value, _ in rows] == [
        ("x", "nan"),
        ("x", "inf"),
        ("x", "-inf"),
        ("y", "nan"),
        ("y", "1.0"),
    ]


def test_json_has_null_for_what_is_not_finite(metrics):
    assert [point["value"] for point in json.loads(metrics("--json")[1])] == [None, None, None, None, 1.0]
    assert len(json.loads(metrics("x", "--json")[1])) == 3


@pytest.mark.parametrize("option", [(), ("--plot",)])
def test_a_metric_without_a_finite_value_is_told_of(metrics, option):
    assert metrics("x", *option) == (0, "", "x has no finite value\n")
    status, out, note = metrics("x", "y", *option)
    assert (status, note) == (0, "x has no finite value\n")
    assert "y" in out


def test_names_are_those_that_were_reported(metrics):
    assert metrics("z")[2] == "error: run 1 has no metric 'z'; it has x, y\n"


@pytest.mark.usefixtures("metrics")
def test_python_has_every_point_too():
    assert [str(point.value) for point in Client().get(1).metrics("y")] == ["nan", "1.0"]
