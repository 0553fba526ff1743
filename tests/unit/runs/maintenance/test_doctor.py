import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from conjure.core.dir_fd import Folder
from conjure.errors import NotFoundError, StoreError
from conjure.runs.artifacts.uploads import upload
from conjure.runs.artifacts.verification import verify
from conjure.runs.code import code_store, snapshot
from conjure.runs.code.git import own_git
from conjure.runs.database.migrations import NEWEST
from conjure.runs.database.record_files import read_record
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.host.disk_reserve import DiskReserve
from conjure.runs.host.process import this_process
from conjure.runs.lifecycle.recovery import recover
from conjure.runs.maintenance import doctor
from conjure.runs.maintenance.doctor import State, examine, rebuild
from conjure.runs.maintenance.pruning import prune
from conjure.runs.maintenance.removal import remove
from conjure.runs.schema.record import CodeFacts, OutputFacts
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from support.casting import add_run, advance, finish
from support.homes import add_outputs, examine_files
from support.repositories import write_files

DONE = Ending(EndReason.COMPLETED, 0)


def find(home):
    """What is found of the home's files, by name; a name that comes twice has its last finding."""
    return {finding.name: finding for finding in examine_files(home)}


def find_all(home):
    """The same, and what is found of the machine."""
    return {finding.name: finding for finding in examine(home)}


def test_nothing_is_made_by_looking(home):
    found = find_all(home)
    assert {finding.state for finding in found.values()} == {State.OK}
    assert "created by the first run" in found["home"].text
    assert not home.root.exists()


def test_all_is_well(home):
    with SqliteDatabase.open(home) as store:
        finish(store, add_run(store).number, DONE)
    found = find_all(home)
    assert [name for name, finding in found.items() if finding.state is not State.OK] == []
    assert found["runs"].text == "1 run, 0 active"
    assert found["database"].text == f"schema {NEWEST}, no faults"
    assert found["git"].text[0].isdigit()
    assert found["uv"].text[0].isdigit()
    assert list(found) == [
        "home",
        "database",
        "runs",
        "code",
        "uploads",
        "disk",
        "git",
        "uv",
        "sandbox",
        "containers",
        "environments",
        "gpus",
    ]


def test_a_home_that_others_can_read(home):
    home.root.mkdir()
    home.root.chmod(0o755)
    assert (find(home)["home"].state, find(home)["home"].fix) == (State.WARNING, f"chmod 700 {home.root}")


def test_a_home_that_is_a_file(home):
    home.root.write_text("")
    found = find_all(home)
    assert (found["home"].state, found["git"].state) == (State.FAULT, State.OK)


def test_an_abandoned_run_is_closed_and_named(home):
    with SqliteDatabase.open(home) as store:
        locks = []
        spec = RunSpec(command=("true",), folder=Path("/code"))
        store.create_run(
            spec, this_process(), lambda number: locks.append(RunLock.create(home.run_folder(number)))
        )
        assert find(home)["runs"].text == "1 run, 1 active"
        locks[0].release()
        found = find(home)["runs"]
        assert (found.state, found.text) == (State.WARNING, "1 run, 0 active; closed as interrupted: 1")
        assert store.get(1).status is RunStatus.INTERRUPTED
    assert find(home)["runs"].state is State.OK


def test_folders_and_rows_that_do_not_match(home):
    with SqliteDatabase.open(home) as store:
        for _ in range(2):
            finish(store, add_run(store).number, DONE)
    home.run_folder(8).mkdir()
    (home.run_folder(8) / "outputs").mkdir()
    home.run_folder(2).rename(home.run_folder(9))
    text = (home.run_folder(9) / "run.json").read_text()
    (home.run_folder(9) / "run.json").write_text(text.replace('"number": 2', '"number": 9'))
    found = [finding for finding in examine_files(home) if finding.name == "run folders"]
    assert [(finding.text, finding.fix, finding.hint) for finding in found] == [
        ("run folders with a record that are missing from the database: 9", "conjure doctor --reindex", None),
        (
            "run folders that are not in the database and have no readable record: 8",
            None,
            f"look into {home.run_folder(8)}",
        ),
        ("runs in the database without a folder: 2", None, None),
    ]
    rebuild(home)
    found = [finding.text for finding in examine_files(home) if finding.name == "run folders"]
    assert "run folders with a record that are missing from the database: 9" not in found


def damage(path):
    with path.open("r+b") as file:
        file.write(b"x" * 200)


