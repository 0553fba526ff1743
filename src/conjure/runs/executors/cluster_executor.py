"""Runs on a cluster: a job for each attempt, which starts the run's supervisor on a node.

Main entry: `ClusterExecutor`; the other end is `conjure.runs.lifecycle.first_node.main_on_first_node`.
Invariant: a job says which run, which attempt and whose (the home's folder, where the nodes share it, else
the team), and nothing else; what waits, waits in our database, and only what fits at this moment is handed
over, and to a cluster with a queue the next one. What the cluster says ends a run only where its supervisor
has been silent, too.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from conjure.core.config import ExecutorSettings, read_executors
from conjure.core.files import sha256_bytes
from conjure.core.home import HOME_VARIABLE, Home
from conjure.core.team_settings import objects_team, read_team
from conjure.core.text import did_you_mean, plural
from conjure.core.trees import remove_tree
from conjure.core.units import format_size
from conjure.errors import ExecutorError, StoreError, UsageError, option
from conjure.runs.database.base import Database, ResourceClaim
from conjure.runs.database.open_database import open_database
from conjure.runs.executors.base import Executor, SupervisorState
from conjure.runs.executors.cluster import (
    Amounts,
    Cluster,
    ClusterJob,
    ClusterNode,
    JobState,
    UnreachableError,
)
from conjure.runs.executors.ray import RayCluster
from conjure.runs.executors.run_lock import RunLock, take_out_of_sight
from conjure.runs.executors.slurm import SlurmCluster
from conjure.runs.executors.supervisor_request import SupervisorRequest
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.spec import ComputeRequest, RunSpec

# Of jobs for one attempt that end without claiming it, which makes them no attempt: such as ended by
# themselves, and such as the cluster lost.
_MOST_STARTS, _MOST_JOBS = 3, 10
_MOST_REFUSED = 10  # at one look; each is a call to the cluster
_DEFAULT_CPUS = 1.0
_SUPERVISE = "supervise"


_KINDS: dict[str, type[Cluster]] = {"ray": RayCluster, "slurm": SlurmCluster}


def cluster_of(settings: ExecutorSettings) -> Cluster:
    """The cluster that a configuration describes."""
    return _KINDS[settings.kind](settings)


@dataclass(frozen=True, slots=True)
class FailedRuns:
    """Runs that could not be handed over at a look, though there was room or a queue.

    Attributes:
        hopeless: Those for which it was tried in vain several times.
        too_large: Those for which too few of the nodes that are there now are large enough.
        refused: Those whose jobs the cluster refuses, with what it says.
    """

    hopeless: list[int] = field(default_factory=list)
    too_large: list[int] = field(default_factory=list)
    refused: dict[int, ExecutorError] = field(default_factory=dict)


class ClusterExecutor(Executor):
    """A cluster that the user has defined.

    Args:
        home: Where conjure keeps things: a team's home, in a folder that the nodes see, or with an object
            store that they reach.
        settings: What the configuration says of the cluster.
    """

    def __init__(self, home: Home, settings: ExecutorSettings) -> None:
        self.name = settings.name
        self.cluster = cluster_of(settings)
        self.queue = Owner.queue_of_executor(settings.name)
        self._home = home

    @classmethod
    def named(cls, home: Home, name: str) -> "ClusterExecutor":
        """The executor of that name.

        Raises:
            UsageError: None is defined, or it cannot be used with this home.
        """
        known = read_executors(home)
        if name not in known:
            near = did_you_mean(name, known) or (
                f"available: {', '.join(known)}" if known else "there are none"
            )
            raise UsageError(
                f"there is no executor {name!r}; {near}",
                hint=f"define it in {home.config_file}: [executors.{name}]",
            )
        if read_team(home) is None:
            raise UsageError(
                f"executor {name} needs a team's home, which its nodes have joined as well",
                hint="docs/clusters.md explains how to set it up",
                fix="conjure team init --help",
            )
        return cls(home, known[name])

    # ---- the seam ------------------------------------------------------------------------------------------

    @contextmanager
    def prepare(self, number: int, lock: RunLock, request: SupervisorRequest) -> Iterator[Callable[[], None]]:
        """Leave the lock with the caller until the run waits in the queue: free before, it means a loss."""

        def start() -> None:
            useless = self._enqueue(number, request)
            lock.release()  # for its supervisor, where the nodes share the folder
            _remove(useless)
            with open_database(self._home, must_exist=True) as store, suppress(ExecutorError):
                self.submit_waiting(store)  # else it waits; whoever looks after the queue tries again

        yield start

    def start(self, number: int, request: SupervisorRequest) -> None:
        """Put a run into the cluster's queue.

        Raises:
            ExecutorError: The run cannot be left there.
        """
        _remove(self._enqueue(number, request))

    def _enqueue(self, number: int, request: SupervisorRequest) -> Path | None:
        """Put it there; what its folder here has become, if that is to be removed."""
        with open_database(self._home, must_exist=True) as store:
            store.set_request(number, self.request_text(request))
            if objects_team(self._home) is None:
                RunFolder.of(self._home, number).log.touch(mode=0o600)
            store.enqueue(number, self.queue)
            if objects_team(self._home) is not None:
                with suppress(OSError):  # from now on it is another machine's run, whatever comes of this
                    return take_out_of_sight(self._home.runs / str(number))
        return None

    def state(self, number: int) -> SupervisorState:
        """What the cluster knows of the newest job for a run."""
        with open_database(self._home, must_exist=True) as store:
            attempt = store.newest_attempt(number)
            if store.get(number).waits_in_queue:
                return SupervisorState.WAITING
        try:
            jobs = self.jobs_of(number, attempt, self.cluster.jobs())
        except UnreachableError:
            return SupervisorState.UNKNOWN
        if not jobs:
            return SupervisorState.UNKNOWN  # a head that was restarted remembers none
        are_over = all(job.state is JobState.OVER for job in jobs)
        return SupervisorState.GONE if are_over else SupervisorState.STARTED

    def end(self, number: int) -> None:
        """Take back what waits in the cluster's own queue, so that it is in nobody's way.

        No more is needed: whoever ends a run writes that down, and its supervisor looks before it begins.
        """
        if not self.cluster.has_queue:
            return
        with open_database(self._home, must_exist=True) as store:
            attempt = store.newest_attempt(number) + 1
        for job in self.jobs_of(number, attempt, self.cluster.jobs()):
            if job.state is JobState.PENDING:
                self.cluster.withdraw(job.id)

    # ---- the queue -----------------------------------------------------------------------------------------

    @staticmethod
    def request_text(request: SupervisorRequest) -> str:
        """What a supervisor on a node is given: what was asked. Its surroundings are the node's."""
        return replace(request, variables={}).to_json()

    def submit_waiting(self, store: Database) -> FailedRuns:
        """Hand the queued runs to the cluster that fit now, in their order.

        A cluster with a queue is given the first that does not fit as well, which takes its place there. A
        run whose job is refused, or whose nodes have left, keeps its place, and is in nobody's way.

        Raises:
            UnreachableError: The cluster does not answer.
        """
        failed = FailedRuns()
        waiting = [claim for claim in store.claims() if self._waits_here(claim)]
        if not waiting:
            return failed
        jobs = self.cluster.jobs()
        free = self.cluster.nodes()
        for claim in waiting:
            if not self.cluster.has_queue and _are_too_few(free, amounts_of(claim.needs), 1):
                failed.too_large.append(claim.number)  # nothing is asked for it, as there may be many
            elif not self._serve(store, claim, jobs, free, failed):
                break
        return failed

    def _serve(
        self,
        store: Database,
        claim: ResourceClaim,
        jobs: Sequence[ClusterJob],
        free: list[ClusterNode],
        failed: FailedRuns,
    ) -> bool:
        """Hand over the jobs of a queued run if it fits; whether those behind it may be looked at.

        Args:
            store: Where it is recorded.
            claim: What it asks for.
            jobs: All that the cluster knows.
            free: The nodes, with what is free; what the run takes is taken from there.
            failed: Told where it cannot be handed over.
        """
        attempt = store.newest_attempt(claim.number) + 1
        record = store.get(claim.number)
        if not record.waits_in_queue:
            return True  # it was claimed meanwhile, so that the attempt is the one after
        needs, count = amounts_of(claim.needs), record.spec.node_count
        given = self._jobs_by_node(claim.number, attempt, jobs)
        own = given.get(0, [])
        handed = [job for job in own if job.state is not JobState.OVER]
        if handed:
            has_room = handed[0].state is not JobState.PENDING or _take(free, needs, count, _helping(given))
            return bool(has_room) or not self.cluster.has_queue  # else it waits for room there
        if len(own) >= _MOST_JOBS or sum(job.exit_code is not None for job in own) >= _MOST_STARTS:
            failed.hopeless.append(claim.number)
            return True
        before = list(free)
        nodes = _take(free, needs, count, _helping(given))
        if not nodes and not self.cluster.has_queue:
            if _are_too_few(free, needs, count):
                failed.too_large.append(claim.number)
                return True
            return False  # nobody overtakes one that waits for room
        # A queue is given it without room, too, else others' jobs would take all that becomes free.
        refusal = self._submit(claim, attempt, given, nodes, count)
        if refusal is None:
            return bool(nodes)
        free[:] = before
        failed.refused[claim.number] = refusal
        return len(failed.refused) < _MOST_REFUSED

    def _waits_here(self, claim: ResourceClaim) -> bool:
        here = claim.in_queue and claim.machine == self.queue.machine
        return here and claim.may_start and claim.failed is None and claim.end_request is None

    def _submit(
        self,
        claim: ResourceClaim,
        attempt: int,
        given: Mapping[int, Sequence[ClusterJob]],
        nodes: Sequence[ClusterNode],
        count: int,
    ) -> ExecutorError | None:
        """Hand over the jobs for an attempt that are not there yet.

        Args:
            claim: Of the run.
            attempt: The attempt.
            given: What was handed over for it before (see `_jobs_by_node`).
            nodes: Those that have room for it; none for a queue to choose.
            count: How many nodes are to carry out the run.

        Returns:
            What the cluster says where it refuses a job.

        Raises:
            UnreachableError: The cluster does not answer.
        """
        needs = amounts_of(claim.needs)
        jobs = [
            self._next_job(claim.number, attempt, node, given.get(node, ()))
            for node in range(count)
            if all(job.state is JobState.OVER for job in given.get(node, ()))
        ]
        try:
            if count > 1:
                self.cluster.submit_together(jobs, needs, nodes[: len(jobs)])
            else:
                self.cluster.submit(*jobs[0], needs)
        except UnreachableError:
            raise
        except ExecutorError as error:
            return error
        return None

    def _next_job(
        self, number: int, attempt: int, node: int, before: Sequence[ClusterJob]
    ) -> tuple[str, str]:
        """A job for one of the nodes, as `Cluster.submit_together` has it; those before it are over."""
        name = self._job(number, attempt) + (f"-node{node + 1}" if node else "")
        options = ("--node", str(node)) if node else ()
        entrypoint = self._entrypoint(*options, str(number), str(attempt))
        return name + (f"-{len(before) + 1}" if before else ""), entrypoint

    def refuse_impossible(self, spec: RunSpec) -> None:
        """Refuse a run for which too few nodes are large enough, where nodes are there to tell by.

        Raises:
            UsageError: Too few are large enough.
            UnreachableError: The cluster does not answer.
        """
        needs, count = amounts_of(spec.resources), spec.node_count
        sizes = [node.total for node in self.cluster.nodes() if node.total.cpus]
        large = sum(size.holds(needs) for size in sizes)
        if large >= count or (not sizes and count == 1):
            return
        has = f"executor {self.name} has"
        words = (
            f"{option('nodes', count)}: {has} only {plural(large, 'node')}" if count > 1 else f"{has} no node"
        )
        raise UsageError(
            f"{words} with {needs.cpus:g} core{'s' * (needs.cpus != 1)}"
            + (f" and {plural(int(needs.gpus), 'GPU')}" if needs.gpus else "")
            + (f" and {format_size(int(needs.memory_bytes))} of memory" if needs.memory_bytes else "")
        )

    def _entrypoint(self, *arguments: str) -> str:
        team = objects_team(self._home)
        if team is not None:
            return " ".join(["exec conjure", _SUPERVISE, "--team", team.identity, *arguments])
        home = f"{HOME_VARIABLE}={shlex.quote(str(self._home.root))}"
        return f"{home} exec conjure {_SUPERVISE} {' '.join(arguments)}"

    def _job(self, number: int, attempt: int) -> str:
        return f"conjure-{self._home_id()}-{number}-{attempt}"

    def _home_id(self) -> str:
        """Tells the jobs of this home, or of its team, from those of others on the cluster."""
        team = read_team(self._home)
        if team is not None and team.objects is not None:
            return team.identity  # any member can look after the jobs
        database = "" if team is None else team.database
        return sha256_bytes(f"{self._home.root} {database}".encode())[:8]

    def jobs_of(self, number: int, attempt: int, jobs: Iterable[ClusterJob]) -> list[ClusterJob]:
        """The jobs that were handed over for an attempt; of one on several nodes, those for the first."""
        return self._jobs_by_node(number, attempt, jobs).get(0, [])

    def _jobs_by_node(
        self, number: int, attempt: int, jobs: Iterable[ClusterJob]
    ) -> dict[int, list[ClusterJob]]:
        """The jobs that were handed over for an attempt, by the node of the run, from 0, that each is for."""
        pattern = re.compile(re.escape(self._job(number, attempt)) + r"(?:-node([0-9]+))?(?:-[0-9]+)?")
        found: dict[int, list[ClusterJob]] = {}
        for job in jobs:
            told = pattern.fullmatch(job.id)
            if told is not None:
                found.setdefault(int(told[1] or 1) - 1, []).append(job)
        return found

    def why_hopeless(self, number: int, attempt: int) -> str:
        """What the last job for an attempt said when it ended before there was a supervisor."""
        job = max(self.jobs_of(number, attempt, self.cluster.jobs()), key=lambda job: len(job.id))
        last = [line for line in job.message.splitlines() if line.strip()][-1:] or ["it gives no reason"]
        return f"its supervisor did not start on {self.name}: {last[0][:300]}"

    # ---- checking ------------------------------------------------------------------------------------------

    def start_check(self, node: ClusterNode, name: str) -> None:
        """Have a node tell whether a supervisor could work there: `conjure supervise --check` as a job.

        Raises:
            UnreachableError: The cluster does not answer.
            ExecutorError: It refuses the job.
        """
        self.cluster.submit_check(name, self._entrypoint("--check"), node)

    def how_to_join(self) -> str:
        """What is missing on a node without the team's home, in words."""
        team = objects_team(self._home)
        if team is None:
            return f"the home folder {self._home.root} is not there"
        join = shlex.join(["conjure", "team", "join", "--database", team.database])
        return f"no home has joined the team: run `{join}` there, as {self.cluster.account}"


