"""What is known of runs, as everything above asks for it: the seam between conjure and a database.

Main entries: `Database`, which is the protocols before it and `sweep_rows.Sweeps` taken together;
`RunFilter`; and the plain rows that are given back. Invariant: nothing here knows SQL, or which database
there is.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from conjure.core.config import HEARTBEAT_EVERY_S
from conjure.core.home import Home
from conjure.errors import ConjureError, StoreError
from conjure.runs.database.sweep_rows import Sweeps, TrialClaim
from conjure.runs.schema.process_facts import Owner, Usage
from conjure.runs.schema.record import (
    CodeFacts,
    EnvironmentFacts,
    MountFacts,
    OutputFacts,
    RunRecord,
)
from conjure.runs.schema.spec import ComputeRequest, RunSpec
from conjure.runs.schema.status import Ending, EndReason, RunProgress, RunStatus
from conjure.runs.telemetry.metrics import Summary

STOP, KILL = "stop", "kill"
PRUNE = "prune"  # a stop, for a trial that does worse than others
REASON_OF_REQUEST: Mapping[str, EndReason] = {
    STOP: EndReason.STOP_REQUESTED,
    PRUNE: EndReason.PRUNED,
    KILL: EndReason.KILL_REQUESTED,
}
LONGEST_RETRY_DELAY_S = 600.0


class DatabaseAwayError(StoreError):
    """The server of a shared database cannot be reached now; what was asked may have been done."""


class DatabaseRefusedError(DatabaseAwayError):
    """The server of a shared database is there, but this machine and it do not accept each other."""


class SupersededError(ConjureError):
    """Another process supervises the run now: whoever is told so must write nothing more of it."""

    code = "superseded"


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list, newest first unless sorted by a metric.

    Attributes:
        limit: At most so many, or None for all.
        statuses: Only these; empty for any.
        labels: Only runs with at least one of these; empty for any.
        projects: Only runs of one of these; "" for runs without a project; empty for any.
        kind: Only this kind, or None.
        archived: Also runs that were put away.
        sort_metric: Order by this metric's newest value, lowest first; runs without it are left out.
        highest_first: Turn the order of `sort_metric` or `order` around.
        search: Only runs that match every word: text in the command, description, project, a label or a
            param; ``lr=0.1`` for a param's value, ``loss<0.5`` or ``loss>0.5`` for a metric's newest one.
        order: Order by one of `ORDERS`, by ``param:NAME`` or by ``metric:NAME``; runs without a value come
            last. None for newest first.
        offset: Leave out so many at the beginning.
    """

    limit: int | None = None
    statuses: tuple[RunStatus, ...] = ()
    labels: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()
    kind: str | None = None
    archived: bool = False
    sort_metric: str | None = None
    highest_first: bool = False
    search: str = ""
    order: str | None = None
    offset: int = 0


# What a list can be ordered by, beside params and metrics.
ORDERS = ("number", "status", "kind", "command", "description", "project", "label", "duration")
PARAM, METRIC = "param:", "metric:"


@dataclass(frozen=True, slots=True)
class ListedRun:
    """As much of a run as a list of many shows; its facts tell its status."""

    number: int
    kind: str
    command: str
    description: str
    labels: tuple[str, ...]
    project: str | None
    params: Mapping[str, str]
    facts: RunProgress
    command_s: float | None
    total_s: float | None
    archived: bool


