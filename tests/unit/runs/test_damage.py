"""Files of conjure's own that were changed or lost: an error that says so, no traceback, and a way back."""

import json
import random
import shutil
import sqlite3
from contextlib import suppress

import pytest

from conjure.core.files import write_atomically
from conjure.core.trees import remove_tree
from conjure.errors import ConjureError, StoreError
from conjure.runs.artifacts.manifest import Manifest
from conjure.runs.artifacts.run_folders import RunFolders
from conjure.runs.artifacts.uploads import read_upload
from conjure.runs.database import record_files
from conjure.runs.database.base import RunFilter
from conjure.runs.database.record_files import folder_numbers, foreign_entries, read_links, read_record
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.maintenance.doctor import examine, rebuild
from conjure.runs.schema.run_folder import LOG_FILE
from conjure.runs.schema.status import Ending, EndReason
from conjure.runs.telemetry.logs import LogTail
from support.casting import add_run, finish
from support.homes import examine_files
from support.repositories import write_files

DONE = Ending(EndReason.COMPLETED, 0)
DEEP = "[" * 100_000


@pytest.fixture
def filled(home):
    """A home with three ended runs, labels, links and a metric; all of it in the database's one file."""
    with SqliteDatabase.open(home) as store:
        for number in range(1, 4):
            finish(store, add_run(store, f"train {number}", labels=("a", f"b{number}")).number, DONE)
            point = {"name": "loss", "step": 1, "value": 0.5, "time": 1.0}
            (home.run_folder(number) / "metrics.jsonl").write_text(json.dumps(point) + "\n")
            store.refresh_summaries(number)
        store.set_link("best", "runs/2")
        store.set_link("worst", "runs/1")
        store._session.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return home


def everything(home):
    with SqliteDatabase.open(home) as store:
        records = store.select(RunFilter(archived=True))
        metrics = [store.summaries(record.number) for record in records]
        links = [(link.name, link.resource) for link in store.links()]
        store.listing(RunFilter())
        store.sizes()
        store.active()
        store.facts(1)
        return records, metrics, links


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_one_changed_byte_anywhere_is_an_error_at_most_and_reindexing_mends_it(filled, seed):
    chance = random.Random(seed)
    before, good = everything(filled), filled.database.read_bytes()
    wrong = []
    for _ in range(25):
        content = bytearray(good)
        # Most of the file is empty pages, where nothing can be changed: take bytes that hold something.
        place = chance.choice([at for at in range(len(content)) if content[at]])
        content[place] ^= 1 << chance.randrange(8)
        for part in filled.root.glob("conjure.db*"):
            part.unlink()
        filled.database.write_bytes(content)
        with suppress(ConjureError):
            everything(filled)
        list(examine_files(filled))
        try:
            rebuild(filled)
        except StoreError as error:
            wrong.append(str(error))
        else:
            assert everything(filled) == before
    # Of the number of the schema there is no second copy.
    assert all("it was written by a newer version of conjure" in message for message in wrong)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE runs SET spec = substr(spec, 2) WHERE number = 2",
        "UPDATE runs SET spec = '[]' WHERE number = 2",
        "UPDATE runs SET requested_at = 'yesterday' WHERE number = 2",
        "UPDATE runs SET end_reason = 'complftd' WHERE number = 2",
        "UPDATE runs SET outputs = '{' WHERE number = 2",
        "UPDATE runs SET command = CAST(x'ff' AS TEXT) WHERE number = 2",
        "UPDATE runs SET spec = replace(spec, '[', '[[[[') WHERE number = 2",
    ],
)
def test_a_row_that_cannot_be_read_is_one_sentence_and_made_anew(filled, statement):
    before = everything(filled)
    connection = sqlite3.connect(filled.database)
    connection.execute(statement)
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="database is damaged") as caught:
        everything(filled)
    assert caught.value.fix.startswith("conjure doctor --reindex")
    finding = next(finding for finding in examine(filled) if finding.name == "database")
    assert (finding.state, finding.fix) == ("fault", "conjure doctor --reindex")
    rebuild(filled)
    assert everything(filled) == before


