"""What lists, traces and repairs ask of the store."""

import json

import pytest

from conjure.errors import NotFoundError
from conjure.runs.database.base import RunFilter, RunRelation
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.host.process import this_process
from conjure.runs.lifecycle.abandoned_runs import mark_interrupted
from conjure.runs.schema.record import MountFacts
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from conjure.runs.telemetry.metrics import Summary
from support.casting import OWNER, add_run, advance, finish

DONE = Ending(EndReason.COMPLETED, 0)
FAILED = Ending(EndReason.NONZERO_EXIT, 3)


def numbers(runs):
    return [run.number for run in runs]


def report(home, number, *values, name="loss"):
    lines = [{"name": name, "step": step, "value": value, "time": 1} for step, value in enumerate(values)]
    path = home.run_folder(number) / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def summary(name, value):
    return Summary(name, 1, 0, value, value, value)


@pytest.fixture
def some(store):
    """1 complete, 2 failed and archived, 3 and 4 labelled, 4 still running."""
    finish(store, add_run(store, "echo one").number, DONE)
    finish(store, add_run(store, "echo two").number, FAILED)
    finish(store, add_run(store, "echo three", labels=("a", "b"), params={"lr": "1"}).number, DONE)
    advance(store, add_run(store, "echo four", labels=("b",)).number, RunStatus.RUNNING)
    store.set_archived(2, archived=True)
    for number, value in ((1, 0.5), (3, 0.1)):
        store.set_summaries(number, [summary("loss", value)])
    return store


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (RunFilter(), [4, 3, 1]),
        (RunFilter(limit=2), [4, 3]),
        (RunFilter(archived=True), [4, 3, 2, 1]),
        (RunFilter(statuses=(RunStatus.FAILED,), archived=True), [2]),
        (RunFilter(statuses=(RunStatus.RUNNING, RunStatus.COMPLETE)), [4, 3, 1]),
        (RunFilter(labels=("a",)), [3]),
        (RunFilter(labels=("a", "b")), [4, 3]),
        (RunFilter(sort_metric="loss"), [3, 1]),
        (RunFilter(sort_metric="loss", highest_first=True, limit=1), [1]),
        (RunFilter(sort_metric="none"), []),
    ],
)
def test_a_listing_has_the_runs_that_a_selection_has(some, wanted, expected):
    assert numbers(some.listing(wanted)) == numbers(some.select(wanted)) == expected
    assert some.count(wanted) >= len(expected)
    assert some.listing_page(wanted) == (some.listing(wanted), some.count(wanted))


@pytest.mark.parametrize(
    ("wanted", "expected", "count"),
    [
        (RunFilter(search="echo", limit=2), [4, 3], 3),
        (RunFilter(search="echo", limit=2, offset=2), [1], 3),
        (RunFilter(search="LR"), [3], 1),
        (RunFilter(search='lr="1'), [], 0),
        (RunFilter(search="lr=1"), [3], 1),
        (RunFilter(search="cpus"), [], 0),  # it is in the JSON of every run, but in no param
        (RunFilter(search="echo", order="command", highest_first=True, limit=1), [3], 3),
        (RunFilter(order="param:lr", limit=2), [3, 4], 3),
        (RunFilter(search="echo", statuses=(RunStatus.COMPLETE,)), [3, 1], 2),
    ],
)
def test_a_page_has_a_part_and_knows_how_many_there_are(some, wanted, expected, count):
    found, total = some.listing_page(wanted)
    assert (numbers(found), total) == (expected, count)
    assert found == some.listing(wanted)
    assert total == some.count(wanted)


def test_a_listing_tells_what_the_record_tells(some):
    for run in some.listing(RunFilter(archived=True)):
        record = some.get(run.number)
        assert run.facts == record.facts
        assert (run.command, run.kind, run.description) == (record.spec.command_text, "command", "")
        assert (sorted(run.labels), run.params) == (sorted(record.labels), record.spec.params)
        assert (run.command_s, run.total_s) == (record.command_s, record.total_s)
        assert run.archived == (record.archived_at is not None)


def test_what_counts_is_all_and_not_the_limit(some):
    assert some.count(RunFilter(limit=1)) == 3