class ResourceClaim(NamedTuple):
    """What an active run asks for, or has, of a machine's resources.

    Attributes:
        number: The run.
        needs: What it asks for.
        machine: The `host_id` of the machine it is on, or None.
        in_queue: Whether it waits there, without a supervisor.
        started: Whether it has what it asks for.
        after: Runs that have to complete before it starts, and have not yet.
        failed: The first of them that never will, with its status; None as the status where it is gone.
        gpu_ids: GPUs it was given.
        end_request: `STOP`, `PRUNE` or `KILL` when somebody asked for one.
        retry_at: When its next attempt may start, by the database's clock; None if nothing keeps it.
        delay_s: Seconds until then; 0 from then on, and if that is later than any delay, as after a clock
            was set back.
    """

    number: int
    needs: ComputeRequest
    machine: str | None
    in_queue: bool = False
    started: bool = False
    after: tuple[int, ...] = ()
    failed: tuple[int, RunStatus | None] | None = None
    gpu_ids: tuple[int, ...] = ()
    end_request: str | None = None
    retry_at: float | None = None
    delay_s: float = 0.0

    @property
    def may_start(self) -> bool:
        """Whether only resources can keep it waiting."""
        return not self.after and not self.delay_s


class Lease(NamedTuple):
    """Who has an active run, as other machines can judge it.

    Attributes:
        number: The run.
        attempt: How many supervisors it has had; each writes under its own number, and only the highest may.
        machine: The `host_id` of its owner.
        heartbeat_age_s: Seconds since its supervisor was last heard of, by the database's clock.
        interval_s: Seconds from one heartbeat to the next.
    """

    number: int
    attempt: int
    machine: str | None
    heartbeat_age_s: float
    interval_s: float = HEARTBEAT_EVERY_S


class RunRelation(NamedTuple):
    """Which run a run repeats, and which one started it."""

    number: int
    rerun_of: int | None
    parent: int | None


class RunSize(NamedTuple):
    """A run as a list of files shows it.

    Attributes:
        number: The run.
        was_saved: Whether its outputs were saved, and not removed since.
        size_bytes: How much its outputs hold, or None.
        changed_at: When it ended, else when it was asked for.
    """

    number: int
    was_saved: bool
    size_bytes: int | None
    changed_at: float | None


class KeptParts(NamedTuple):
    """Which parts the folder of a run that has ended must have: a log, and outputs with their manifest."""

    number: int
    log: bool
    outputs: bool


class Link(NamedTuple):
    """A name for a resource."""

    name: str
    resource: str
    created_at: str


class Project(NamedTuple):
    """What some runs belong to.

    Attributes:
        name: Its name; None for what runs without a project have.
        runs: How many runs it has, archived ones too.
        active: How many of them have not ended.
        newest: The newest of them.
        requested_at: When that one was asked for, or None.
    """

    name: str | None
    runs: int
    active: int
    newest: int
    requested_at: float | None


