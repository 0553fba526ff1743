"""Runs that wait for a cluster, and what their supervisors on its nodes would do."""

from conjure.runs.database.base import Database
from conjure.runs.executors.cluster_executor import ClusterExecutor
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.spec import ComputeRequest
from conjure.runs.schema.status import PHASES
from support.casting import add_run

NODE = Owner("a node", "boot", 7, "7", "node-7")


def queue_run(store: Database, executor: ClusterExecutor, cpus: float | None = None, **spec: object) -> int:
    """A run that waits for the cluster."""
    number = add_run(store, on="gpu", **{"resources": ComputeRequest(cpus=cpus), **spec}).number
    store.set_request(number, "{}")
    store.enqueue(number, executor.queue)
    return number


def claim(store: Database, number: int) -> None:
    """Take a run over as its supervisor on a node would, and begin its command."""
    store.begin_attempt(number, NODE)
    for phase in PHASES[2:5]:
        store.move(number, phase)


def job_of(executor: ClusterExecutor, number: int, attempt: int = 1) -> str:
    """The first job for an attempt."""
    return f"conjure-{executor._home_id()}-{number}-{attempt}"