def test_a_row_that_cannot_be_read_and_has_no_folder_goes(filled):
    shutil.rmtree(filled.run_folder(2))
    with SqliteDatabase.open(filled) as store:
        store._session.connection.execute("UPDATE runs SET spec = 'x' WHERE number = 2")
    rebuild(filled)
    assert [record.number for record in everything(filled)[0]] == [3, 1]
    with SqliteDatabase.open(filled) as store:
        assert add_run(store).number == 4


def test_a_lost_database_is_made_anew_with_its_links(filled):
    before = everything(filled)
    for part in filled.root.glob("conjure.db*"):
        part.unlink()
    assert everything(filled) == before
    with SqliteDatabase.open(filled) as store:
        store.remove_link("worst")
    filled.database.unlink()
    assert everything(filled)[2] == [("best", "runs/2")]


def test_links_of_a_home_from_before_they_had_a_file_are_kept(filled):
    filled.links_file.unlink()
    rebuild(filled)
    assert [link.name for link in read_links(filled)] == ["best", "worst"]


@pytest.mark.parametrize("content", [b"", b"{", DEEP.encode(), b'{"links": [5]}', b"\xff"])
def test_links_whose_file_was_changed_are_those_of_the_database(filled, content):
    filled.links_file.write_bytes(content)
    rebuild(filled)
    assert everything(filled)[2] == [("best", "runs/2"), ("worst", "runs/1")]


SILLY = ["99999999999999999999", "0", "007", "-1", "+3", "1e3", "\u0663", "four", "5 ", "1000000000"]


def test_folders_of_other_names_are_no_runs(filled):
    for name in SILLY:
        (filled.runs / name).mkdir()
    (filled.runs / "6").write_text("a file")
    (filled.runs / "7").symlink_to("1")
    assert folder_numbers(filled.runs) == [1, 2, 3]
    assert foreign_entries(filled.runs) == sorted([*SILLY, "6", "7"])
    assert rebuild(filled).numbers == (1, 2, 3)
    text = next(finding.text for finding in examine(filled) if finding.name == "run folders")
    assert "99999999999999999999" in text
    with SqliteDatabase.open(filled) as store:
        taken = []

        def reserve(number):
            filled.run_folder(number).mkdir()
            taken.append(number)

        record = store.create_run(store.get(1).spec, store.get(1).owner, reserve)
        assert taken == [record.number]
        assert 4 <= record.number <= 8


@pytest.mark.parametrize("content", ["", "{", "[]", "5", '"x"', DEEP, '{"number": 1e999}', '{"a":' * 90_000])
def test_own_files_that_hold_anything_else(home, content):
    folder = home.run_folder(1)
    write_files(
        home.root,
        {f"runs/1/{name}": content for name in ("run.json", "manifest.json", "before.json", "folders.json")},
    )
    write_files(home.root, {"uploads/a/1/upload.json": content})
    assert read_record(folder) is None
    with RunFolders(folder) as folders, pytest.raises(FileNotFoundError):
        folders.open_work()
    with pytest.raises(StoreError, match=r"manifest\.json is damaged"):
        Manifest.load(folder / "manifest.json")
    with pytest.raises(StoreError, match=r"upload\.json is damaged"):
        read_upload(home, "a", 1)


@pytest.mark.parametrize(
    "line",
    [
        DEEP,
        '{"time": 1e999, "stream": "stdout", "text": "x"}',
        '{"time": 1, "stream": "stdout", "text": 5}',
        '{"time": 1, "stream": "stdout", "text": "x", "escaped": "\\\\x"}',
        '{"time": -1, "stream": "stdout", "text": "x"}',
        "5",
        "null",
    ],
)
def test_a_line_of_a_log_that_is_none_costs_itself_only(tmp_path, line):
    whole = '{"time": 1, "stream": "stdout", "text": "kept\\n"}'
    (tmp_path / LOG_FILE).write_text(f"{line}\n{whole}\n")
    assert [entry.text for entry in LogTail(tmp_path / LOG_FILE).read()] == ["kept\n"]


def test_a_record_of_a_run_whose_folder_goes_meanwhile_is_written_nowhere(store, monkeypatch):
    record = add_run(store)
    folder = store.home.run_folder(record.number)

    def write_too_late(path, *given, **more):
        remove_tree(folder)
        write_atomically(path, *given, **more)

    monkeypatch.setattr(record_files, "write_atomically", write_too_late)
    record_files.write_record(store.home, record)
    assert not folder.exists()