class Runs(Protocol):
    """Runs: how they come to be, move and end, and what is known of them."""

    def create_run(
        self,
        spec: RunSpec,
        owner: Owner,
        reserve: Callable[[int], None],
        *,
        parent: int | None = None,
        rerun_of: int | None = None,
        trial: TrialClaim | None = None,
    ) -> RunRecord:
        """Give a run its number.

        Args:
            spec: What is asked; only its stored form, without secrets, is written down.
            owner: The process that supervises it for now.
            reserve: Called with the number before the run is there for others; it takes possession of the
                run's folder, and raises FileExistsError where that number was given before (by a database
                since lost).
            parent: The run that starts this one.
            rerun_of: The run this one repeats.
            trial: The trial of a sweep that it is.

        Raises:
            TrialRefusedError: That trial must not be started now; no run is made.
        """
        ...

    def move(self, number: int, status: RunStatus) -> None:
        """Enter the next phase.

        Raises:
            IllegalMoveError: The run cannot go there from where it is.
        """
        ...

    def admit(self, number: int, decide: Callable[[list[ResourceClaim]], tuple[int, ...] | None]) -> bool:
        """Let a queued run go on to building if `decide` finds room for it among the active runs.

        Args:
            number: The queued run.
            decide: Given what all active runs claim, the GPUs this one gets (an empty tuple for none), or
                None to wait. It may be called again where the database makes a transaction be repeated.

        Returns:
            Whether it was let in.

        Raises:
            IllegalMoveError: It is not queued any more.
        """
        ...

    def enqueue(self, number: int, queue: Owner) -> None:
        """Leave a run without a supervisor in a machine's queue.

        Raises:
            IllegalMoveError: It is past that already.
        """
        ...

    def end_queued_run(self, number: int, ending: Ending, *, total_s: float | None = None) -> bool:
        """End a run if it still waits in a queue, where no process would do that.

        Returns:
            Whether it did.
        """
        ...

    def cancel_submission(self, number: int, ending: Ending) -> bool:
        """End a run that was asked for and not yet left to a queue or a supervisor.

        Returns:
            Whether it did; the process that submits it, if it lives, finds that out.
        """
        ...

    def retry_run(
        self, number: int, ending: Ending, queue: Owner, *, host: str | None, delay_s: float
    ) -> None:
        """End an attempt at a run, and leave the run to a queue for the next one.

        Args:
            number: The run.
            ending: How the attempt ended.
            queue: Where the run waits.
            host: The machine that the attempt was on, or None.
            delay_s: Seconds before the next one may start, `LONGEST_RETRY_DELAY_S` at most.

        Raises:
            IllegalMoveError: The run has ended, or somebody asked for its end.
        """
        ...

    def end_run(
        self, number: int, ending: Ending, *, command_s: float | None = None, total_s: float | None = None
    ) -> RunRecord:
        """Close a run's record for good.

        Raises:
            IllegalMoveError: The run cannot end so from where it is; it has ended already, for one.
        """
        ...

    def presume_ended(self, number: int, ending: Ending) -> None:
        """Tell of a run as ended though that cannot be written now; until then this object alone says so."""
        ...

    def request_end(self, number: int, what: str) -> bool:
        """Ask the owner of an active run to `STOP`, `PRUNE` or `KILL` it; a kill outranks the others.

        Returns:
            False if the run has ended already.
        """
        ...

    def end_request(self, number: int) -> str | None:
        """`STOP`, `PRUNE` or `KILL` if somebody asked for it, else None."""
        ...

    def set_facts(
        self,
        number: int,
        *,
        owner: Owner | None = None,
        code: CodeFacts | None = None,
        environment: EnvironmentFacts | None = None,
        mounts: tuple[MountFacts, ...] | None = None,
        outputs: OutputFacts | None = None,
        usage: Usage | None = None,
        identity: str | None = None,
    ) -> None:
        """Write down what became known of a run; None leaves what is there."""
        ...

    def begin_attempt(self, number: int, owner: Owner, *, expected: int | None = None) -> int:
        """Take a run over: from now on nothing that an earlier supervisor writes of it is accepted.

        Args:
            number: The run.
            owner: Who has it from now on.
            expected: The number that the attempt must get.

        Returns:
            The number of the attempt.

        Raises:
            IllegalMoveError: It has ended.
            SupersededError: The attempt would get another number than the expected one.
        """
        ...

    def age_s(self, number: int) -> float:
        """Seconds since a run was asked for, by the database's clock."""
        ...

    def newest_attempt(self, number: int) -> int:
        """How many supervisors a run has had."""
        ...

    def set_request(self, number: int, request: str) -> None:
        """Keep what the supervisors of a run are given, secrets included, until it has ended.

        Raises:
            IllegalMoveError: It has.
        """
        ...

    def request(self, number: int) -> str | None:
        """What `set_request` kept; None for a run that has ended, or of which nothing was kept."""
        ...

    def write_as(self, number: int, attempt: int) -> None:
        """Make this object write of a run as the supervisor of that attempt.

        Every later change raises SupersededError, and changes nothing, once there is a newer attempt.
        """
        ...

    def renew_lease(self, number: int, attempt: int) -> bool:
        """Tell that the supervisor of a run lives; False if another one has the run now."""
        ...

    def leases(self) -> dict[int, Lease]:
        """The leases of the active runs whose supervisors tell that they live, by run."""
        ...

    def get(self, number: int) -> RunRecord:
        """One run.

        Raises:
            NotFoundError: There is none of that number; the message names the newest.
        """
        ...

    def facts(self, number: int) -> RunProgress:
        """How far a run has come: less to read than all of it, for who looks often.

        Raises:
            NotFoundError: There is none of that number.
        """
        ...

    def select(self, wanted: RunFilter | None = None) -> list[RunRecord]:
        """The runs that a filter lets through."""
        ...

    def listing(self, wanted: RunFilter) -> list[ListedRun]:
        """The runs that a filter lets through, with what a list shows of them."""
        ...

    def count(self, wanted: RunFilter) -> int:
        """How many runs a filter lets through, its limit aside."""
        ...

    def listing_page(self, wanted: RunFilter) -> tuple[list[ListedRun], int]:
        """What `listing` and `count` give."""
        ...

    def active(self) -> list[RunRecord]:
        """Runs that have not ended, oldest first."""
        ...

    def supervised(self) -> list[RunRecord]:
        """Active runs that have a supervisor, or should; oldest first."""
        ...

    def supervised_by(self, machine: str, *, silent_for_s: float) -> list[RunRecord]:
        """Those of `supervised` that are a machine's, or nobody's, or whose supervisor has been silent.

        Args:
            machine: As owners name it.
            silent_for_s: How long others' supervisors must have been silent.
        """
        ...

    def claims(self) -> list[ResourceClaim]:
        """What the active runs ask for and have, oldest first."""
        ...

    def queued(self, queue: Owner) -> dict[int, bool]:
        """The runs in a machine's queue, each with whether it was put there since the machine was started."""
        ...

    def active_numbers(self) -> set[int]:
        """The numbers of the runs that have not ended."""
        ...

    def numbers(self) -> set[int]:
        """The numbers of all runs there are rows of."""
        ...

    def newest_number(self) -> int | None:
        """The highest number given, or None before the first run."""
        ...

    def last_number(self, back: int = 0) -> int:
        """The number of the newest run, or of the one so many before it.

        Raises:
            NotFoundError: There are not so many runs.
        """
        ...

    def users_of(self, number: int) -> list[int]:
        """Runs that mount something of this run, oldest first."""
        ...

    def sources_in_use(self) -> dict[str, list[int]]:
        """Every resource that some run mounts, with the numbers of those runs."""
        ...

    def kinships(self) -> list[RunRelation]:
        """The runs that repeat another, or were started by one; oldest first."""
        ...

    def completed_equal(self, identity: str) -> RunRecord | None:
        """The newest completed run with this identity whose outputs are still there, or None."""
        ...


