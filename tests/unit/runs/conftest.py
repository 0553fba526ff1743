"""What tests of the run half share."""

import pytest

from conjure.runs.database.sqlite import SqliteDatabase


@pytest.fixture
def store(home):
    with SqliteDatabase.open(home) as store:
        yield store
