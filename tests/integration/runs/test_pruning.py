"""What prune frees, and what it never touches."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conjure.core.files import lock_folder
from conjure.core.home import Home
from conjure.runs.code import snapshot
from conjure.runs.database.base import Database
from conjure.runs.database.record_files import write_record
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.environments import environment_build, environment_locks
from conjure.runs.environments.environment_build import build
from conjure.runs.maintenance import pruning
from conjure.runs.maintenance.pruning import prune, recoverable
from conjure.runs.schema.record import EnvironmentFacts, MountFacts, OutputFacts, RunRecord
from conjure.runs.schema.spec import EnvironmentChoice, RunSpec
from conjure.runs.schema.status import PHASES, Ending, EndReason, RunProgress
from support.homes import add_outputs, add_work
from support.repositories import check_out, make_repository, read_files, write_files

_LATER = 2 * 3600


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").create()


@pytest.fixture
def store(home: Home):
    with SqliteDatabase.open(home) as store:
        yield store


def add_run(store: Database, number: int, *, ended: bool = True, **facts: object) -> None:
    """Put a run into the store."""
    folder = store.home.run_folder(number)
    folder.mkdir(parents=True, exist_ok=True)
    entered = {phase: 1000.0 + place for place, phase in enumerate(PHASES) if ended or place == 0}
    ending = Ending(EndReason.COMPLETED, 0) if ended else None
    spec = RunSpec(("true",), folder)
    store.put_record(
        RunRecord(number, spec, RunProgress(entered, 2000.0 if ended else None, ending), **facts)
    )


def test_working_folders_of_ended_runs_only(home: Home, store: Database) -> None:
    add_run(store, 1)
    add_run(store, 2, ended=False)
    add_run(store, 3)
    add_work(home, 1, {"half.bin": "12345"})
    add_work(home, 2, {"alive": "a"})
    add_outputs(home, 3, {"kept": "k"})
    assert recoverable(home, store) == []  # it was never scanned: its command never started
    (home.run_folder(1) / "before.json").touch()
    assert recoverable(home, store) == [1]
    freed = prune(home, store)
    assert (freed.working_folders, freed.size_bytes) == ((1,), 5)
    assert read_files(home.run_folder(2) / "work") == {"alive": "a"}
    assert read_files(home.run_folder(3) / "outputs") == {"kept": "k"}


def test_a_run_folder_that_cannot_be_read_keeps_the_others_from_nothing(home, store, monkeypatch) -> None:
    read = os.listdir

    def listdir(path: str) -> list[str]:
        if path == str(home.run_folder(1)):
            raise PermissionError(13, "Permission denied", path)
        return read(path)

    for number in (1, 2):
        add_run(store, number)
        add_work(home, number, {"half.bin": "12345"})
    monkeypatch.setattr(os, "listdir", listdir)
    assert prune(home, store).working_folders == (2,)


def test_an_upload_that_goes_on_is_let_alone_however_long_it_takes(home: Home, store: Database) -> None:
    write_files(home.root, {"uploads/images/.new-x/version/a": "", "uploads/left/.new-y/a": ""})
    with lock_folder(home.uploads / "images/.new-x"):
        prune(home, store, now=time.time() + _LATER)
    assert read_files(home.uploads) == {"images/.new-x/version/a": ""}
    prune(home, store, now=time.time() + _LATER)
    assert read_files(home.uploads) == {}


def test_an_upload_that_is_made_while_another_is_removed_stays(
    home: Home, store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(home.root, {"uploads/left/.new-y/a": ""})
    remove = pruning.remove_tree

    def remove_late(path: Path) -> None:
        remove(path)
        write_files(home.root, {"uploads/left/1/b": ""})

    monkeypatch.setattr(pruning, "remove_tree", remove_late)
    assert prune(home, store, now=time.time() + _LATER).not_done == ()
    assert read_files(home.uploads) == {"left/1/b": ""}


def test_kept_files_that_no_run_was_given(home: Home, store: Database) -> None:
    source = "datasets/files/aaa/data.csv"
    write_files(home.root, {source: "a", "datasets/files/bbb/x.csv": "b", "datasets/tokens/t": "t"})
    add_run(store, 1, mounts=(MountFacts("./data.csv", "data.csv", False, source),))
    assert prune(home, store).kept_files == 0  # so young that a run may just be getting it
    assert prune(home, store, now=time.time() + _LATER).kept_files == 1
    assert read_files(home.datasets) == {"files/aaa/data.csv": "a", "tokens/t": "t"}


@pytest.mark.parametrize(("everything", "environments"), [(False, 1), (True, 2)])
def test_what_runs_need_that_the_database_lacks_stays(home, store, everything, environments) -> None:
    write_files(home.root, {"datasets/files/aaa/data.csv": "a", "datasets/files/bbb/x.csv": "b"})
    mounts = (MountFacts("./data.csv", "data.csv", False, "datasets/files/aaa/data.csv"),)
    digests = "1" * 32, "2" * 32, "3" * 32
    for digest in digests:
        write_files(home.environments, {f"{digest}/bin/python": ""})
    for number, ended in ((1, True), (2, False)):
        facts = EnvironmentFacts(digests[number - 1], "")
        add_run(store, number, ended=ended, environment=facts, mounts=mounts)
        write_record(home, store.get(number))
    store._session.execute("DELETE FROM runs")
    freed = prune(home, store, everything=everything, now=time.time() + _LATER)
    assert (freed.kept_files, freed.environments) == (1, environments)
    assert read_files(home.datasets) == {"files/aaa/data.csv": "a"}


def test_what_crashes_left_behind(home: Home, store: Database) -> None:
    write_files(
        home.root,
        {
            ".code-x/code.git/config": "",
            "uploads/images/.new-x/version/a": "",
            "uploads/images/1/folder/a": "",
            "uploads/begun/.new-y/a": "",
        },
    )
    prune(home, store)
    assert len(read_files(home.uploads)) == 3
    prune(home, store, now=time.time() + _LATER)
    assert read_files(home.uploads) == {"images/1/folder/a": ""}
    assert not (home.root / ".code-x").exists()


class TestEnvironments:
    @pytest.fixture
    def built(self, home: Home) -> environment_build.Environment:
        built = build(home, EnvironmentChoice(base="none"), folder=home.root)
        # As when the process that used it has ended.
        os.close(environment_locks._in_use.pop((home, built.digest)))
        return built

    def test_recorded_ones_stay_unless_everything_goes(self, home: Home, store: Database, built) -> None:
        facts = EnvironmentFacts(built.digest, str(built.python))
        add_run(store, 1, environment=facts, archived_at=3000.0)
        assert prune(home, store).environments == 0
        assert prune(home, store, everything=True).environments == 1
        assert not built.prefix.exists()

    def test_removed_runs_need_none(self, home: Home, store: Database, built) -> None:
        facts = EnvironmentFacts(built.digest, str(built.python))
        add_run(store, 1, environment=facts, outputs=OutputFacts(removed=True))
        assert prune(home, store).environments == 1

    def test_runs_at_work_keep_theirs(self, home: Home, store: Database, built) -> None:
        facts = EnvironmentFacts(built.digest, str(built.python))
        add_run(store, 1, environment=facts, ended=False)
        assert prune(home, store, everything=True).environments == 0

    def test_one_in_use_by_another_process_stays(self, home: Home, store: Database, built) -> None:
        script = (
            "import sys; from pathlib import Path\n"
            "from conjure.core.home import Home\n"
            "from conjure.runs.environments.environment_build import build\n"
            "from conjure.runs.schema.spec import EnvironmentChoice\n"
            "build(Home(Path(sys.argv[1])), EnvironmentChoice(base='none'), folder=Path('/'))\n"
            "print('ready', flush=True); sys.stdin.read()\n"
        )
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", script, str(home.root)]
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as user:
            assert user.stdout.readline() == "ready\n"
            assert prune(home, store, everything=True).environments == 0
            user.stdin.close()
            user.wait()
        assert prune(home, store, everything=True).environments == 1
        assert not built.prefix.exists()


def test_mirrors_only_when_everything_goes(home: Home, store: Database, tmp_path: Path) -> None:
    make_repository(tmp_path / "remote", {"a": "a"})
    taken = snapshot.snapshot_remote(home, 1, str(tmp_path / "remote"))
    add_run(store, 1)
    assert prune(home, store).mirrors == 0
    assert prune(home, store, everything=True).mirrors == 1
    check_out(home, taken.tree, tmp_path / "out")
    assert read_files(tmp_path / "out") == {"a": "a"}
    snapshot.snapshot_remote(home, 2, str(tmp_path / "remote"))