class LabelsAndLinks(Protocol):
    """Names that people give to runs and to resources, and what they put away."""

    def add_label(self, number: int, label: str) -> None:
        """Give a run a label; it may have it already.

        Raises:
            NotFoundError: There is no such run.
        """
        ...

    def remove_label(self, number: int, label: str) -> None:
        """Take a label off a run.

        Raises:
            NotFoundError: The run does not have it.
        """
        ...

    def set_archived(self, number: int, *, archived: bool) -> None:
        """Put a run away, or take it out again."""
        ...

    def set_link(self, name: str, resource: str) -> None:
        """Give a resource a name.

        Raises:
            ConflictError: The name is taken.
        """
        ...

    def remove_link(self, name: str) -> None:
        """Take a name away.

        Raises:
            NotFoundError: There is no such link.
        """
        ...

    def link(self, name: str) -> Link | None:
        """The link of that name, or None."""
        ...

    def links(self) -> list[Link]:
        """All links, by name."""
        ...

    def lookup_link(self, name: str) -> str | None:
        """The resource a name stands for, or None.

        Raises:
            NotFoundError: It is ``last`` or ``last~N``, and there are not so many runs.
        """
        ...


class Projects(Protocol):
    """What runs belong to: a project is there as long as a run names it."""

    def projects(self) -> list[Project]:
        """All projects, the one with the newest run first; runs without one as the last of them."""
        ...

    def project_names(self) -> list[str]:
        """The names of all projects, in order."""
        ...

    def rename_project(self, name: str, new_name: str) -> int:
        """Let the runs of a project belong to another, which there may be already.

        Run by run: what is cut off halfway can be done again, and goes on.

        Returns:
            How many runs there were.

        Raises:
            NotFoundError: No run belongs to it.
        """
        ...


