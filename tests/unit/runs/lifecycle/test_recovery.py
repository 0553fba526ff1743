"""Two who recover one run, and what is refused; recovering real runs is tried in `tests/integration/runs`."""

import errno
import json
from pathlib import Path

import pytest

from conjure.errors import ConflictError, NotFoundError, StoreError
from conjure.runs.artifacts import run_folders
from conjure.runs.artifacts.attempts import archive_attempt
from conjure.runs.artifacts.manifest import Manifest
from conjure.runs.artifacts.outputs import Baseline
from conjure.runs.artifacts.run_folders import RunFolders
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.host.process import this_process
from conjure.runs.lifecycle import recovery
from conjure.runs.lifecycle.recovery import collect_outputs, recover
from conjure.runs.objects.base import record_object
from conjure.runs.scheduling.scheduler_start import this_queue
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.record import OutputFacts
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from support.casting import add_run, advance, finish
from support.repositories import read_files, write_files

KILLED = Ending(EndReason.KILL_REQUESTED)


@pytest.fixture
def run(home):
    """A run that was killed, of which nothing is left to recover."""
    with SqliteDatabase.open(home) as store:
        return finish(store, add_run(store).number, KILLED).number


def keep_work(home, number):
    """Have a working folder kept of a run, with a file that its command made."""
    files = RunFolder.of(home, number)
    with RunFolders(files.path) as folders:
        folders.make_work()
        Baseline({}).save(files.baseline)
    write_files(files.work, {"made": "m"})
    return files


@pytest.fixture
def kept(home, run):
    """The files of that run, where its working folder is there after all."""
    return keep_work(home, run)


def test_a_run_that_another_recovers_is_said_to_be_recovered(home, run, monkeypatch):
    monkeypatch.setattr(RunLock, "take_when_free", RunLock.take_if_free)  # it is not waited for
    with RunLock.possession(home.run_folder(run)) as ours:
        assert ours
        with pytest.raises(ConflictError) as refused:
            recover(home, run)
    assert (str(refused.value), refused.value.fix) == ("run 1 is being recovered", "conjure info 1")


def test_a_run_that_another_has_just_recovered_does_not_need_to_be(home, run, monkeypatch):
    def wait_for_the_other(folder):
        with SqliteDatabase.open(home) as store:
            store.set_facts(run, outputs=OutputFacts(1, 5, recovered=True))
        (folder / "outputs").mkdir()
        return RunLock.take_if_free(folder)

    monkeypatch.setattr(RunLock, "take_when_free", wait_for_the_other)
    with pytest.raises(NotFoundError, match="run 1 does not need to be recovered"):
        recover(home, run)


def test_what_is_recovered_is_listed_and_what_is_passed_over_is_told(home, run, kept):
    (kept.work / "link").symlink_to("nowhere")
    told = []
    recover(home, run, told.append)
    assert told == ["not saved: link is a broken link"]
    assert [entry.path for entry in Manifest.load(kept.manifest).entries] == ["made"]
    with pytest.raises(NotFoundError, match="does not need to be recovered"):
        recover(home, run)


def test_a_working_folder_that_has_what_could_not_be_saved_is_kept_and_named(home, run, kept, monkeypatch):
    collect, told = recovery.collect, []
    write_files(kept.work, {"other": "of another user"})
    monkeypatch.setattr(recovery, "collect", lambda *args: collect(*args)._replace(unsaved=("other",)))
    recover(home, run, told.append)
    assert kept.work.exists()
    assert [line.startswith(f"the working folder {kept.work} is kept") for line in told] == [True]


def test_what_an_earlier_attempt_made_is_recovered_where_the_last_one_never_came_to_its_command(home, store):
    number = add_run(store, retry=1).number
    store.begin_attempt(number, this_process())
    advance(store, number, RunStatus.RUNNING)
    files = keep_work(home, number)
    store.retry_run(number, Ending(EndReason.SUPERVISOR_DIED), this_queue(home), host="here", delay_s=0.0)
    archive_attempt(files.path, 1)
    store.end_run(number, Ending(EndReason.STOP_REQUESTED))
    recover(home, number)
    assert read_files(files.outputs) == {"made": "m"}


def test_a_working_folder_that_cannot_be_removed_does_not_undo_what_was_recovered(
    home, run, kept, monkeypatch
):
    def refuse(_):
        raise OSError(errno.EXDEV, "it is a mount point")

    monkeypatch.setattr(run_folders, "clear", refuse)
    assert recover(home, run).outputs == OutputFacts(1, 1, recovered=True)
    assert read_files(kept.outputs) == {"made": "m"}


