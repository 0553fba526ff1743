"""What tests of the run half share: a home that nothing has been put in yet, and its store."""

import pytest

from conjure.core.home import Home
from conjure.runs.database.sqlite import SqliteDatabase


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def store(home):
    with SqliteDatabase.open(home) as store:
        yield store
