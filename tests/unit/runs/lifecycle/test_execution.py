"""How a run is closed that never came to its command, and what is then left of earlier attempts."""

import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from conjure.core.trees import remove_tree
from conjure.errors import NotFoundError, StoreError
from conjure.runs.artifacts import attempts
from conjure.runs.artifacts.attempts import archive_attempt
from conjure.runs.artifacts.manifest import Manifest
from conjure.runs.artifacts.outputs import Baseline
from conjure.runs.artifacts.team_upload import RunUploader
from conjure.runs.database.base import STOP, DatabaseAwayError
from conjure.runs.database.open_database import open_database
from conjure.runs.database.record_files import read_record
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.executors.command import Exit, Job
from conjure.runs.host.process import this_process
from conjure.runs.lifecycle import execution, heartbeat
from conjure.runs.lifecycle.command_monitor import CommandResult
from conjure.runs.lifecycle.execution import EndRun, RunContext, build, close, how_it_ended, mount, save
from conjure.runs.lifecycle.heartbeat import Heartbeat
from conjure.runs.lifecycle.recovery import recover
from conjure.runs.maintenance.doctor import rebuild
from conjure.runs.scheduling.scheduler_start import this_queue
from conjure.runs.schema.process_facts import Usage
from conjure.runs.schema.record import CodeFacts, EnvironmentFacts
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from conjure.runs.telemetry.logs import NOTE, LogTail
from conjure.runs.telemetry.metrics import Summary
from support.casting import add_run, advance
from support.repositories import read_files, write_files

FAILED = Ending(EndReason.BUILD_FAILED, message="no such package")
STOPPED = Ending(EndReason.STOP_REQUESTED)
DIED = Ending(EndReason.SUPERVISOR_DIED)
DONE = CommandResult(Exit(code=0), None, None, 1.0, Usage())
CHECKPOINTS = {f"state/{number}": str(number) for number in range(3)}


@contextmanager
def supervising(store, record, attempt):
    """A run as its supervisor has it."""
    run = RunContext(
        *(store.home, store, record.number, record.spec, time.monotonic(), lambda _: True),
        Heartbeat(record.number, attempt),
        RunUploader(store, record.number, attempt),
    )
    with run.folders:
        yield run


def begin_again(store, number):
    """Have an attempt end that was killed, and the next one begin, up to building."""
    store.retry_run(number, DIED, this_queue(store.home), host="here", delay_s=0.0)
    archive_attempt(store.home.run_folder(number), len(store.get(number).attempts))
    attempt = store.begin_attempt(number, this_process())
    store.move(number, RunStatus.BUILDING)
    return attempt


@pytest.mark.parametrize("attempts", [0, 1])
def test_a_working_folder_without_a_command_stays_only_for_what_earlier_attempts_left(store, attempts):
    record = add_run(store, retry=1)
    number = record.number
    attempt = store.begin_attempt(number, this_process())
    if attempts:
        advance(store, number, RunStatus.RUNNING)
        attempt = begin_again(store, number)
    else:
        advance(store, number, RunStatus.BUILDING)
    with supervising(store, record, attempt) as run:
        run.folders.make_work()
        close(run, FAILED, None)
    assert store.get(number).ending == FAILED
    assert RunFolder.of(store.home, number).work.exists() == bool(attempts)


def test_a_command_goes_on_while_the_database_cannot_be_read_and_hears_of_wishes_again(home, store):
    record = add_run(store)
    attempt = store.begin_attempt(record.number, this_process())
    with open_database(home) as other:
        other.request_end(record.number, STOP)
    with supervising(store, record, attempt) as run:
        store._session.connection.close()  # as good as a file that cannot be read
        assert run.requested_end() is None
        assert run.requested_end() is EndReason.STOP_REQUESTED


@pytest.mark.parametrize(
    ("packages", "notes"),
    [
        ({"numpy": "2.0", "Some_Thing": "1"}, []),
        (
            {"numpy": "2.1", "rich": "13"},
            [
                "packages that differ from those of run 1:"
                " numpy 2.0 → 2.1, rich none → 13, some-thing 1 → none"
            ],
        ),
        (
            {"numpy": "2.0", "some-thing": "1", **dict.fromkeys("abcdef", "1")},
            [
                "packages that differ from those of run 1: a none → 1, b none → 1, c none → 1, d none → 1,"
                " e none → 1 …; see `conjure diff 1 2`"
            ],
        ),
    ],
)
def test_the_log_of_a_rerun_names_the_packages_that_differ(store, monkeypatch, packages, notes):
    first = add_run(store).number
    store.set_facts(first, environment=EnvironmentFacts("digest", "", {"numpy": "2.0", "some.thing": "1"}))
    record = store.create_run(
        store.get(first).spec,
        this_process(store.home),
        lambda number: store.home.run_folder(number).mkdir(),
        rerun_of=first,
    )
    store.set_facts(record.number, code=CodeFacts(tree=""))
    built = SimpleNamespace(digest="now", python="python", packages=packages, resolved=None)
    monkeypatch.setattr(execution.environment_build, "build", lambda *_, **__: built)
    with supervising(store, record, store.begin_attempt(record.number, this_process())) as run:
        build(run)
        run.log.close()
    log = LogTail(RunFolder.of(store.home, record.number).log).read()
    assert [entry.text.rstrip("\n") for entry in log if entry.stream == NOTE] == notes