def test_what_was_pruned_of_an_earlier_attempt_is_said_to_be_lost(home):
    with SqliteDatabase.open(home) as store:
        number = add_run(store, retry=1).number
        store.begin_attempt(number, this_process())
        advance(store, number, RunStatus.RUNNING)
        store.retry_run(number, Ending(EndReason.SUPERVISOR_DIED), this_queue(home), host="here", delay_s=0.0)
        store.end_run(number, Ending(EndReason.STOP_REQUESTED))
    with pytest.raises(NotFoundError, match="the files of run 1 are lost"):
        recover(home, number)


@pytest.mark.parametrize(
    ("saved", "message", "fix"),
    [
        (None, "the files of run 1 are lost: .*work no longer exists", "conjure logs 1"),
        (OutputFacts(1, 5), "the outputs of run 1 were saved, but .*outputs is gone", "conjure doctor"),
        (OutputFacts(1, 5, removed=True), "the files of run 1 were removed with `conjure rm`", None),
    ],
)
def test_where_nothing_is_left_it_is_said_what_became_of_it(home, run, saved, message, fix):
    with SqliteDatabase.open(home) as store:
        store.set_facts(run, outputs=saved)
    with pytest.raises(NotFoundError, match=f"^{message}") as refused:
        recover(home, run)
    assert refused.value.fix == fix


def test_a_run_that_never_came_to_its_command_made_nothing(home):
    """Its working folder may be there, with nothing but the code."""
    with SqliteDatabase.open(home) as store:
        number = add_run(store).number
        advance(store, number, RunStatus.BUILDING)
        store.end_run(number, KILLED)
    keep_work(home, number).baseline.unlink()
    with pytest.raises(NotFoundError, match=r"^run 1 ended before its command started"):
        recover(home, number)


def test_a_run_that_goes_on_will_save_its_outputs_itself(home, store):
    number = add_run(store).number
    with pytest.raises(ConflictError, match=r"^run 1 is requested; it saves its outputs when") as refused:
        recover(home, number)
    assert refused.value.fix == "conjure stop 1"


@pytest.mark.parametrize("damaged", ["{", "[1]", '{"made": 5}'])
def test_outputs_that_cannot_be_told_from_inputs_stay_where_they_are(home, run, kept, damaged):
    kept.baseline.write_text(damaged)
    with pytest.raises(StoreError, match=r"before\.json is damaged") as refused:
        recover(home, run)
    assert refused.value.hint == f"copy what is wanted out of {kept.work}"
    assert read_files(kept.work) == {"made": "m"}


# ---- folders that are not the run's ------------------------------------------------------------------------

SPEC = RunSpec(command=("true",), folder=Path("/code"))


def test_what_a_link_in_the_place_of_its_folder_leads_to_is_not_touched(home, run, kept):
    moved = kept.path.rename(kept.path.with_name("moved"))
    kept.path.symlink_to(moved)
    with pytest.raises(ConflictError, match="folder was replaced by something else"):
        recover(home, run)
    assert read_files(moved / "work") == {"made": "m"}


def test_nothing_is_saved_once_another_folder_is_in_its_place(kept):
    with RunFolders(kept.path) as folders:
        moved = kept.path.rename(kept.path.with_name("moved"))
        kept.path.mkdir()
        with pytest.raises(ConflictError, match="folder was replaced by something else"):
            collect_outputs(folders, Baseline({}), SPEC)
    assert read_files(moved / "work") == {"made": "m"}


def test_nothing_is_written_down_of_outputs_that_were_moved_away_meanwhile(kept, monkeypatch):
    collect = recovery.collect

    def collect_and_lose(*args):
        collected = collect(*args)
        kept.outputs.rename(kept.path / "elsewhere")
        return collected

    monkeypatch.setattr(recovery, "collect", collect_and_lose)
    with RunFolders(kept.path) as folders, pytest.raises(ConflictError, match="was moved away"):
        collect_outputs(folders, Baseline({}), SPEC)
    assert not kept.manifest.exists()


# ---- in a team ---------------------------------------------------------------------------------------------


def test_what_is_recovered_is_there_for_the_team(team, member, shared_store):
    number = finish(shared_store, add_run(shared_store).number, KILLED).number
    files = keep_work(member, number)
    team.index.changed.add(number)
    record = recover(member, number)
    assert team.read(member, record.outputs.manifest) == {"made": b"m"}
    assert not files.work.exists()
    with team.files(member) as shared:
        assert json.loads(shared.objects.get(record_object(number)))["outputs"]["recovered"]


def test_what_an_attempt_left_here_is_not_taken_for_what_another_machine_made_since(member, shared_store):
    number = add_run(shared_store, on="gpu").number
    files = keep_work(member, number)
    shared_store.begin_attempt(number, Owner("elsewhere", "boot", 2, "2"))
    finish(shared_store, number, KILLED)
    with pytest.raises(ConflictError, match=r"^run 1 was executed on another machine") as refused:
        recover(member, number)
    assert refused.value.hint == "run `conjure recover 1` there"
    assert not files.outputs.exists()