def test_a_damaged_database_is_found_set_aside_and_made_anew(home):
    with SqliteDatabase.open(home) as store:
        finish(store, add_run(store, labels=("a",)).number, DONE)
        before = store.get(1)
    damage(home.database)
    found = find(home)["database"]
    assert (found.state, found.fix) == (State.FAULT, "conjure doctor --reindex")
    rebuilt = rebuild(home)
    assert (rebuilt.numbers, rebuilt.unreadable) == ((1,), ())
    assert rebuilt.set_aside.read_bytes()[:3] == b"xxx"
    with SqliteDatabase.open(home) as store:
        assert store.get(1) == before
    damage(home.database)
    assert rebuild(home).set_aside != rebuilt.set_aside


def test_damage_in_the_middle_is_found(home):
    with SqliteDatabase.open(home) as store:
        for _ in range(5):
            add_run(store, "x" * 12_000)
        store._session.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = home.database.stat().st_size
    with home.database.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * 9000)
    assert find(home)["database"].state is State.FAULT
    assert rebuild(home).set_aside is not None
    assert find(home)["database"].state is State.OK


def test_a_newer_database_is_left_alone(home):
    with SqliteDatabase.open(home):
        pass
    with sqlite3.connect(home.database) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (999, 'later', '')")
    connection.close()
    found = find(home)["database"]
    assert found.state is State.FAULT
    assert "this version of conjure supports up to" in found.text
    with pytest.raises(StoreError, match="this version of conjure supports up to"):
        rebuild(home)
    assert [path.name for path in home.root.glob("*damaged*")] == []


def test_a_healthy_database_is_rebuilt_in_place(home):
    with SqliteDatabase.open(home) as store:
        finish(store, add_run(store).number, DONE)
        home.run_folder(5).mkdir()
    rebuilt = rebuild(home)
    assert (rebuilt.numbers, rebuilt.unreadable, rebuilt.set_aside) == ((1,), (5,), None)


@pytest.mark.parametrize(
    ("version", "state"), [("2.31.9", State.FAULT), ("2.32.0", State.OK), (None, State.FAULT)]
)
def test_git_must_be_new_enough(monkeypatch, version, state):
    monkeypatch.setattr(doctor, "_version", lambda *_: version)
    assert doctor._git().state is state


def named(home, name):
    return [
        (finding.state, finding.text, finding.fix) for finding in examine_files(home) if finding.name == name
    ]


def with_outputs(home, store):
    """A run that has ended, with a saved output."""
    number = add_run(store).number
    advance(store, number, RunStatus.SAVING)
    add_outputs(home, number, {"made": "x"})
    store.set_facts(number, outputs=OutputFacts(1, 1))
    store.end_run(number, DONE)
    return number


@pytest.mark.parametrize("content", [None, "", "{", "[" * 100_000, '{"number": 2}'])
def test_a_lost_record_is_told_and_written_anew_from_the_database(home, content):
    with SqliteDatabase.open(home) as store:
        number = with_outputs(home, store)
        before = store.get(number)
        path = home.run_folder(number) / "run.json"
        path.unlink() if content is None else path.write_text(content)
    fix = "conjure doctor --reindex"
    assert named(home, "records") == [(State.FAULT, "run.json is missing or cannot be read: 1", fix)]
    assert rebuild(home).unreadable == ()
    assert named(home, "records") == []
    assert read_record(home.run_folder(number)) == before


def test_a_record_that_says_something_else_than_the_database(home):
    with SqliteDatabase.open(home) as store:
        number = with_outputs(home, store)
        store._session.connection.execute("UPDATE runs SET exit_code = 1, end_reason = 'nonzero_exit'")
    assert named(home, "records")[0][1] == "run.json and the database disagree: 1"
    rebuild(home)
    assert named(home, "records") == []
    with SqliteDatabase.open(home) as store:
        assert store.get(number).status is RunStatus.COMPLETE


def test_parts_of_run_folders_that_are_gone(home):
    with SqliteDatabase.open(home) as store:
        numbers = [with_outputs(home, store) for _ in range(4)]
        removed = with_outputs(home, store)
        remove(home, store, f"runs/{removed}")
    assert named(home, "run files") == []
    folders = [home.run_folder(number) for number in numbers]
    (folders[0] / "log.jsonl").unlink()
    (folders[1] / "manifest.json").unlink()
    (folders[2] / "manifest.json").write_text("[" * 100_000)
    shutil.rmtree(folders[3] / "outputs")
    assert sorted(text for _, text, _ in named(home, "run files")) == [
        "log.jsonl is missing, so the logs of these runs are lost: 1",
        "manifest.json cannot be read, so outputs cannot be checked: 3",
        "manifest.json is missing, so outputs cannot be checked: 2",
        "their outputs are missing, but were not removed with `conjure rm`: 4",
    ]
    with SqliteDatabase.open(home) as store:
        with pytest.raises(NotFoundError, match=r"runs/2 cannot be checked: \S+manifest\.json is missing"):
            verify(home, store, "2")
        with pytest.raises(StoreError, match=r"manifest\.json is damaged"):
            verify(home, store, "3")
        assert verify(home, store, "4").faults == (f"1 file missing: there is no {folders[3] / 'outputs'}",)
    with pytest.raises(NotFoundError, match=r"the outputs of run 4 were saved, but \S+outputs is gone"):
        recover(home, 4)
    with pytest.raises(NotFoundError, match="the files of run 5 were removed"):
        recover(home, 5)
    with pytest.raises(NotFoundError, match="run 1 does not need to be recovered: its outputs were saved"):
        recover(home, 1)


