"""Whether a run fits beside the others: counting, not enforcing.

Main entries: `Capacity`, `refuse_impossible`, `allocate`. Invariant: a run never goes before an earlier one
that it would delay; so nobody waits forever.
"""

from collections.abc import Iterable

from conjure.core.units import format_size
from conjure.errors import UsageError
from conjure.runs.host.capacity import Capacity
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.spec import ComputeRequest
from conjure.runs.schema.status import RunStatus


def refuse_impossible(needs: ComputeRequest, capacity: Capacity | None = None) -> None:
    """Say at once what could never be fulfilled.

    Args:
        needs: What a run asks for.
        capacity: What there is; this machine's if None.

    Raises:
        UsageError: More is asked for than there is.
    """
    if not needs.asks:
        return
    capacity = capacity if capacity is not None else Capacity.of_this_machine()
    faults = []
    if (needs.cpus or 0) > capacity.cpus:
        faults.append(f"--cpus {needs.cpus:g}: this machine has {capacity.cpus}")
    if (needs.gpus or 0) > len(capacity.gpu_ids):
        faults.append(f"--gpus {needs.gpus}: this machine has {len(capacity.gpu_ids)}")
    if (needs.memory_bytes or 0) > capacity.memory_bytes:
        asked, there = format_size(needs.memory_bytes or 0), format_size(capacity.memory_bytes)
        faults.append(f"--memory {asked}: this machine has {there}")
    if faults:
        raise UsageError("; ".join(faults))


def allocate(number: int, active: Iterable[RunRecord], capacity: Capacity) -> tuple[int, ...] | None:
    """The GPUs a queued run gets if it may start now, or None if it has to wait.

    Room is what is left after the runs that have started and the earlier ones that wait.
    """
    records = {record.number: record for record in active}
    needs = records[number].spec.resources
    host = _host(records[number])
    before = [
        record
        for record in records.values()
        if record.number != number
        and record.spec.resources.asks
        and _host(record) == host
        and (_has_started(record) or record.number < number)
    ]
    taken_gpus = {gpu for record in before for gpu in record.gpu_ids}
    free_gpus = [gpu for gpu in capacity.gpu_ids if gpu not in taken_gpus]
    wanted = needs.gpus or 0
    waiting = [record.spec.resources for record in before if not _has_started(record)]
    asked = [record.spec.resources for record in before]
    fits = (
        _fits(needs.cpus, [other.cpus for other in asked], capacity.cpus)
        and _fits(needs.memory_bytes, [other.memory_bytes for other in asked], capacity.memory_bytes)
        and _fits(needs.gpus, [other.gpus for other in waiting], len(free_gpus))
    )
    return tuple(free_gpus[:wanted]) if fits else None


def _fits(need: float | None, others: Iterable[float | None], available: float) -> bool:
    """Whether there is enough for this need and the others; a run that does not ask needs none of it."""
    return need is None or need + sum(other or 0 for other in others) <= available


def _has_started(record: RunRecord) -> bool:
    return RunStatus.BUILDING in record.facts.entered


def _host(record: RunRecord) -> str | None:
    return None if record.owner is None else record.owner.host_id
