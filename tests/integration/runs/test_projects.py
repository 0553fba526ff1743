"""What runs belong to if nobody says so, and if somebody does."""

import sys

import pytest

from conjure.errors import UsageError
from conjure.runs.database.base import RunFilter
from conjure.runs.lifecycle.open_store import open_store
from support.casting import add_run
from support.repositories import make_repository


def test_a_run_belongs_to_its_repository_and_so_do_its_reruns_and_children(client, folder):
    make_repository(folder, {"file.txt": "x", "sub/file.txt": "x"})
    child = f"{sys.executable} -m conjure run true"
    run = client.run(child, folder=folder / "sub").wait()
    assert run.record.project == "project"
    assert client.get(2).record.parent == 1
    assert client.get(2).record.project == "project"
    assert run.rerun().wait().record.project == "project"


def test_outside_of_a_repository_there_is_no_project(client):
    assert client.run("true").wait().record.project is None


def test_what_is_said_counts_and_then_what_is_set(client, folder, write):
    make_repository(folder, {"conjure.toml": 'project = "jokes"\n'})
    assert client.run("true").wait().record.project == "jokes"
    assert client.run("true", project="puns").wait().record.project == "puns"
    assert [run.number for run in client.runs(project="puns")] == [2]
    write("conjure.toml", 'project = "  "\n')
    with pytest.raises(UsageError, match="project cannot be '  '"):
        client.run("true")


def test_a_name_that_is_none_is_refused_and_no_default_is_one(client, tmp_path):
    with pytest.raises(UsageError, match="project 'a\\\\nb' is not a name: 1 to 80 printable characters"):
        client.run("true", project="a\nb")
    repository = tmp_path / "a\nb"
    make_repository(repository, {"file.txt": "x"})
    assert client.run("true", folder=repository).wait().record.project is None


def test_a_rerun_of_a_run_without_a_project_has_none(client, home, folder):
    run = client.run("true").wait()
    make_repository(folder, {"file.txt": "x"})
    assert run.rerun().wait().record.project is None
    with open_store(home) as store:
        add_run(store, project="project")
        assert [run.number for run in store.listing(RunFilter(projects=("",)))] == [2, 1]
