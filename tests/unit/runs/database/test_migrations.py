import sqlite3

import pytest

from conjure.core.home import Home
from conjure.errors import StoreError
from conjure.runs.database import migrations
from conjure.runs.database.migrations import MIGRATIONS, NEWEST, Migration, migrate, schema_number
from conjure.runs.database.sqlite import SqliteDatabase
from support.casting import add_run

FIRST_ROW = (
    "INSERT INTO runs (kind, command, description, requested_at, spec) VALUES"
    """ ('command', 'true', '', '2026-01-01T00:00:00.000000Z', '{"command": ["true"], "folder": "/"}')"""
)


@pytest.fixture
def connection(tmp_path):
    connection = sqlite3.connect(tmp_path / "conjure.db", isolation_level=None)
    yield connection
    connection.close()


def tables(connection):
    return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_steps_are_numbered_without_gaps():
    assert [migration.number for migration in MIGRATIONS] == list(range(1, NEWEST + 1))


def test_an_empty_database_is_brought_up_to_date(connection):
    assert migrate(connection) == 0
    assert migrate(connection) == NEWEST
    assert schema_number(connection) == NEWEST
    assert {"runs", "run_labels", "run_sources", "links", "metrics", "schema_migrations"} <= tables(
        connection
    )


@pytest.mark.parametrize("start", range(1, NEWEST + 1))
def test_every_schema_since_the_first_is_brought_up_to_date_with_its_rows(tmp_path, start):
    home = Home(tmp_path)
    connection = sqlite3.connect(home.database, isolation_level=None)
    migrate(connection, up_to=start)
    connection.execute(FIRST_ROW)
    connection.close()
    with SqliteDatabase.open(home) as store:
        assert store.get(1).spec.command == ("true",)
        assert store.get(1).project is None
        assert add_run(store).number == 2


def test_a_step_that_fails_leaves_the_file_before_it(connection, monkeypatch):
    broken = Migration(NEWEST + 1, "broken", ("CREATE TABLE halfway (x)", "this is no SQL"))
    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, broken))
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, up_to=broken.number)
    assert schema_number(connection) == NEWEST
    assert "halfway" not in tables(connection)


def test_a_half_migrated_file_goes_on_where_it_stopped(connection):
    migrate(connection, up_to=1)
    before = connection.execute("SELECT * FROM schema_migrations").fetchall()
    migrate(connection)
    after = connection.execute("SELECT * FROM schema_migrations").fetchall()
    assert after[: len(before)] == before
    assert [row[0] for row in after] == list(range(1, NEWEST + 1))


def test_a_newer_schema_is_refused_in_one_sentence(tmp_path):
    home = Home(tmp_path)
    with SqliteDatabase.open(home):
        pass
    connection = sqlite3.connect(home.database, isolation_level=None)
    connection.execute("INSERT INTO schema_migrations VALUES (99, 'from the future', '')")
    connection.close()
    with pytest.raises(StoreError) as caught:
        SqliteDatabase.open(home)
    assert str(caught.value) == (
        f"conjure's database has schema 99, and this version of conjure supports up to {NEWEST}:"
        " it was written by a newer version of conjure"
    )
    assert caught.value.hint == "upgrade conjure, or set CONJURE_HOME to another folder"
