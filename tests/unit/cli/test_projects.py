"""`conjure project`, and projects in `conjure ps`."""

import json

import pytest

from conjure.cli.main import _run
from conjure.core.home import Home
from conjure.runs.database.sqlite import SqliteDatabase
from support.casting import add_run


@pytest.fixture
def call(conjure_home, capsys):
    """Calls conjure in a home with four runs."""
    with SqliteDatabase.open(Home(conjure_home).create()) as store:
        for project in ("jokes", None, "recipes", "jokes"):
            add_run(store, project=project)

    def run(*arguments):
        status = _run(list(arguments))
        return status, *capsys.readouterr()

    return run


def rows(out):
    return [line.split() for line in out.splitlines()]


def test_projects_are_listed(call):
    _, out, _ = call("project", "ls")
    assert [row[:4] for row in rows(out)] == [
        ["PROJECT", "RUNS", "ACTIVE", "NEWEST"],
        ["jokes", "2", "2", "4"],
        ["recipes", "1", "1", "3"],
        ["(none)", "1", "1", "2"],
    ]
    found = json.loads(call("project", "ls", "--json")[1])
    assert [project["name"] for project in found] == ["jokes", "recipes", None]
    assert set(found[0]) == {"name", "runs", "active", "newest", "requested_at"}


def test_a_project_is_renamed(call):
    assert call("project", "rename", "jokes", "recipes") == (0, "2 runs of jokes now belong to recipes\n", "")
    assert [row[:2] for row in rows(call("project", "ls")[1])][1:] == [["recipes", "3"], ["(none)", "1"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("joke", "x"), "there is no project 'joke'; did you mean jokes?"),
        (("jokes", " x"), "project ' x' is not a name: 1 to 80 printable characters, no space at either end"),
    ],
)
def test_a_mistake_is_one_sentence(call, words, message):
    status, _, err = call("project", "rename", *words)
    assert status != 0
    assert message in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), [4, 3, 2, 1]),
        (("--project", "jokes"), [4, 1]),
        (("--project", "jokes", "--project", ""), [4, 2, 1]),
        (("--project", "none"), []),
    ],
)
def test_ps_shows_all_projects_unless_some_are_named(call, words, expected):
    status, out, err = call("ps", "--json", *words)
    assert status == 0
    assert [run["number"] for run in json.loads(out)] == expected
    assert ("No runs match" in err) == (not expected)


def test_ps_has_a_column_for_projects_if_there_are_any(call):
    assert "PROJECT" in rows(call("ps")[1])[0]
    assert "PROJECT" not in rows(call("ps", "--project", "")[1])[0]
    assert [run["project"] for run in json.loads(call("ps", "--json")[1])] == [
        "jokes",
        "recipes",
        None,
        "jokes",
    ]
