"""What clusters have, and whether runs could be carried out on their nodes.

Main entries: `survey`, `check_nodes`. Invariant: a check changes nothing: what its jobs write, they remove.
"""

import json
import secrets
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from conjure.core.config import ExecutorSettings
from conjure.core.home import Home
from conjure.core.units import format_duration
from conjure.errors import ConjureError, ExecutorError
from conjure.runs.executors.cluster import (
    NO_SUCH_PROGRAM,
    NOTHING,
    Amounts,
    ClusterJob,
    JobState,
    UnreachableError,
)
from conjure.runs.executors.cluster_executor import ClusterExecutor, cluster_of

_PATIENCE_S = 90.0
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Survey:
    """What an executor has.

    Attributes:
        name: What it is called.
        kind: ``ray`` or ``slurm``.
        address: Of its REST interface; empty for Slurm.
        nodes: How many nodes are there.
        total: What they have together.
        free: What of that is free.
        fault: Why that is not known, or None.
    """

    name: str
    kind: str
    address: str
    nodes: int = 0
    total: Amounts = NOTHING
    free: Amounts = NOTHING
    fault: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        used = asdict(self.total - self.free)
        return asdict(self) | {"used": used}


def survey(settings: ExecutorSettings) -> Survey:
    """Ask a cluster what it has."""
    known = (settings.name, settings.kind, settings.address)
    try:
        nodes = cluster_of(settings).nodes()
    except ConjureError as error:
        return Survey(*known, fault=error.unspelled.message)
    total = sum((node.total for node in nodes), NOTHING)
    return Survey(*known, len(nodes), total, sum((node.free for node in nodes), NOTHING))


def check_nodes(home: Home, name: str) -> tuple[int, list[str]]:
    """Have every node of an executor that can take a run look for what that needs.

    Returns:
        How many nodes were checked, and what is missing, in words.

    Raises:
        UsageError: There is no such executor, or it cannot be used with this home.
        ExecutorError: It has no node, or does not answer.
    """
    executor = ClusterExecutor.named(home, name)
    nodes = [node for node in executor.cluster.nodes() if node.total.cpus > 0]
    if not nodes:
        raise ExecutorError(f"{name} has no node with a core that a run could use")
    mark = f"conjure-check-{secrets.token_hex(4)}"
    jobs = {f"{mark}-{place}": node for place, node in enumerate(nodes, 1)}
    for job, node in jobs.items():
        executor.start_check(node, job)
    ended = _wait(executor, set(jobs))
    for job in jobs.keys() - ended.keys():
        with suppress(UnreachableError):
            executor.cluster.withdraw(job)
    found = [(node, _fault(executor, ended.get(job))) for job, node in jobs.items()]
    return len(nodes), [f"on node {node.name} {fault}" for node, fault in found if fault]


def _wait(executor: ClusterExecutor, names: set[str]) -> dict[str, ClusterJob]:
    """The jobs that have ended in time."""
    deadline = time.monotonic() + _PATIENCE_S
    ended: dict[str, ClusterJob] = {}
    while len(ended) < len(names) and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)
        with suppress(UnreachableError):  # it may be slow to answer now and then
            own = [job for job in executor.cluster.jobs() if job.id in names]
            ended = {job.id: job for job in own if job.state is JobState.OVER}
    return ended


def _fault(executor: ClusterExecutor, job: ClusterJob | None) -> str:
    """What is missing on a node, by what its job has found; an empty text for nothing."""
    if job is None:
        return f"a job did not finish within {format_duration(_PATIENCE_S)}"
    if job.exit_code == NO_SUCH_PROGRAM:
        return f"`conjure` is not on {executor.cluster.path}"
    try:
        last = executor.cluster.output(job.id).strip().splitlines()[-1]
        told = json.loads(last)
        here, there = version("conjure"), told["version"]
        joined, store, uv = told["joined"], told["store"], told["uv"]
    except (ExecutorError, IndexError, ValueError, KeyError, TypeError):
        return (
            f"the check failed (exit status {job.exit_code}); check that the node has the same version of"
            " conjure"
        )
    if here != there:
        return f"conjure is {there}, and here it is {here}"
    home = "" if joined else executor.how_to_join()
    return "; ".join(filter(None, (home, store, uv)))
