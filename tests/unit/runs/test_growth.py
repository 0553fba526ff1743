"""With many runs, looking costs few queries and looks at files: counted here, and timed in benchmarks/."""

import sys
from collections import Counter
from contextlib import contextmanager

import pytest

from conjure.runs.artifacts.listing import list_resource
from conjure.runs.database.base import RunFilter
from conjure.runs.maintenance.pruning import prune
from conjure.runs.maintenance.removal import remove
from conjure.runs.schema.record import OutputFacts
from conjure.runs.schema.status import Ending, EndReason
from support.casting import add_run, finish
from support.homes import add_outputs

MANY = 30
_collected: list[Counter] = []


def _note(event, arguments):
    if _collected and event.startswith(("open", "os.")):
        below = str(arguments[0]) if arguments else ""
        _collected[-1][event if "/runs/" in below or event == "os.remove" else "elsewhere"] += 1


sys.addaudithook(_note)


@contextmanager
def looks():
    """What is done to files below ``runs/`` while the block lasts, by the name of Python's audit event."""
    _collected.append(Counter())
    try:
        yield _collected[-1]
    finally:
        _collected.pop()


@contextmanager
def statements(store):
    """The SQL statements that are carried out while the block lasts."""
    found: list[str] = []
    store._session.connection.set_trace_callback(found.append)
    try:
        yield found
    finally:
        store._session.connection.set_trace_callback(None)


@pytest.fixture
def many(home, store):
    """A store of runs that have ended and saved a file each."""
    for _ in range(MANY):
        number = add_run(store, labels=("a",)).number
        store.set_facts(number, outputs=OutputFacts(1, 1))
        finish(store, number, Ending(EndReason.COMPLETED, 0))
        add_outputs(home, number, {"made.txt": "x"})
    return store


@pytest.mark.parametrize(
    "look",
    [
        lambda home, store: list_resource(home, store, "runs"),
        lambda home, store: store.listing(RunFilter(archived=True)),
    ],
)
def test_a_list_of_all_runs_is_one_query_and_looks_into_no_folder(home, many, look):
    with statements(many) as queries, looks() as seen:
        assert len(look(home, many)) == MANY
    assert len(queries) == 1
    assert not seen


def test_pruning_looks_once_at_each_run_and_opens_nothing_of_it(home, many):
    with statements(many) as queries, looks() as seen:
        assert prune(home, many).size_bytes == 0
    assert len(queries) < 10
    del seen["elsewhere"]
    assert seen == {"os.listdir": MANY}


def test_reindexing_opens_the_record_and_the_metrics_of_each_run_and_no_more(many):
    with looks() as seen:
        assert many.reindex()[0] == list(range(1, MANY + 1))
    assert seen["open"] <= 2 * MANY
    assert seen["os.listdir"] == seen["os.scandir"] == 0


def test_removing_a_run_opens_none_of_its_files(home, many):
    add_outputs(home, 1, {f"{number}.txt": "x" for number in range(MANY)})
    with statements(many) as queries, looks() as seen:
        remove(home, many, "runs/1")
    assert MANY < seen["os.remove"] <= MANY + 5
    assert seen["open"] < 5
    assert len(queries) < 15
