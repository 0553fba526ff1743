"""Whether a run fits beside the others: counting, not enforcing.

Main entries: `Capacity`, `refuse_impossible`, `find_room`. Invariant: a run never goes before an earlier one
that it would delay; so nobody waits forever.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from conjure.errors import UsageError
from conjure.runs.quantities import format_size
from conjure.runs.record import RunRecord
from conjure.runs.spec import Resources
from conjure.runs.status import RunStatus

_GPU_DEVICE = re.compile(r"nvidia\d+")
VISIBLE_GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Capacity:
    """What there is to share: processor cores, the numbers of the GPUs, main memory."""

    cpus: int
    gpu_ids: tuple[int, ...]
    memory_bytes: int

    @classmethod
    def of_this_machine(cls) -> "Capacity":
        """What this machine has, as far as this process may use it."""
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return cls(cpus, _visible_gpus(), memory_bytes)


def _visible_gpus() -> tuple[int, ...]:
    named = os.environ.get(VISIBLE_GPUS_VARIABLE)
    every = tuple(range(gpu_count()))
    return every if named is None else tuple(gpu for gpu in gpus_named(named) if gpu in every)


def gpu_count(devices: Path = Path("/dev")) -> int:
    """How many NVIDIA GPUs this machine (or container) can reach; no program is asked, so it is quick."""
    return sum(_GPU_DEVICE.fullmatch(entry.name) is not None for entry in devices.iterdir())


def gpus_named(text: str) -> tuple[int, ...]:
    """The GPUs that a list like ``0,2`` names; those named in another way (by UUID) are left out."""
    return tuple(int(name) for name in text.split(",") if name.strip().isdecimal())


def refuse_impossible(needs: Resources, capacity: Capacity | None = None) -> None:
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


def find_room(number: int, active: Iterable[RunRecord], capacity: Capacity) -> tuple[int, ...] | None:
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