def _remove(useless: Path | None) -> None:
    with suppress(OSError):  # `conjure prune` tries it again
        if useless is not None:
            remove_tree(useless)


def amounts_of(needs: ComputeRequest) -> Amounts:
    """What a run takes of a node; at least a core by default, else the cluster puts it on its head node."""
    cpus = _DEFAULT_CPUS if needs.cpus is None else needs.cpus
    return Amounts(cpus, float(needs.gpus or 0), float(needs.memory_bytes or 0))


def _helping(given: Mapping[int, Sequence[ClusterJob]]) -> list[ClusterJob]:
    """The jobs that run for an attempt on its worker nodes, before the first one has begun."""
    return [job for node in given if node for job in given[node] if job.state is JobState.RUNNING]


def _take(
    free: list[ClusterNode], needs: Amounts, count: int, helping: Sequence[ClusterJob]
) -> list[ClusterNode]:
    """Take it from each of the first so many nodes that have so much; from none if there are too few.

    Args:
        free: The nodes, with what is free.
        needs: What is taken from each.
        count: How many nodes a run is to have.
        helping: Jobs that have their part of it already.
    """
    wanted, there = count - len(helping), {job.node for job in helping}
    places = [place for place, node in enumerate(free) if node.free.holds(needs) and node.id not in there][
        :wanted
    ]
    if len(places) < wanted:
        return []
    found = [free[place] for place in places]
    for place, node in zip(places, found, strict=True):
        free[place] = replace(node, free=node.free - needs)
    return found


def _are_too_few(nodes: Sequence[ClusterNode], needs: Amounts, count: int) -> bool:
    """Whether nodes are there, but not so many that could hold this, were they free."""
    sizes = [node.total for node in nodes if node.total.cpus]
    return bool(sizes) and sum(size.holds(needs) for size in sizes) < count


def executors_of(home: Home) -> list[ClusterExecutor]:
    """The executors that can be used with a home; none where what is defined cannot be read."""
    try:
        if read_team(home) is None:
            return []
        return [ClusterExecutor(home, settings) for settings in read_executors(home).values()]
    except (UsageError, StoreError):
        return []
