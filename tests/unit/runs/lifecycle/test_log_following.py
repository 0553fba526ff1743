import json
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest

from conjure.core.trees import remove_tree
from conjure.runs.database.base import DatabaseAwayError
from conjure.runs.database.record_files import write_record
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.host.process import this_process
from conjure.runs.lifecycle import heartbeat, log_following
from conjure.runs.lifecycle.log_following import (
    Ended,
    Entered,
    Found,
    Printed,
    Queued,
    Waiting,
    _Merge,
    follow,
)
from conjure.runs.objects.base import segment
from conjure.runs.objects.index import Streams
from conjure.runs.scheduling import scheduler_start
from conjure.runs.scheduling.scheduler_start import this_queue
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.run_folder import LOG_FILE, RunFolder
from conjure.runs.schema.status import PHASES, Ending, EndReason, RunProgress, RunStatus
from conjure.runs.telemetry.logs import NOTE, STDOUT, LogEntry
from support.casting import add_run, advance


class Tail:
    """A log that gives what it is fed."""

    def __init__(self):
        self.entries = []

    def read(self):
        entries, self.entries = self.entries, []
        return iter(entries)


def facts(up_to, start=0.0):
    phases = PHASES[: PHASES.index(up_to) + 1]
    return RunProgress({phase: start + place for place, phase in enumerate(phases)})


def names(events):
    return [str(event.phase) if isinstance(event, Entered) else event.entry.text for event in events]


def test_output_comes_between_running_and_saving():
    tail = Tail()
    merge = _Merge(tail)
    tail.entries = [LogEntry(4.5, STDOUT, "hello")]
    assert names(merge.news(facts(RunStatus.SAVING))) == [
        "requested", "queued", "building", "mounting", "running", "hello", "saving",
    ]  # fmt: skip


def test_output_waits_for_the_phase_it_belongs_to():
    tail = Tail()
    merge = _Merge(tail)
    tail.entries = [LogEntry(4.5, STDOUT, "hello")]
    assert "hello" not in names(merge.news(facts(RunStatus.BUILDING)))
    assert names(merge.news(facts(RunStatus.RUNNING))) == ["mounting", "running", "hello"]


def test_notes_stand_where_their_time_is():
    tail = Tail()
    merge = _Merge(tail)
    tail.entries = [LogEntry(2.5, NOTE, "resolving"), LogEntry(4.5, STDOUT, "hello")]
    assert names(merge.news(facts(RunStatus.RUNNING))) == [
        "requested", "queued", "building", "resolving", "mounting", "running", "hello",
    ]  # fmt: skip


def test_a_note_of_the_moment_at_which_a_phase_began_is_of_that_phase():
    tail = Tail()
    merge = _Merge(tail)
    tail.entries = [LogEntry(2.0, NOTE, "resolving")]
    assert names(merge.news(facts(RunStatus.BUILDING)))[-2:] == ["building", "resolving"]


def test_the_next_attempt_comes_after_all_that_was_printed_in_the_one_before():
    tail = Tail()
    merge = _Merge(tail)
    list(merge.news(facts(RunStatus.BUILDING)))
    tail.entries = [LogEntry(4.5, STDOUT, "early")]
    assert (
        names(merge.news(facts(RunStatus.BUILDING))) == []
    )  # its command has not started, as far as is seen
    tail.entries = [LogEntry(4.6, STDOUT, "late")]
    assert names(merge.news(facts(RunStatus.QUEUED))) == ["early", "late", "queued"]
    assert names(merge.news(facts(RunStatus.BUILDING))) == ["building"]


def test_nothing_is_given_twice():
    tail = Tail()
    merge = _Merge(tail)
    list(merge.news(facts(RunStatus.RUNNING)))
    assert names(merge.news(facts(RunStatus.RUNNING))) == []
    tail.entries = [LogEntry(9.0, STDOUT, "late")]
    assert names(merge.news(facts(RunStatus.SAVING))) == ["late", "saving"]


def test_a_clock_set_back_keeps_the_order_of_phases_and_all_output():
    tail = Tail()
    merge = _Merge(tail)
    tail.entries = [LogEntry(-500.0, STDOUT, "before time"), LogEntry(-499.0, NOTE, "note")]
    seen = names(merge.news(facts(RunStatus.SAVING)))
    assert [name for name in seen if name in PHASES] == list(map(str, PHASES))
    assert seen.index("before time") > seen.index("running")
    assert seen[-1] == "saving"


def waits_for(store, number):
    events = follow(store.home, number, sleep=lambda _: None)
    reason = next(event.needs for event in events if isinstance(event, Queued))
    events.close()
    return reason


def test_of_a_run_that_waits_it_is_told_for_what(store):
    first, second = (add_run(store, on="gpu").number for _ in range(2))
    third = add_run(store, on="gpu", after=(second,)).number
    for number in (first, third):
        store.enqueue(number, Owner.queue_of_executor("gpu"))
    assert waits_for(store, first) == "room on gpu"
    assert waits_for(store, third) == f"run {second}"


def test_who_waits_is_there_if_the_scheduler_was_killed(store, monkeypatch):
    started, other = [], add_run(store).number
    number = add_run(store, after=(other,)).number
    monkeypatch.setattr(scheduler_start, "start_scheduler", started.append)
    events = follow(store.home, number, sleep=lambda _: None)
    assert isinstance(next(events), Found)
    store.enqueue(number, this_queue(store.home))
    assert next(event.needs for event in events if isinstance(event, Queued)) == f"run {other}"
    events.close()
    assert started == [store.home]