def test_a_kill_is_heard_while_it_is_looked_at_what_a_command_may_import(store, monkeypatch):
    record = add_run(store)
    store.set_facts(record.number, code=CodeFacts(tree=""))
    built = SimpleNamespace(digest="now", python="python", packages={}, resolved=None)
    monkeypatch.setattr(execution.environment_build, "build", lambda *_, **__: built)
    with supervising(store, record, store.begin_attempt(record.number, this_process())) as run:

        def look(*_):
            run.told_to_die = True
            time.sleep(60.0)

        monkeypatch.setattr(execution, "identity_of", look)
        with pytest.raises(EndRun) as over:
            build(run)
        assert over.value.ending.reason is EndReason.KILL_REQUESTED


class TestWhatAnEarlierAttemptLeft:
    @pytest.fixture
    def record(self, store):
        """A run whose first attempt was killed at work, and whose second one builds."""
        record = add_run(store, retry=9, checkpoint=["state/"])
        number = record.number
        attempt = store.begin_attempt(number, this_process())
        advance(store, number, RunStatus.RUNNING)
        with supervising(store, record, attempt) as run:
            run.folders.make_work()
            Baseline({}).save(RunFolder(run.folder).baseline)
            write_files(run.work, {**CHECKPOINTS, "other": "o"})
        begin_again(store, number)
        return record

    def mount_until(self, store, record, ending):
        """Mount, which does not come to its end."""
        with supervising(store, record, store.newest_attempt(record.number)) as run:
            run.folders.make_work()
            with pytest.raises(EndRun):
                mount(run)
            if ending is not None:
                close(run, ending, None)

    def recovered(self, store, number):
        recover(store.home, number)
        return read_files(RunFolder.of(store.home, number).outputs)

    def test_is_recovered_as_the_next_one_has_it_once_it_is_being_removed(self, store, record, monkeypatch):
        def remove_half(folder, name):
            if name == "work":
                (folder.here / "work" / "state" / "0").unlink()
                raise EndRun(STOPPED)

        monkeypatch.setattr(attempts, "remove_entry", remove_half)
        self.mount_until(store, record, STOPPED)
        monkeypatch.undo()
        assert self.recovered(store, record.number) == CHECKPOINTS

    def test_is_recovered_after_one_that_was_killed_while_it_was_given_that(self, store, record, monkeypatch):
        copy_chosen = attempts.copy_chosen

        def copy_half(source, work, globs, handed, **_):
            copy_chosen(source, work, ["state/0"], handed)
            raise OSError("cut off")

        monkeypatch.setattr(attempts, "copy_chosen", copy_half)
        self.mount_until(store, record, None)
        monkeypatch.undo()
        attempt = begin_again(store, record.number)
        with supervising(store, record, attempt) as run:
            run.folders.make_work()
            close(run, STOPPED, None)
        assert self.recovered(store, record.number) == {**CHECKPOINTS, "other": "o"}


class Sending:
    """An uploader of outputs and the clock by which it takes so long; each try but the last one fails.

    Args:
        tries: Of each try, how many seconds it takes and how many objects it gets through.
    """

    def __init__(self, monkeypatch, tries):
        self._tries = iter(tries)
        self.now, self.sent_outputs = 0.0, 0
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self.take)
        monkeypatch.setattr(execution, "time", clock)

    def take(self, seconds):
        self.now += seconds

    def store_outputs(self, *_):
        seconds, sent = next(self._tries, (0.0, None))
        self.now += seconds
        if sent is None:
            return "digest"
        self.sent_outputs += sent
        raise StoreError("the object store is away")


@pytest.fixture
def send(store, monkeypatch):
    """Sends the outputs of a run, by tries that take so long."""
    record = add_run(store)

    def send(*tries):
        with supervising(store, record, store.begin_attempt(record.number, this_process())) as run:
            run.uploader = Sending(monkeypatch, tries)
            return execution._share_outputs(run, Manifest(()))

    return send


PATIENCE_S = Heartbeat(1, 1).give_up_after_s


@pytest.mark.parametrize(
    "tries",
    [
        [(PATIENCE_S * 3, 0), (1.0, 0)],
        [(60.0, 1)] * 20,
        [(5.0, 0), (PATIENCE_S * 2, 0), (5.0, 0)],
    ],
    ids=["after a long time of sending", "again and again, with progress", "in the midst of a large file"],
)
def test_a_store_that_is_away_for_a_moment_fails_no_run_that_takes_long_to_send(send, tries):
    assert send(*tries) == "digest"


def test_a_store_that_is_away_for_longer_fails_the_run(send):
    with pytest.raises(StoreError):
        send(*[(60.0, 0)] * 20)