@pytest.mark.parametrize(
    "wanted",
    [RunFilter(limit=20), RunFilter(limit=20, labels=("a",)), RunFilter(limit=20, sort_metric="loss")],
)
def test_a_short_list_of_many_runs_sorts_nothing(some, wanted):
    statements = []
    some._session.connection.set_trace_callback(statements.append)
    some.listing(wanted)
    some._session.connection.set_trace_callback(None)
    (statement,) = statements
    plan = [row[3] for row in some._session.connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
    assert not [step for step in plan if "TEMP B-TREE FOR ORDER BY" in step or step == "SCAN metrics"], plan


def test_newest_values_of_some_runs(some):
    some.set_summaries(3, [summary("accuracy", 0.9)])
    assert some.latest_values([3, 4]) == {3: {"accuracy": 0.9, "loss": 0.1}}
    assert some.latest_values([]) == {}
    assert some.metric_names() == ["accuracy", "loss"]


def test_kinships(store):
    def reserve(number):
        store.home.run_folder(number).mkdir(parents=True)

    add_run(store)
    spec = RunSpec(command=("true",), folder=store.home.root)
    store.create_run(spec, OWNER, reserve, rerun_of=1)
    store.create_run(spec, OWNER, reserve, parent=2)
    assert store.kinships() == [RunRelation(2, 1, None), RunRelation(3, None, 2)]


def test_reindexing_leaves_a_run_that_goes_on_as_far_as_it_is(home, store):
    finish(store, add_run(store).number, DONE)
    advance(store, add_run(store).number, RunStatus.RUNNING)
    assert store.reindex() == ([1], [])
    assert store.get(2).status is RunStatus.RUNNING
    store.move(2, RunStatus.SAVING)
    assert store.end_run(2, DONE).status is RunStatus.COMPLETE


def test_reindexing_mends_rows_that_say_otherwise(home, store):
    record = finish(store, add_run(store, labels=("a",), project="jokes").number, DONE)
    report(home, 1, 3.0, 2.0)
    with store._session.transaction():
        store._session.connection.execute(
            "UPDATE runs SET exit_code = 9, end_reason = 'nonzero_exit', project = 'other'"
        )
        store._session.connection.execute("DELETE FROM run_labels")
    assert store.reindex() == ([1], [])
    assert store.get(1) == record
    assert store.summaries(1)["loss"] == Summary("loss", 2, 1, 2.0, 2.0, 3.0)


def test_summaries_are_made_to_say_what_the_file_says(home, store):
    add_run(store)
    store.set_summaries(1, [summary("loss", 9.0)])
    report(home, 1, 3.0, 1.0, 2.0)
    store.refresh_summaries(1)
    assert store.summaries(1) == {"loss": Summary("loss", 3, 2, 2.0, 1.0, 3.0)}


@pytest.mark.parametrize("act", [lambda store: store.refresh_summaries(1), lambda store: store.reindex()])
def test_what_an_attempt_reported_that_was_given_up_is_forgotten(home, store, act):
    add_run(store)
    store.set_summaries(1, [summary("loss", 9.0), summary("accuracy", 0.5)])
    finish(store, 1, DONE)
    report(home, 1, 3.0)  # of the next attempt, which says nothing of accuracy
    act(store)
    assert store.summaries(1) == {"loss": Summary("loss", 1, 0, 3.0, 3.0, 3.0)}


def test_closing_an_abandoned_run_takes_in_what_nobody_indexed(home, store):
    locks = []
    spec = RunSpec(command=("true",), folder=home.root)
    store.create_run(
        spec, this_process(), lambda number: locks.append(RunLock.create(home.run_folder(number)))
    )
    report(home, 1, 3.0, 2.0)
    locks[0].release()
    mark_interrupted(store, store.active())
    assert store.get(1).status is RunStatus.INTERRUPTED
    assert store.summaries(1)["loss"].last_value == 2.0


def test_rows_of_runs_that_are_not_there_are_found(home, store):
    add_run(store)
    store.set_facts(1, mounts=(MountFacts("uploads/a@1", "a", read_only=False, source="uploads/a@1"),))
    assert store.stray_rows() == []
    store._session.connection.execute("PRAGMA foreign_keys = OFF")
    store._session.connection.execute("DELETE FROM runs")
    assert store.stray_rows() == ["run_sources has rows of runs that are not there: 1"]


def test_numbers(some):
    assert some.numbers() == {1, 2, 3, 4}
    with pytest.raises(NotFoundError, match="there is no run 5; the newest is 4"):
        some.get(5)
