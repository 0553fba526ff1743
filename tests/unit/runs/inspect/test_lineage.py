import pytest

from conjure.errors import NotFoundError
from conjure.runs.inspect.lineage import (
    Products,
    RelationKind,
    SourceKind,
    source_kind,
    source_text,
    trace_products,
    trace_sources,
)
from conjure.runs.schema.record import MountFacts
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import RunStatus
from support.casting import OWNER, add_run

FILE = "datasets/files/0123456789abcdef/jokes.csv"


def mount(source, target="in"):
    return MountFacts(source, target, read_only=False, source=source)


def add(store, *mounts, **kin):
    """A run that was given these."""
    spec = RunSpec(command=("true",), folder=store.home.root)
    reserve = lambda number: store.home.run_folder(number).mkdir(parents=True)  # noqa: E731
    record = store.create_run(spec, OWNER, reserve, **kin)
    store.set_facts(record.number, mounts=mounts)
    return record.number


@pytest.fixture
def family(store):
    """1 → 2 → 4; 1 → 4; an upload and a file → 2; 3 repeats 2; 5 was cast within 4."""
    add(store)
    add(store, mount("runs/1/data.txt", "a"), mount("uploads/jokes@1", "b"), mount(FILE, "c"))
    add(store, mount("runs/1/data.txt", "a"), rerun_of=2)
    add(store, mount("runs/2"), mount("runs/1/data.txt", "again"))
    add(store, parent=4)
    return store


def edges(trace):
    return {(edge.source, edge.target, edge.tie) for found in trace.edges.values() for edge in found}


def test_all_that_a_run_came_from(family):
    trace = trace_sources(family, 5)
    assert edges(trace) == {
        ("runs/4", "runs/5", RelationKind.STARTED),
        ("runs/2", "runs/4", RelationKind.MOUNT),
        ("runs/1", "runs/4", RelationKind.MOUNT),
        ("runs/1", "runs/2", RelationKind.MOUNT),
        ("uploads/jokes@1", "runs/2", RelationKind.MOUNT),
        (FILE, "runs/2", RelationKind.MOUNT),
    }
    assert set(trace.runs) == {"runs/5", "runs/4", "runs/2", "runs/1"}
    (first, *_) = trace.edges["runs/2"]
    assert (first.resource, first.place) == ("runs/1/data.txt", "a")


def test_all_that_came_from_a_run(family):
    trace = trace_products(family, 1)
    assert edges(trace) == {
        ("runs/1", "runs/2", RelationKind.MOUNT),
        ("runs/1", "runs/3", RelationKind.MOUNT),
        ("runs/1", "runs/4", RelationKind.MOUNT),
        ("runs/2", "runs/4", RelationKind.MOUNT),
        ("runs/2", "runs/3", RelationKind.RERUN),
        ("runs/4", "runs/5", RelationKind.STARTED),
    }
    assert trace.runs["runs/5"].facts.status is RunStatus.REQUESTED


def test_one_step_has_each_use(family):
    family.set_facts(5, mounts=(mount("runs/1/x", "x"), mount("runs/1/y", "y")))
    uses = [edge for edge in Products(family).of(1) if edge.target == "runs/5"]
    assert [(use.resource, use.place) for use in uses] == [("runs/1/x", "x"), ("runs/1/y", "y")]


def test_a_run_that_is_not_known_any_more_ends_the_trace(store):
    add(store, mount("runs/7/data"))
    trace = trace_sources(store, 1)
    assert trace.runs["runs/7"] is None
    assert trace.edges["runs/7"] == []


def test_a_long_chain(store):
    add_run(store)
    for number in range(1, 60):
        add(store, mount(f"runs/{number}"))
    assert len(trace_sources(store, 60).runs) == 60
    assert len(trace_products(store, 1).runs) == 60


def test_an_unknown_run(store):
    for trace in (trace_sources, trace_products):
        with pytest.raises(NotFoundError, match="there is no run 3"):
            trace(store, 3)


def test_names():
    assert [source_kind(name) for name in ("runs/3", "uploads/a@2", FILE)] == [
        SourceKind.RUN,
        SourceKind.UPLOAD,
        SourceKind.FILE,
    ]
    assert source_text(FILE) == "jokes.csv (local file, sha256 0123456789ab)"
    assert source_text("uploads/a@2") == "uploads/a@2"
