"""The file of SQLite's: what every database must do, and what only a file can suffer."""

import json
import sqlite3

import pytest

from conjure.errors import StoreError
from conjure.runs.database import maintenance_statements
from conjure.runs.database.record_files import read_record, record_to_dict
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from support.casting import add_run, finish
from support.database_contract import *  # noqa: F403

DONE = Ending(EndReason.COMPLETED, 0)


@pytest.fixture
def second_store(home, store):
    with SqliteDatabase.open(home) as second:
        yield second


def test_a_lost_database_is_rebuilt_from_the_folders(home):
    with SqliteDatabase.open(home) as store:
        for labels in [("a",), ()]:
            finish(store, add_run(store, labels=labels).number, DONE)
        store.add_label(2, "late")
        (home.run_folder(1) / "metrics.jsonl").write_text(
            '{"name": "loss", "step": 4, "value": 0.5, "time": 1}\n'
        )
        before = store.select()
    home.database.unlink()
    with SqliteDatabase.open(home) as store:
        assert store.select() == before
        assert store.summaries(1)["loss"].last_value == 0.5
        assert add_run(store).number == 3


def test_a_rebuilding_that_was_cut_off_is_done_by_whoever_opens_next(home, monkeypatch):
    with SqliteDatabase.open(home) as store:
        for _ in range(3):
            finish(store, add_run(store).number, DONE)
        before = store.select()
    home.database.unlink()
    rebuild_all = SqliteDatabase._rebuild_all

    def interrupted(self, numbers, *rest):
        if 2 in numbers:
            raise KeyboardInterrupt
        rebuild_all(self, numbers, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(maintenance_statements, "_BATCH", 1)
        patched.setattr(SqliteDatabase, "_rebuild_all", interrupted)
        with pytest.raises(KeyboardInterrupt):
            SqliteDatabase.open(home)
    with SqliteDatabase.open(home) as store:
        assert store.select() == before
    monkeypatch.setattr(SqliteDatabase, "_rebuild_all", interrupted)
    with SqliteDatabase.open(home) as store:  # and never again
        assert store.select() == before


def test_supervisors_need_not_wait_while_the_metrics_of_ended_runs_are_read(home, store, monkeypatch):
    for _ in range(2):
        finish(store, add_run(store).number, DONE)
        add_run(store)
    read, summarised = {}, SqliteDatabase._summarised

    def note(self, number):
        read[number] = self._session.connection.in_transaction
        return summarised(self, number)

    monkeypatch.setattr(SqliteDatabase, "_summarised", note)
    (home.run_folder(3) / "run.json").write_text(json.dumps(record_to_dict(store.get(3)) | {"labels": ["a"]}))
    assert store.reindex()[0] == [1, 2, 3, 4]
    assert [number for number, others_wait in read.items() if others_wait] == [2, 4]


def test_a_number_whose_folder_is_there_is_never_given_again(home):
    home.create()
    for name in ("1", "2", "9", "x", "07"):
        (home.runs / name).mkdir(parents=True)
    with SqliteDatabase.open(home) as store:
        assert add_run(store).number == 10


def test_a_file_that_is_no_database_is_one_sentence(home):
    home.create()
    home.database.write_bytes(b"x" * 5000)
    with pytest.raises(StoreError, match="conjure's database is damaged") as caught:
        SqliteDatabase.open(home)
    assert "conjure doctor --reindex" in caught.value.fix


def test_a_clock_that_jumps_back_harms_no_status(home):
    times = iter([1e9, 5e8, 4e8, 3e8, 2e8, 1e8, -5.0])
    with SqliteDatabase.open(home, clock=lambda: next(times)) as store:
        record = finish(store, add_run(store).number, DONE)
        assert record.status is RunStatus.COMPLETE
        assert read_record(home.run_folder(1)) == record
        assert record.facts.ended_at == -5.0


def test_no_sqlite_error_leaves_the_store(home, store):
    add_run(store)
    with sqlite3.connect(home.database) as other:
        other.execute("DROP TABLE links")
    with pytest.raises(StoreError, match="no such table: links"):
        store.links()


def test_secrets_reach_neither_row_nor_file(home, store):
    number = add_run(store, "login --password hunter2", variables={"API_KEY": "hunter2"}).number
    assert store.get(number).spec.variables == {"API_KEY": "***"}
    assert all(b"hunter2" not in path.read_bytes() for path in home.root.rglob("*") if path.is_file())


def test_only_the_owner_may_read_the_file(home, store):
    number = add_run(store).number
    assert (home.run_folder(number) / "run.json").stat().st_mode & 0o777 == 0o600
    assert home.root.stat().st_mode & 0o777 == 0o700