class Metrics(Protocol):
    """How the metrics of runs stand; the points themselves are in the runs' folders."""

    def set_summaries(self, number: int, summaries: Iterable[Summary]) -> None:
        """Write down how a run's metrics stand."""
        ...

    def refresh_summaries(self, number: int) -> None:
        """Make the index of a run's metrics say what their file says."""
        ...

    def summaries(self, number: int) -> dict[str, Summary]:
        """How a run's metrics stand, by name."""
        ...

    def latest_values(self, numbers: Iterable[int]) -> dict[int, dict[str, float]]:
        """The newest value of every metric of some runs: run -> name -> value."""
        ...

    def metric_names(self) -> list[str]:
        """The names of all metrics that any run has, in order."""
        ...


class Maintenance(Protocol):
    """What `conjure doctor`, `prune`, `rm` and `ls` ask, and rebuilding from the run folders."""

    def sizes(self) -> list[RunSize]:
        """Every run, the newest first, with how much its outputs hold: little to read, for long lists."""
        ...

    def environments_in_use(self, *, active_only: bool) -> set[str]:
        """Digests of the environments of runs whose files were not removed; or of the active ones alone."""
        ...

    def code_trees(self) -> dict[int, str]:
        """The tree of each run whose code is kept."""
        ...

    def kept_parts(self) -> list[KeptParts]:
        """What must be in the folders of the runs that have ended."""
        ...

    def put_record(self, record: RunRecord) -> None:
        """Make the database say what a record says, whatever it said before."""
        ...

    def reindex(self) -> tuple[list[int], list[int]]:
        """Rebuild links, sweeps, and the rows of all runs that do not still go on, from their files.

        A row that cannot be read is made anew, or goes where there is no record to make it from.

        Returns:
            Numbers that were rebuilt, and numbers whose folder holds no readable record. Neither will be
            given again.
        """
        ...

    def suspects(self) -> list[int]:
        """Runs whose row does not say, word for word, what their file says: one of them may be damaged."""
        ...

    def damaged_rows(self, suspects: Iterable[int]) -> list[int]:
        """Those of the runs whose rows cannot be read."""
        ...

    def holds(self, record: RunRecord) -> bool:
        """Whether the database says of a run what a record says."""
        ...

    def stray_rows(self) -> list[str]:
        """Rows that belong to runs that are not there, one phrase per table; there should be none."""
        ...

    def while_no_number_is_given(self) -> AbstractContextManager[None]:
        """Keep other processes from giving numbers, and from every other change, while the block lasts."""
        ...


class Database(Runs, Sweeps, LabelsAndLinks, Projects, Metrics, Maintenance, Protocol):
    """All that is known of the runs of one home. Use one object per thread; it is a context manager."""

    @property
    def home(self) -> Home:
        """The home it belongs to."""
        ...

    @property
    def was_upgraded(self) -> bool:
        """Whether opening it changed its schema, so that older programs cannot open it any more."""
        ...

    @property
    def is_shared(self) -> bool:
        """Whether other machines use it too, and a clock of its own tells how old a lease is."""
        ...

    def reconnect(self) -> None:
        """Read and write through a new connection: the file may be another one by now, or readable again.

        Raises:
            StoreError: There can be none; the one that there was stays.
        """
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...

    def __enter__(self) -> "Database": ...

    def __exit__(self, *_: object) -> None: ...
