import sqlite3
from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.errors import StoreError
from conjure.runs.database.migrations import NEWEST
from conjure.runs.database.sqlite import Store
from conjure.runs.host.process import this_process
from conjure.runs.lifecycle.ownership import RunLock
from conjure.runs.maintenance import doctor
from conjure.runs.maintenance.doctor import State, examine, rebuild
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from support.casting import add_run, finish

DONE = Ending(EndReason.COMPLETED, 0)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def find(home):
    """What is found, by name; a name that comes twice has its last finding."""
    return {finding.name: finding for finding in examine(home)}


def test_nothing_is_made_by_looking(home):
    found = find(home)
    assert {finding.state for finding in found.values()} == {State.OK}
    assert "created by the first run" in found["home"].text
    assert not home.root.exists()


def test_all_is_well(home):
    with Store.open(home) as store:
        finish(store, add_run(store).number, DONE)
    found = find(home)
    assert [name for name, finding in found.items() if finding.state is not State.OK] == []
    assert found["runs"].text == "1 run, 0 active"
    assert found["database"].text == f"schema {NEWEST}, no faults"
    assert found["git"].text[0].isdigit()
    assert found["uv"].text[0].isdigit()
    assert list(found) == ["home", "database", "runs", "disk", "git", "uv", "environments", "gpus"]


def test_a_home_that_others_can_read(home):
    home.root.mkdir()
    home.root.chmod(0o755)
    assert (find(home)["home"].state, find(home)["home"].fix) == (State.WARNING, f"chmod 700 {home.root}")


def test_a_home_that_is_a_file(home):
    home.root.write_text("")
    found = find(home)
    assert (found["home"].state, found["git"].state) == (State.FAULT, State.OK)


def test_an_abandoned_run_is_closed_and_named(home):
    with Store.open(home) as store:
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
    with Store.open(home) as store:
        for _ in range(2):
            finish(store, add_run(store).number, DONE)
    home.run_folder(9).mkdir()
    home.run_folder(2).rename(home.root / "elsewhere")
    texts = [finding.text for finding in examine(home) if finding.name == "run folders"]
    assert texts == [
        "run folders missing from the database:  9",
        "runs in the database without a folder: 2",
    ]


def damage(path):
    with path.open("r+b") as file:
        file.write(b"x" * 200)


def test_a_damaged_database_is_found_set_aside_and_made_anew(home):
    with Store.open(home) as store:
        finish(store, add_run(store, labels=("a",)).number, DONE)
        before = store.get(1)
    damage(home.database)
    found = find(home)["database"]
    assert (found.state, found.fix) == (State.FAULT, "conjure doctor --reindex")
    rebuilt = rebuild(home)
    assert (rebuilt.numbers, rebuilt.unreadable) == ((1,), ())
    assert rebuilt.set_aside.read_bytes()[:3] == b"xxx"
    with Store.open(home) as store:
        assert store.get(1) == before
    damage(home.database)
    assert rebuild(home).set_aside != rebuilt.set_aside


def test_damage_in_the_middle_is_found(home):
    with Store.open(home) as store:
        for _ in range(5):
            add_run(store, "x" * 12_000)
        store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = home.database.stat().st_size
    with home.database.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * 9000)
    assert find(home)["database"].state is State.FAULT
    assert rebuild(home).set_aside is not None
    assert find(home)["database"].state is State.OK


def test_a_newer_database_is_left_alone(home):
    with Store.open(home):
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
    with Store.open(home) as store:
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
