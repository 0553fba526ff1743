"""What a supervisor does at each step of a run: how it is built, started, saved, tried again and closed."""

import errno
import math
import os
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from conjure.core.home import Home
from conjure.core.trees import remove_tree
from conjure.errors import BuildError, NotFoundError, StoreError
from conjure.runs.artifacts import attempts
from conjure.runs.artifacts.attempts import archive_attempt
from conjure.runs.artifacts.manifest import Manifest
from conjure.runs.artifacts.outputs import Baseline
from conjure.runs.artifacts.run_folders import RunFolders
from conjure.runs.artifacts.team_transfer import send_inputs
from conjure.runs.artifacts.team_upload import RunUploader
from conjure.runs.code.code_store import reference
from conjure.runs.code.git import own_git
from conjure.runs.code.snapshot import snapshot
from conjure.runs.database.base import STOP, DatabaseAwayError, SupersededError
from conjure.runs.database.open_database import open_database
from conjure.runs.database.record_files import read_record
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.database.sweep_rows import TrialClaim
from conjure.runs.distributed.connection import Invitation, accept, find_invitation
from conjure.runs.distributed.node_coordinator import NodeLostError, WorkerNodes
from conjure.runs.environments.environment_build import Environment
from conjure.runs.environments.images import Image
from conjure.runs.executors.command import Exit, Job, NotStartedError, Ranks
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.host.process import KILL_SIGNAL, find_process, this_process
from conjure.runs.lifecycle import execution, heartbeat
from conjure.runs.lifecycle.command_environment import WorkingDirectory
from conjure.runs.lifecycle.command_monitor import CommandResult
from conjure.runs.lifecycle.execution import (
    EndRun,
    RunContext,
    build,
    close,
    how_it_ended,
    mount,
    ranks_of,
    save,
    take_checkpoints,
)
from conjure.runs.lifecycle.heartbeat import Heartbeat
from conjure.runs.lifecycle.recovery import recover
from conjure.runs.lifecycle.submission import request_of_this_process
from conjure.runs.maintenance.doctor import rebuild
from conjure.runs.scheduling.run_queue import write_request
from conjure.runs.scheduling.scheduler_start import this_queue
from conjure.runs.schema.argv import to_arguments
from conjure.runs.schema.process_facts import Owner, Usage
from conjure.runs.schema.record import CodeFacts, EnvironmentFacts, MountFacts, OutputFacts, RunRecord
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.spec import EnvironmentChoice, RunSpec
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from conjure.runs.telemetry.logs import NOTE, LogTail
from conjure.runs.telemetry.metrics import Summary
from support.casting import add_run, advance, finish
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
        (
            {"numpy": "2.0", "some-thing": "1", **dict.fromkeys("abcde", "1")},
            [
                "packages that differ from those of run 1: a none → 1, b none → 1, c none → 1, d none → 1,"
                " e none → 1"
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

    def test_is_given_to_the_next_one_and_then_removed(self, store, record):
        number = record.number
        first = RunFolder.of(store.home, number).attempt(1)
        first.metrics.write_text('{"name": "loss", "step": 3, "value": 1.5, "time": 0}\n')
        with supervising(store, record, store.newest_attempt(number)) as run:
            run.folders.make_work()
            mount(run)
            assert read_files(run.work) == CHECKPOINTS
            assert notes(run) == ["attempt 2 with 3 files of the one before"]
        assert not first.work.exists()
        assert store.summaries(number)["loss"].points == 1
        assert store.facts(number).status is RunStatus.MOUNTING

    @pytest.mark.parametrize(("kind", "files"), [("command", 3), ("finetune", 0)])
    def test_is_given_to_a_command_of_conjures_own_only_with_what_it_goes_on_from(
        self, store, record, kind, files
    ):
        spec = replace(record.spec, kind=kind, checkpoint=("last.pt", "state/"))
        again = replace(store.get(record.number), spec=spec)
        with supervising(store, record, 2) as run:
            run.folders.make_work()
            assert take_checkpoints(run.home, again, 2, run.folders).files == files

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


@pytest.mark.parametrize(("nodes", "files"), [(1, 1), (2, 0)])
def test_several_nodes_go_on_only_from_what_all_of_them_can_have(member, shared_store, nodes, files):
    """What an attempt left on one of them, but had not sent, the others have not."""
    asked = {"on": "gpu", "distributed": 1, "nodes": nodes, "retry": 1, "checkpoint": ("state/",)}
    record = add_run(shared_store, **asked)
    number = record.number
    attempt = shared_store.begin_attempt(number, this_process(member))
    advance(shared_store, number, RunStatus.RUNNING)
    with supervising(shared_store, record, attempt) as run:
        run.folders.make_work()
        Baseline({}).save(RunFolder(run.folder).baseline)
        write_files(run.work, {"state/0": "0"})
    begin_again(shared_store, number)
    with supervising(shared_store, record, 2) as run:
        run.folders.make_work()
        again = shared_store.get(number)
        assert take_checkpoints(member, again, 2, run.folders).files == files


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


def test_how_a_command_stands_is_there_for_others_while_it_goes_on(store):
    with running(store) as run:
        run.index([Summary("loss", 1, 1, 1.5, 1.5, 1.5)])
        run.note_usage(Usage(cpu_s=7.0))
        assert store.summaries(run.number)["loss"].points == 1
        assert store.get(run.number).usage.cpu_s == 7.0


def test_how_a_trial_stands_at_a_step_is_there_for_its_sweep(store):
    sweep = store.create_sweep({}, trials=1, parallel=1, rung_metric="loss")
    record = store.create_run(
        RunSpec(command=("true",), folder=Path("/code")),
        this_process(store.home),
        lambda number: store.home.run_folder(number).mkdir(parents=True),
        trial=TrialClaim(sweep, 0, 1, {}),
    )
    with supervising(store, record, store.begin_attempt(record.number, this_process())) as run:
        run.note_rung(1, 0.5)
        run.note_rung(2, math.nan)
    assert store.rungs(sweep)[record.number].values == {1: 0.5, 2: None}


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


def notes(run):
    """What its log says beside what its command printed."""
    run.log.flush()
    return [
        entry.text.rstrip("\n") for entry in LogTail(RunFolder(run.folder).log).read() if entry.stream == NOTE
    ]


@contextmanager
def mounting(store, **spec):
    """A run whose command is about to start in an empty folder."""
    record = add_run(store, **spec)
    attempt = store.begin_attempt(record.number, this_process())
    advance(store, record.number, RunStatus.MOUNTING)
    with supervising(store, record, attempt) as run:
        run.folders.make_work()
        yield run


EMPTY = CodeFacts(tree="")


@pytest.fixture
def start(store, monkeypatch):
    """Has a run be built whose environment is there."""
    built = Environment("digest", Path("python"), Path("/bin"), {"tqdm": "4.66"}, None)
    monkeypatch.setattr(execution.environment_build, "build", lambda *_, **__: built)

    @contextmanager
    def start(code=EMPTY, **spec):
        record = add_run(store, **spec)
        store.set_facts(record.number, code=code)
        attempt = store.begin_attempt(record.number, this_process())
        advance(store, record.number, RunStatus.BUILDING)
        with supervising(store, record, attempt) as run:
            yield run

    return start


class TestBuilding:
    def test_writes_down_what_the_run_runs_with(self, store, start, monkeypatch):
        monkeypatch.setattr(execution, "identity_of", lambda *_: "identity")
        with start() as run:
            build(run)
        record = store.get(run.number)
        assert record.environment == EnvironmentFacts("digest", "python", {"tqdm": "4.66"})
        assert record.identity == "identity"

    def test_sets_room_aside_for_the_runs_end(self, start):
        with start() as run:
            build(run)
            assert (run.folder / "ballast").is_dir()

    def test_makes_the_folder_to_start_in_which_git_does_not_know_when_it_is_empty(self, start):
        with start(CodeFacts(tree="", subfolder="a")) as run:
            place, _ = build(run)
            assert place.folder == run.work / "a"
            assert place.folder.is_dir()

    def test_tells_of_what_the_code_is_not_faithful_in(self, start):
        with start(CodeFacts(tree="", warnings=("a submodule is missing",))) as run:
            build(run)
            assert notes(run) == ["a submodule is missing"]

    @pytest.mark.parametrize(
        ("idempotent", "identity", "is_told"), [(True, None, True), (True, "x", False), (False, None, False)]
    )
    def test_tells_who_asked_for_it_that_no_equal_run_can_be_found(
        self, start, monkeypatch, idempotent, identity, is_told
    ):
        monkeypatch.setattr(execution, "identity_of", lambda *_: identity)
        with start(idempotent=idempotent) as run:
            build(run)
            assert (
                any(note.startswith("identical runs cannot be recognized") for note in notes(run)) == is_told
            )

    def test_is_over_where_the_working_folder_was_replaced_meanwhile(self, start, monkeypatch):
        write = execution.write_code

        def write_and_replace(home, record, folders):
            write(home, record, folders)
            work = RunFolder.of(home, record.number).work
            work.rename(work.with_name("elsewhere"))
            work.mkdir()

        monkeypatch.setattr(execution, "write_code", write_and_replace)
        with start() as run, pytest.raises(EndRun) as over:
            build(run)
        assert over.value.ending.reason is EndReason.CODE_FAILED


@contextmanager
def keeping_handlers():
    """Puts back what handled signals: a supervisor has its own handlers."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, KILL_SIGNAL)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class TestAWholeRun:
    @pytest.fixture(autouse=True)
    def keep_handlers(self):
        with keeping_handlers():
            yield

    @pytest.fixture
    def supervised(self, start, monkeypatch):
        """A run that was supervised from building on, whose command did something and ended so."""
        monkeypatch.setattr(execution, "_job", lambda *_: "job")

        @contextmanager
        def supervised(result, act=lambda _: None, **spec):
            def watch(run, _):
                write_files(run.work, {"made": "m"})
                act(run)
                return result

            monkeypatch.setattr(execution, "_watch", watch)
            with start(**spec) as run:
                calls = []
                run.uploader.start = lambda: calls.append("started")
                execution.supervise(run)
                assert calls == ["started"]
                yield run

        return supervised

    def test_ends_with_its_record_closed_and_its_outputs_saved(self, store, supervised):
        with supervised(DONE) as run:
            assert read_files(RunFolder(run.folder).outputs) == {"made": "m"}
            assert not run.work.exists()
        record = store.get(run.number)
        assert (record.ending, record.outputs.files) == (Ending(EndReason.COMPLETED, 0), 1)

    def test_that_was_killed_saves_nothing_and_keeps_it(self, store, supervised):
        killed = CommandResult(Exit(signal=9), EndReason.KILL_REQUESTED, None, 1.0, Usage())
        with supervised(killed) as run:
            assert read_files(run.work) == {"made": "m"}
        assert (store.get(run.number).status, store.get(run.number).outputs) == (RunStatus.KILLED, None)

    def test_that_is_tried_again_saves_nothing_yet(self, store, supervised):
        def keep_request(run):
            write_request(run.home, run.number, request_of_this_process(run.home, run.spec, 0.0, "local"))

        lost = CommandResult(Exit(signal=9, is_lost=True), None, None, 1.0, Usage())
        with supervised(lost, keep_request, retry=1) as run:
            assert read_files(run.work) == {"made": "m"}
        assert store.get(run.number).waits_in_queue

    def test_that_could_not_be_built_says_why(self, store, start, monkeypatch):
        def fail(*_, **__):
            raise BuildError("no such package")

        monkeypatch.setattr(execution.environment_build, "build", fail)
        with start() as run:
            execution.supervise(run)
        assert store.get(run.number).ending == FAILED

    @pytest.mark.parametrize(
        ("number", "name"), [(signal.SIGTERM, "told_to_end"), (KILL_SIGNAL, "told_to_die")]
    )
    def test_hears_of_a_shutdown_and_of_a_kill_by_signals(self, supervised, number, name):
        with supervised(DONE, lambda _: os.kill(os.getpid(), number)) as run:
            assert getattr(run, name)


def test_a_node_has_the_code_that_another_machine_sent_and_keeps_it(team, tmp_path, folder):
    theirs, ours = (team.join(Home(tmp_path / name)) for name in ("theirs", "ours"))
    write_files(folder, {"code.py": "print(1)\n"})
    with open_database(theirs) as store:
        number = add_run(store, on="gpu").number
        store.set_facts(number, code=CodeFacts(tree=snapshot(theirs, folder, number=number).tree))
        record = store.get(number)
    send_inputs(theirs, number)
    own = tmp_path / "of the run"
    own.mkdir()
    with RunFolders(own) as folders:
        execution.write_code(ours, record, folders)
    assert read_files(own / "work") == {"code.py": "print(1)\n"}
    kept = own_git(ours.code_repository)("for-each-ref", "--format=%(refname)").decode().split()
    assert kept == [reference(number)]


def test_what_is_added_to_an_image_is_recorded_beside_it(store, monkeypatch):
    """No engine is asked: the image is there, and so is what is to be made of it."""
    base, whole = Image("sha256:base"), Image("sha256:whole")
    layer = SimpleNamespace(digest="layer", packages={"tqdm": "4.66"}, image=whole, resolved=("tqdm",))
    monkeypatch.setattr(execution, "prepare_image", lambda *_: base)
    monkeypatch.setattr(execution, "layer_digest", lambda *_: "layer")
    monkeypatch.setattr(execution, "build_layer", lambda request: {"layer": layer}[request.digest])
    plain = EnvironmentChoice(image="debian:12")
    for choice, image, facts in (
        (plain, base, EnvironmentFacts("sha256:base", "")),
        (
            replace(plain, pip=("tqdm",)),
            whole,
            EnvironmentFacts("layer", "", {"tqdm": "4.66"}, "sha256:base", "sha256:whole", ("tqdm",)),
        ),
    ):
        with mounting(store, environment=choice) as run:
            place = WorkingDirectory(run.work, run.work)
            assert execution._environment(run, place) == (image, facts)


class TestStarting:
    @pytest.fixture
    def watched(self, monkeypatch):
        """The commands that are started, in place of their processes."""
        begun = []
        monkeypatch.setattr(execution, "_watch", lambda _, job: begun.append(job) or DONE)
        monkeypatch.setattr(execution, "_job", lambda *_: "job")
        return begun

    def test_a_command_is_running_once_it_is_started(self, store, watched):
        with mounting(store) as run:
            assert execution.execute(run, None, None) is DONE
            assert store.facts(run.number).status is RunStatus.RUNNING
        assert watched == ["job"]

    def test_one_that_is_to_stop_is_not_started(self, store, watched):
        with mounting(store) as run:
            run.told_to_end = True
            with pytest.raises(EndRun) as over:
                execution.execute(run, None, None)
            assert store.facts(run.number).status is RunStatus.MOUNTING
        assert (over.value.ending, watched) == (STOPPED, [])

    def test_one_that_cannot_be_started_ends_as_in_a_shell(self, store, monkeypatch):
        refusal = NotStartedError("no such program: true", 127)
        monkeypatch.setattr(execution, "_job", lambda *_: refusal)
        with mounting(store) as run:
            result = execution.execute(run, None, None)
            assert notes(run) == ["no such program: true"]
        assert (result.exit, result.message) == (Exit(code=127), "no such program: true")
        assert how_it_ended(result).reason is EndReason.NONZERO_EXIT

    @pytest.mark.parametrize(
        ("spec", "watches"),
        [({"retry": 1, "on": "gpu"}, True), ({"retry": 1}, False), ({"on": "gpu"}, False)],
    )
    @pytest.mark.usefixtures("watched")
    def test_checkpoints_are_sent_where_another_node_may_need_them(self, store, spec, watches):
        with mounting(store, checkpoint=("state/",), **spec) as run:
            sent = []
            run.uploader.watch_checkpoints = lambda place, globs: sent.append((place, globs))
            run.uploader.end_checkpoints = lambda: sent.append("end")
            execution.execute(run, None, None)
        assert sent == [*([(1, ("state/",))] if watches else []), "end"]


class TestACommandThatIsReady:
    ENVIRONMENT = Environment("digest", Path("/e/bin/python"), Path("/e/bin"), {"conjure": "1"}, None)

    def test_is_told_its_run_and_starts_in_its_folder(self, store):
        with mounting(store, distributed=2, variables={"GIVEN": "x"}) as run:
            job = execution._job(run, WorkingDirectory(run.work, run.work / "a"), self.ENVIRONMENT)
        assert (job.arguments, job.folder) == (to_arguments(("true",)), run.work / "a")
        assert (job.variables["CONJURE_RUN"], job.variables["GIVEN"]) == ("1", "x")
        assert (job.ranks, job.sandbox, job.container) == (Ranks(2), None, None)

    def test_is_none_where_its_sandbox_cannot_be_made(self, store, monkeypatch):
        def fail(*_):
            raise BuildError("there is no python on PATH")

        monkeypatch.setattr(execution.environment_build, "find_interpreter", fail)
        with mounting(store, sandbox=True) as run:
            error = execution._job(run, WorkingDirectory(run.work, run.work), self.ENVIRONMENT)
        assert (str(error), error.exit_code) == ("there is no python on PATH", 125)


def test_how_many_processes_carry_out_a_command_and_where():
    def asked(**spec):
        return RunSpec(command=("true",), folder=Path("/code"), **spec)

    assert ranks_of(asked(distributed=2), 0, None) == Ranks(2)
    assert ranks_of(asked(distributed=2, kind="finetune"), 0, None) == Ranks(2, labelled=False)
    several = asked(distributed=2, nodes=3, on="gpu")
    assert ranks_of(several, 1, "10.0.0.1") == Ranks(2, node=1, nodes=3, address="10.0.0.1")


def test_what_is_mounted_is_there_and_what_of_it_is_not_is_told(store):
    given = finish(store, add_run(store).number, Ending(EndReason.COMPLETED, 0)).number
    saved = RunFolder.of(store.home, given).outputs
    write_files(saved, {"data/a.txt": "a"})
    (saved / "data" / "link").symlink_to("/etc")
    with mounting(store) as run:
        source = f"runs/{given}/data"
        store.set_facts(run.number, mounts=(MountFacts(source, "data", read_only=False, source=source),))
        mount(run)
        assert read_files(run.work) == {"data/a.txt": "a"}
        assert notes(run) == [f"mount {source}: link is a link that points outside"]


def test_a_mount_stands_where_the_command_starts():
    record = RunRecord(1, RunSpec(command=("true",), folder=Path("/")), code=CodeFacts("tree", "a/b"))
    assert execution._from_root(record, "data") == "a/b/data"
    assert execution._from_root(record, "../data") == "a/data"
    assert execution._from_root(replace(record, code=None), "data") == "data"


@pytest.mark.parametrize(
    ("ended", "reason", "ending"),
    [
        (Exit(code=0), None, Ending(EndReason.COMPLETED, 0)),
        (Exit(code=3), None, Ending(EndReason.NONZERO_EXIT, 3)),
        (Exit(signal=9), None, Ending(EndReason.SIGNALLED, None, 9)),
        (Exit(signal=9, is_lost=True), None, DIED),
        (Exit(code=0), EndReason.TIMEOUT, Ending(EndReason.TIMEOUT, 0)),
        (Exit(signal=9, is_lost=True), EndReason.TIMEOUT, Ending(EndReason.TIMEOUT, None, 9)),
    ],
)
def test_the_ending_that_follows_from_how_a_command_ended(ended, reason, ending):
    assert how_it_ended(CommandResult(ended, reason, None, 1.0, Usage())) == ending


class TestSeveralNodes:
    @pytest.fixture
    def run(self, store):
        """A run on two nodes, as the supervisor on the first one has it."""
        with mounting(store, on="gpu", distributed=1, nodes=2) as run:
            store.set_request(run.number, self.request_of(run))
            run.worker_nodes = WorkerNodes(2, 1, join_within_s=0.2)
            yield run
            run.worker_nodes.close()

    def join(self, run, *said):
        """What the supervisor of the other one does until it has what the command needs."""
        connection = accept(run.worker_nodes.invitation)
        token = run.worker_nodes.invitation.token
        connection.send("hello", token=token, node=1, host="host-1")
        for kind in said:
            connection.send(kind)
        return connection

    def test_are_told_where_the_first_one_is(self, store, run):
        execution.invite_worker_nodes(run)
        assert find_invitation(store.request(run.number), 1) == run.worker_nodes.invitation

    def test_are_waited_for_and_named_in_the_log(self, run):
        connection = self.join(run, "ready")
        assert execution.wait_for_worker_nodes(run) is None
        assert notes(run) == [f"nodes: {os.uname().nodename}, host-1"]
        assert execution._ranks(run) == Ranks(1, nodes=2, address=run.worker_nodes.own_address)
        connection.close()

    def test_of_which_one_does_not_come_end_the_attempt(self, run):
        ending = execution.wait_for_worker_nodes(run)
        assert ending.reason is EndReason.SUPERVISOR_DIED
        assert ending.message.startswith("node 2 of 2 did not join within ")

    def test_of_which_one_is_lost_start_no_command(self, store, start, monkeypatch):
        monkeypatch.setattr(execution, "_watch", lambda *_: pytest.fail("it was started"))
        with start(on="gpu", distributed=1, nodes=2) as run:
            store.set_request(run.number, self.request_of(run))
            invited = []

            def wait():
                invited.append(find_invitation(store.request(run.number), 1))
                raise NodeLostError("node 2 of 2 (host-1) was lost")

            nodes = SimpleNamespace(
                invitation=Invitation(1, "", "h", (), 9, "t"), wait=wait, told_to_end=False
            )
            run.worker_nodes = SimpleNamespace(**vars(nodes), close=lambda: None)
            with keeping_handlers():
                execution.supervise(run)
        assert invited == [nodes.invitation]
        ending = Ending(EndReason.SUPERVISOR_DIED, message="node 2 of 2 (host-1) was lost")
        assert store.get(run.number).ending == ending

    def request_of(self, run):
        return request_of_this_process(run.home, run.spec, 0.0, "gpu").to_json()

    def test_may_be_told_to_end_by_their_cluster(self, run):
        connection = self.join(run, "told to end", "ready")
        execution.wait_for_worker_nodes(run)
        assert run.requested_end() is EndReason.STOP_REQUESTED
        connection.close()

    def test_are_let_go_at_the_end(self, run):
        invitation = run.worker_nodes.invitation
        close(run, STOPPED, None)
        assert accept(invitation) is None

    def test_are_nothing_to_a_run_that_has_none(self, store):
        with mounting(store, distributed=2) as run:
            execution.invite_worker_nodes(run)
            assert execution.wait_for_worker_nodes(run) is None
            assert run.requested_end() is None
            assert execution._ranks(run) == Ranks(2)


class TestLeavingARunToItsQueue:
    @pytest.fixture
    def run(self, store):
        """A run that may have a second attempt, whose command was running."""
        with running(store, retry=1) as run:
            write_request(store.home, run.number, request_of_this_process(store.home, run.spec, 0.0, "local"))
            yield run

    @pytest.fixture
    def sent(self, run):
        """Whether the last checkpoint was sent."""
        sent = []
        run.uploader.send_last_checkpoint = lambda: sent.append(True)
        return sent

    def test_has_it_wait_for_another_attempt_and_says_so(self, store, run, sent):
        assert execution._leave_to_queue(run, DIED)
        assert store.get(run.number).waits_in_queue
        assert sent == [True]
        assert notes(run) == ["supervisor_died; another attempt follows"]

    def test_is_done_once_where_the_server_went_away_when_it_was_done(self, store, run):
        assert [execution._queue_again(run, DIED) for _ in range(2)] == [True, True]
        assert len(store.get(run.number).attempts) == 1

    def test_is_not_done_for_one_whose_command_came_to_its_end(self, run, sent):
        assert not execution._leave_to_queue(run, Ending(EndReason.COMPLETED, 0))
        assert (sent, notes(run)) == ([], [])


class TestSaving:
    def test_tells_what_was_passed_over_and_leaves_nothing_behind(self, store):
        with running(store) as run:
            run.folders.make_work()
            write_files(run.work, {"made": "m"})
            (run.work / "link").symlink_to("nowhere")
            save(run, Baseline({}), DONE)
            assert notes(run) == ["not saved: link is a broken link"]
            assert not run.work.exists()
        assert store.get(run.number).outputs == OutputFacts(1, 1)
        assert store.facts(run.number).status is RunStatus.SAVING

    def test_keeps_what_could_not_be_saved_and_says_where(self, store, monkeypatch):
        collect = execution.collect_outputs
        with running(store) as run:
            run.folders.make_work()
            write_files(run.work, {"other": "of another user"})
            unsaved = ("other cannot be saved",)
            monkeypatch.setattr(
                execution, "collect_outputs", lambda *given: collect(*given)._replace(unsaved=unsaved)
            )
            save(run, Baseline({}), DONE)
            assert [note.startswith(f"the working folder {run.work} is kept") for note in notes(run)] == [
                True
            ]
            assert run.work.is_dir()

    def test_has_the_room_that_was_set_aside(self, store, monkeypatch):
        with running(store) as run:
            run.reserve.allocate()
            run.folders.make_work()
            left, collect = [], execution.collect_outputs
            monkeypatch.setattr(
                execution,
                "collect_outputs",
                lambda *given: left.append((run.folder / "ballast").exists()) or collect(*given),
            )
            save(run, Baseline({}), DONE)
        assert left == [False]

    def test_that_fails_ends_the_run_with_what_its_command_said(self, store, monkeypatch):
        def fail(*_):
            raise OSError(errno.EIO, "Input/output error", "made")

        monkeypatch.setattr(execution, "collect_outputs", fail)
        failed = CommandResult(Exit(code=3), None, None, 1.0, Usage())
        with running(store) as run, pytest.raises(EndRun) as over:
            save(run, Baseline({}), failed)
        message = "Input/output error: made"
        assert over.value.ending == Ending(EndReason.SAVE_FAILED, 3, message=message)


class TestClosing:
    def test_leaves_nothing_of_what_a_supervisor_needs(self, store):
        with running(store) as run, subprocess.Popen(["sleep", "60"]) as left:
            run.exclude = lambda process: process.pid != left.pid
            run.reserve.allocate()
            run.marks.note_pipes([])
            RunFolder(run.folder).lock.symlink_to("nowhere")
            close(run, DIED, None)
            assert find_process(left.pid) is None
            assert {each.name for each in run.folder.iterdir()} == {"lock", "log.jsonl", "run.json"}
            with RunLock.possession(run.folder) as nobody_has_it:
                assert nobody_has_it

    def test_records_how_long_it_took_and_what_it_used(self, store):
        with running(store) as run:
            run.requested = time.monotonic() - 100.0
            result = CommandResult(Exit(code=0), None, None, 1.23456, Usage(cpu_s=7.0))
            store.move(run.number, RunStatus.SAVING)
            close(run, how_it_ended(result), result)
        record = store.get(run.number)
        assert (record.command_s, record.usage.cpu_s) == (1.235, 7.0)
        assert 100.0 <= record.total_s < 200.0

    def test_is_not_done_by_a_supervisor_that_was_replaced(self, store):
        with running(store) as run:
            run.folders.make_work()
            store.begin_attempt(run.number, Owner("elsewhere", "boot", 2, "2"))
            assert run.requested_end() is EndReason.KILL_REQUESTED
            with pytest.raises(SupersededError, match="run 1 was taken over"):
                close(run, STOPPED, None)
            assert run.work.exists()
        assert store.facts(run.number).status is RunStatus.RUNNING

    @pytest.mark.parametrize(
        ("ending", "patience_s"),
        [(FAILED, 600.0), (Ending(EndReason.KILL_REQUESTED), 0.0), (None, 600.0)],
    )
    def test_sends_the_rest_and_waits_for_the_store_unless_it_was_killed(self, store, ending, patience_s):
        record = add_run(store)
        attempt = store.begin_attempt(record.number, this_process())
        advance(store, record.number, RunStatus.BUILDING)
        with supervising(store, record, attempt) as run:
            sent = []
            run.uploader.finish = lambda patience_s, _: sent.append(patience_s)
            run.uploader.export_record = lambda: sent.append("the record")
            close(run, ending, None)
        assert sent == [patience_s, *(["the record"] if ending is not None else [])]
        assert store.facts(record.number).ending == ending

    def test_records_nothing_in_a_home_that_was_removed(self, home, store):
        with running(store) as run:
            for path in home.root.glob("conjure.db*"):
                path.unlink()
            close(run, STOPPED, None)
            assert not home.database.exists()


class TestWritingDownWhatIsTheResult:
    @pytest.fixture
    def clock(self, monkeypatch):
        """The time, which passes only while somebody waits."""
        clock = SimpleNamespace(now=0.0, pauses=0)

        def sleep(seconds):
            clock.now += seconds
            clock.pauses += 1

        monkeypatch.setattr(execution, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
        return clock

    def test_waits_for_room_and_stays_known_to_live(self, store, clock):
        def fail():
            raise StoreError("the disk is full")

        with running(store) as run:
            run.heartbeat = SimpleNamespace(beat=lambda _: beats.append(clock.now), give_up_after_s=600.0)
            beats = []
            with pytest.raises(StoreError, match="the disk is full"):
                execution._write_result(run, fail)
        assert clock.pauses == len(beats) == 31

    def test_opens_a_database_anew_that_was_lost_meanwhile(self, store, clock):
        with running(store) as run:
            store._session.connection.close()  # as good as a damaged file that was rebuilt
            execution._write_result(run, lambda: run.store.set_facts(run.number, usage=Usage(cpu_s=7.0)))
        assert store.get(run.number).usage.cpu_s == 7.0
        assert clock.pauses == 1
