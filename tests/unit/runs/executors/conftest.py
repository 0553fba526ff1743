"""A database whose time a test makes pass, and what stands in for clusters."""

import os

import pytest

from conjure.core.home import Home
from conjure.runs.database.sqlite import SqliteDatabase
from support.ray_rest import RayRest
from support.slurm_programs import SlurmPrograms


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    with SqliteDatabase.open(Home(tmp_path / "home"), clock=clock) as store:
        yield store


@pytest.fixture
def rest():
    with RayRest.running() as running:
        yield running


@pytest.fixture
def programs(tmp_path, monkeypatch):
    folder = tmp_path / "slurm"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return SlurmPrograms(folder)