@contextmanager
def running(store, **spec):
    """A run whose command is running."""
    record = add_run(store, **spec)
    attempt = store.begin_attempt(record.number, this_process())
    advance(store, record.number, RunStatus.RUNNING)
    with supervising(store, record, attempt) as run:
        yield run


class TestADatabaseThatIsRebuiltWhileACommandRuns:
    @pytest.fixture
    def run(self, store):
        with running(store) as run:
            run.folders.make_work()
            write_files(run.work, {"made": "m"})
            store._session.connection.close()  # as good as a damaged file
            store.home.database.write_bytes(b"damaged" * 1000)
            yield run

    def test_still_records_how_the_run_ended(self, home, store, run):
        rebuild(home)
        assert run.requested_end() is None  # by which it is opened anew
        assert store.facts(run.number).status is RunStatus.REQUESTED
        run.note_usage(Usage(cpu_s=1.0))
        save(run, Baseline({}), DONE)
        close(run, how_it_ended(DONE), DONE)
        assert store.get(run.number).status is RunStatus.COMPLETE
        assert read_files(RunFolder(run.folder).outputs) == {"made": "m"}

    def test_is_waited_for_while_it_lacks_the_run(self, home, store, run, monkeypatch):
        record = read_record(run.folder)
        monkeypatch.setattr(SqliteDatabase, "reindex", lambda _: ([], []))  # which is yet to come
        rebuild(home)
        assert run.requested_end() is None
        run.note_usage(Usage(cpu_s=1.0))
        run.index([Summary("loss", 1, 1, 1.0, 1.0, 1.0)])
        run.note_rung(0, 1.0)

        def rebuild_row(_):
            with open_database(home) as doctors:
                doctors.put_record(record)

        monkeypatch.setattr(execution, "time", SimpleNamespace(monotonic=time.monotonic, sleep=rebuild_row))
        save(run, Baseline({}), DONE)
        assert store.get(run.number).status is RunStatus.SAVING

    def test_is_not_waited_for_once_the_run_was_removed(self, home, run, monkeypatch):
        monkeypatch.setattr(SqliteDatabase, "reindex", lambda _: ([], []))
        rebuild(home)
        assert run.requested_end() is None
        remove_tree(run.folder)
        clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: pytest.fail("it is waited for"))
        monkeypatch.setattr(execution, "time", clock)
        with pytest.raises(NotFoundError):
            save(run, Baseline({}), DONE)


class TestAServerThatGoesAwayOnceACommandIsRunning:
    @pytest.fixture
    def go_away(self, store, monkeypatch):
        """Has the store's next call of a name find the server away, and something happen meanwhile."""
        monkeypatch.setattr(heartbeat, "_TRY_EVERY_S", 0.0)

        def go_away(name, meanwhile):
            act = getattr(store, name)

            def fail(*_, **__):
                monkeypatch.setattr(store, name, act)
                meanwhile()
                raise DatabaseAwayError("the server is away")

            monkeypatch.setattr(store, name, fail)

        return go_away

    @pytest.mark.parametrize("name", ["facts", "rung_metric"])
    def test_loses_nothing_that_a_command_made_when_it_is_stopped_meanwhile(
        self, store, go_away, monkeypatch, name
    ):
        record = add_run(store)
        attempt = store.begin_attempt(record.number, this_process())
        advance(store, record.number, RunStatus.MOUNTING)
        with supervising(store, record, attempt) as run:
            run.folders.make_work()
            write_files(run.work, {"made": "m"})
            job = Job(("sleep", "60"), run.work, {})
            monkeypatch.setattr(execution, "_job", lambda *_: job)
            go_away(name, lambda: setattr(run, "told_to_end", True))
            result = execution.execute(run, None, None)
            save(run, Baseline({}), result)
            close(run, how_it_ended(result), result)
            assert read_files(RunFolder(run.folder).outputs) == {"made": "m"}
        assert store.get(record.number).status is RunStatus.STOPPED

    def test_is_waited_for_when_a_run_is_stopped_that_may_be_tried_again(self, store, go_away):
        with running(store, retry=1) as run:
            go_away("get", lambda: setattr(run, "told_to_end", True))
            assert not execution._leave_to_queue(run, Ending(EndReason.COMPLETED, 0))

    def test_is_not_waited_for_when_a_run_is_killed(self, store, go_away):
        with running(store, retry=1) as run:
            go_away("get", lambda: setattr(run, "told_to_die", True))
            with pytest.raises(EndRun) as over:
                execution._leave_to_queue(run, Ending(EndReason.COMPLETED, 0))
            assert over.value.ending.reason is EndReason.KILL_REQUESTED


def test_a_kill_is_heard_while_the_last_checkpoint_is_sent(store):
    with running(store, retry=2) as run:

        def send():
            run.told_to_die = True
            time.sleep(60.0)

        run.uploader.send_last_checkpoint = send
        with pytest.raises(EndRun) as over:
            execution._leave_to_queue(run, DIED)
        assert over.value.ending.reason is EndReason.KILL_REQUESTED