class Looks:
    """Follows a run of this process, whose time passes while the follower waits."""

    def __init__(self, store, monkeypatch):
        self.now, self.rests, self.checked = 0.0, [], []
        self.number = add_run(store).number
        store.begin_attempt(self.number, this_process(store.home))
        monkeypatch.setattr(log_following, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(log_following, "mark_interrupted", lambda *_: self.checked.append(self.now))
        self.events = follow(store.home, self.number, sleep=self.sleep)

    def sleep(self, seconds):
        self.rests.append(seconds)
        self.now += seconds

    def go_on(self, looks):
        """So many looks at which there is nothing new for the moment, or nothing more."""
        for _ in islice((event for event in self.events if isinstance(event, Waiting)), looks):
            pass
        return self.rests


@pytest.fixture
def looks(store, monkeypatch):
    looks = Looks(store, monkeypatch)
    with RunLock.possession(store.home.run_folder(looks.number)):
        yield looks
        looks.events.close()


def test_a_run_is_looked_at_often_after_something_happened_and_less_and_less_often_then(store, looks):
    quiet = [0.005]
    while quiet[-1] < 0.1:
        quiet.append(min(quiet[-1] * 1.3, 0.1))
    assert looks.go_on(len(quiet) + 1) == quiet
    advance(store, looks.number, RunStatus.BUILDING)
    looks.go_on(1)
    assert looks.go_on(1)[-2:] == [0.1, 0.005]


def test_a_run_that_waits_is_looked_at_four_times_a_second(store, looks):
    store.enqueue(looks.number, Owner.queue("another machine", "boot"))
    assert looks.go_on(30)[-1] == 0.25


def test_whether_somebody_has_the_run_is_looked_at_twice_a_second(looks):
    looks.go_on(40)
    assert 2.0 < looks.now < 4.0
    assert looks.checked == pytest.approx([0.5 * each for each in range(len(looks.checked))], abs=0.3)
    assert len(looks.checked) == pytest.approx(looks.now / 0.5, abs=1.5)


@pytest.mark.parametrize("call", ["facts", "get"])
def test_who_follows_a_run_stays_while_the_databases_server_is_away(store, monkeypatch, call):
    number = add_run(store).number
    events = follow(store.home, number, sleep=lambda _: None)
    assert isinstance(next(events), Found)
    store.set_facts(number, owner=replace(this_process(store.home), started="before"))  # it is gone
    away, answer = [1, 2], getattr(SqliteDatabase, call)

    def asked(self, number):
        if away:
            away.pop()
            raise DatabaseAwayError("the team's database cannot be reached: it is restarted")
        return answer(self, number)

    monkeypatch.setattr(SqliteDatabase, call, asked)
    monkeypatch.setattr(heartbeat, "_TRY_EVERY_S", 0.0)
    *_, last = events
    assert isinstance(last, Ended)
    assert away == []


def entry(text):
    return json.dumps({"time": 0.0, "stream": STDOUT, "text": text}) + "\n"


def test_a_run_is_followed_from_an_attempt_here_to_the_next_one_elsewhere(team, member, shared_store):
    record = add_run(shared_store, on="gpu", retry=1)
    number, folder = record.number, RunFolder.of(member, record.number)
    write_record(member, record)
    lock = RunLock.take_if_free(folder.path)
    folder.log.write_text(entry("first\n"))
    shared_store.begin_attempt(number, this_process(member))
    advance(shared_store, number, RunStatus.RUNNING)

    def send(attempt, text):
        with team.files(member) as files:
            files.objects.put(segment(number, attempt, LOG_FILE, 0), entry(text).encode())
        team.index.set_streams(number, Streams(attempt, len(entry(text)), 0))

    send(1, "first\n")
    events = islice(follow(member, number, sleep=lambda _: None), 100)
    assert next(each.entry.text for each in events if isinstance(each, Printed)) == "first\n"
    assert isinstance(next(events), Waiting)
    shared_store.begin_attempt(number, Owner("another machine", "boot", 7, "then"))
    lock.release()
    assert not [each for each in islice(events, 5) if isinstance(each, Printed)]  # it has sent nothing yet
    send(2, "second\n")
    assert next((each.entry.text for each in events if isinstance(each, Printed)), None) == "second\n"
    shared_store.end_run(number, Ending(EndReason.SUPERVISOR_DIED))
    assert not [each for each in events if isinstance(each, Printed)]


def test_what_a_run_elsewhere_printed_last_is_given_before_its_end(team, member, shared_store):
    number = add_run(shared_store, on="gpu").number
    shared_store.begin_attempt(number, Owner("another machine", "boot", 7, "then"))
    advance(shared_store, number, RunStatus.SAVING)
    remove_tree(member.run_folder(number))
    events = islice(follow(member, number, sleep=lambda _: None), 100)
    assert next(event for event in events if isinstance(event, Waiting))
    with team.files(member) as files:
        files.objects.put(segment(number, 1, LOG_FILE, 0), entry("last\n").encode())
    team.index.set_streams(number, Streams(1, len(entry("last\n")), 0))
    shared_store.end_run(number, Ending(EndReason.COMPLETED, 0))
    printed, end = events
    assert (printed.entry.text, type(end)) == ("last\n", Ended)