def empty(repository):
    shutil.rmtree(repository)
    repository.mkdir()


def no_head(repository):
    (repository / "HEAD").unlink()


def garbage_head(repository):
    (repository / "HEAD").write_bytes(b"\0\1garbage")


def garbage_settings(repository):
    (repository / "config").write_text("[core\n")


def no_references(repository):
    shutil.rmtree(repository / "refs")


@pytest.mark.parametrize("fault", [empty, no_head, garbage_head, garbage_settings, no_references])
def test_a_damaged_code_store_is_told_and_mended(home, tmp_path, fault):
    source = tmp_path / "source"
    write_files(source, {"a.py": "a"})
    taken = snapshot.snapshot(home, source, number=1)
    with SqliteDatabase.open(home) as store:
        store.set_facts(add_run(store).number, code=CodeFacts(taken.tree))
    assert named(home, "code") == [(State.OK, "of 1 run", None)]
    fault(home.code_repository)
    state, _, fix = named(home, "code")[0]
    assert (state, fix) == (State.FAULT, "conjure doctor --reindex")
    rebuild(home)
    if fault is empty:
        text = "the code of these runs is lost, so they cannot be run again: 1"
        assert named(home, "code") == [(State.FAULT, text, None)]
    else:
        assert named(home, "code") == [(State.OK, "of 1 run", None)]
    assert snapshot.snapshot(home, source, number=2).tree == taken.tree


def test_an_empty_code_store_hinders_no_run(home, tmp_path):
    home.create()
    home.code_repository.mkdir()
    write_files(tmp_path / "source", {"a.py": "a"})
    taken = snapshot.snapshot(home, tmp_path / "source", number=1)
    assert code_store.missing_code(home, {1: taken.tree, 2: "0" * 40}) == [2]


def test_uploads_without_their_parts(home, tmp_path):
    (tmp_path / "data").write_text("x")
    for name in ("good", "bad", "ugly"):
        upload(home, tmp_path / "data", name)
    (home.uploads / "bad" / "1" / "manifest.json").unlink()
    shutil.rmtree(home.uploads / "ugly" / "1" / "folder", ignore_errors=True)
    shutil.rmtree(home.uploads / "ugly" / "1" / "file", ignore_errors=True)
    assert named(home, "uploads")[0][1] == "damaged or without their files: bad@1, ugly@1"


def test_what_killed_processes_left_is_told_and_pruned(home):
    with SqliteDatabase.open(home) as store:
        number = with_outputs(home, store)
        going_on = add_run(store).number
        lock = RunLock.take_if_free(home.run_folder(going_on))
        for name in (number, going_on):
            with Folder.open(home.run_folder(name)) as folder:
                DiskReserve(folder).allocate()
        write_files(
            home.run_folder(number),
            {".run.json.abcd1234": "x", ".manifest.json.00000000": "", "processes.json": "{}"},
        )
        RunLock.create(home.run_folder(7)).release()
        code_store.repair_store(home)
        git = own_git(home.code_repository)
        tree = git("mktree").decode().strip()
        git("update-ref", f"refs/runs/-{2**22 + 5}", tree)  # no pid is as large
        git("update-ref", f"refs/runs/-{os.getpid()}", tree)
    state, text, fix = named(home, "leftovers")[0]
    assert (state, text.split(";")[0], fix) == (
        State.WARNING,
        "6 things that killed processes left",
        "conjure prune",
    )
    with SqliteDatabase.open(home) as store:
        freed = prune(home, store)
    assert (freed.leftovers, freed.not_done) == (5, ())
    assert named(home, "leftovers") == []
    assert named(home, "run folders") == []
    assert not home.run_folder(7).exists()
    assert (home.run_folder(going_on) / "ballast").is_dir()
    assert git("for-each-ref", "--format=%(refname)").decode().split() == [f"refs/runs/-{os.getpid()}"]
    lock.release()
