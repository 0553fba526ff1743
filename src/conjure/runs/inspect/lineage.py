"""Where a run came from, and what came from it: runs, uploads and local data files, joined by their uses.

Main entries: `sources_of` and `Products` for one step, `trace_sources` and `trace_products` for all of them.
Invariant: a trace names each thing once, however many ways lead to it.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from conjure.core.text import valid_utf8
from conjure.errors import NotFoundError
from conjure.runs.database.base import Database
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.resource import KEPT_FILES, RUNS, UPLOADS, Resource
from conjure.runs.schema.status import RunProgress


class RelationKind(StrEnum):
    """How a run came from something."""

    MOUNT = "mount"  # it was given its files
    RERUN = "rerun"  # it repeats it
    STARTED = "started"  # it was started by it


class SourceKind(StrEnum):
    """What a run can come from."""

    RUN = "run"
    UPLOAD = "upload"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Edge:
    """One use of one thing by a run.

    Attributes:
        source: What was used: ``runs/2``, ``uploads/jokes@1``, ``datasets/files/<digest>/jokes.csv``.
        target: The run that used it: ``runs/3``.
        tie: How.
        resource: What exactly was mounted, or None.
        place: Where in the working folder it was mounted, or None.
    """

    source: str
    target: str
    tie: RelationKind
    resource: str | None = None
    place: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The edge as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TracedRun:
    """As much of a run as a trace tells."""

    facts: RunProgress
    command: str

    def to_dict(self) -> dict[str, Any]:
        """Status and command as plain JSON values."""
        return {"status": str(self.facts.status), "command": self.command}


@dataclass(frozen=True, slots=True)
class Trace:
    """Everything reached from one run in one direction.

    Attributes:
        root: The run: ``runs/3``.
        edges: By name of a thing: the edges that lead further from it.
        runs: By name of a run: what is known of it, None where nothing is any more.
    """

    root: str
    edges: dict[str, list[Edge]]
    runs: dict[str, TracedRun | None]


def run_name(number: int) -> str:
    """The name of a run as a thing."""
    return f"{RUNS}/{number}"


def run_number(name: str) -> int | None:
    """The number of the run of that name, or None for another thing."""
    return Resource.of_source(name).number


def source_kind(name: str) -> SourceKind:
    """What sort of thing has this name."""
    return {RUNS: SourceKind.RUN, UPLOADS: SourceKind.UPLOAD}.get(
        Resource.of_source(name).kind, SourceKind.FILE
    )


def source_text(source: str) -> str:
    """The source of a mount; a local file by its name, and the digest by which it is kept."""
    resource = Resource.of_source(source)
    if resource.kind != KEPT_FILES:
        return source
    return f"{'/'.join(resource.parts)} (local file, sha256 {resource.name[:12]})"


def sources_of(record: RunRecord) -> list[Edge]:
    """What a run came from directly: what it mounts, what it repeats, what started it."""
    name = run_name(record.number)
    edges = [
        Edge(Resource.of_source(mount.source).owner, name, RelationKind.MOUNT, mount.source, mount.target)
        for mount in record.mounts
    ]
    if record.rerun_of is not None:
        edges.append(Edge(run_name(record.rerun_of), name, RelationKind.RERUN))
    if record.parent is not None:
        edges.append(Edge(run_name(record.parent), name, RelationKind.STARTED))
    return edges


class Products:
    """Answers what came directly from a run, for many runs of a store."""

    def __init__(self, store: Database) -> None:
        self._store = store
        self._reruns: dict[int, list[int]] = {}
        self._started: dict[int, list[int]] = {}
        for kin in store.kinships():
            if kin.rerun_of is not None:
                self._reruns.setdefault(kin.rerun_of, []).append(kin.number)
            if kin.parent is not None:
                self._started.setdefault(kin.parent, []).append(kin.number)

    def of(self, number: int) -> list[Edge]:
        """Every use of a run by a later one: the mounts first, each kind oldest first."""
        name = run_name(number)
        edges = [
            Edge(name, run_name(user), RelationKind.MOUNT, mount.source, mount.target)
            for user in self._store.users_of(number)
            for mount in self._store.get(user).mounts
            if mount.source_run == number
        ]
        edges += [Edge(name, run_name(rerun), RelationKind.RERUN) for rerun in self._reruns.get(number, ())]
        return edges + [
            Edge(name, run_name(child), RelationKind.STARTED) for child in self._started.get(number, ())
        ]


def trace_sources(store: Database, number: int) -> Trace:
    """All that a run came from.

    Raises:
        NotFoundError: There is no such run.
    """
    store.get(number)
    return _trace(store, number, sources_of, lambda edge: edge.source)


def trace_products(store: Database, number: int) -> Trace:
    """All that came from a run.

    Raises:
        NotFoundError: There is no such run.
    """
    store.get(number)
    products = Products(store)
    return _trace(store, number, lambda record: products.of(record.number), lambda edge: edge.target)


def _trace(
    store: Database,
    number: int,
    step: Callable[[RunRecord], Iterable[Edge]],
    far_end: Callable[[Edge], str],
) -> Trace:
    trace = Trace(run_name(number), {}, {})
    waiting = deque([trace.root])
    while waiting:
        name = waiting.popleft()
        if name in trace.edges:
            continue
        record = _record(store, name)
        trace.edges[name] = [] if record is None else list(step(record))
        if source_kind(name) is SourceKind.RUN:
            trace.runs[name] = _traced(record)
        waiting.extend(map(far_end, trace.edges[name]))
    return trace


def _record(store: Database, name: str) -> RunRecord | None:
    number = run_number(name)
    try:
        return None if number is None else store.get(number)
    except NotFoundError:
        return None


def _traced(record: RunRecord | None) -> TracedRun | None:
    return None if record is None else TracedRun(record.facts, valid_utf8(record.spec.command_text))
