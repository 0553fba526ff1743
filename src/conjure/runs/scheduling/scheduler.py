"""Which run fits beside the others: counting, not enforcing.

Main entries: `refuse_impossible`, `allocate`, `startable`, `shortage`. Invariant: a run never goes before an
earlier one that it would delay; so nobody waits forever. A run that waits for other runs to complete delays
nobody until they have.
"""

from collections.abc import Callable, Iterable, Iterator

from conjure.core.text import plural
from conjure.core.units import format_duration, format_size
from conjure.errors import UsageError, option
from conjure.runs.database.base import ResourceClaim
from conjure.runs.host.capacity import Capacity
from conjure.runs.schema.spec import ComputeRequest


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
        faults.append(f"{option('cpus', _plain(needs.cpus or 0))}: this machine has {capacity.cpus}")
    if (needs.gpus or 0) > len(capacity.gpu_ids):
        faults.append(f"{option('gpus', needs.gpus or 0)}: this machine has {len(capacity.gpu_ids)}")
    if (needs.memory_bytes or 0) > capacity.memory_bytes:
        asked, there = format_size(needs.memory_bytes or 0), format_size(capacity.memory_bytes)
        faults.append(f"{option('memory')} {asked}: this machine has {there}")
    if faults:
        raise UsageError("; ".join(faults))


def _plain(count: float) -> float:
    """A whole number of cores without a decimal point."""
    return int(count) if count == int(count) else count


def allocate(number: int, claims: Iterable[ResourceClaim], capacity: Capacity) -> tuple[int, ...] | None:
    """The GPUs a queued run gets if it may start now, or None if it has to wait.

    Room is what is left after the runs that have started and the earlier ones that wait.

    Args:
        number: The run.
        claims: Those of all active runs.
        capacity: What there is to share.
    """
    claims = list(claims)
    machine = next(claim.machine for claim in claims if claim.number == number)
    for claim, taken in _in_order(claims, machine):
        if claim.number == number:
            return taken.gpus_for(claim.needs, capacity) if taken.leaves(claim.needs, capacity) else None
    raise AssertionError("a queued run is active")


def startable(
    claims: Iterable[ResourceClaim], machine: str, capacity_of: Callable[[int], Capacity]
) -> list[int]:
    """The runs in a machine's queue that may start now, in the order in which they were submitted.

    Args:
        claims: Those of all active runs.
        machine: Its `host_id`.
        capacity_of: What there is to share, as a queued run's submitter saw it.
    """
    return [
        claim.number
        for claim, taken in _in_order(list(claims), machine)
        if claim.in_queue and taken.leaves(claim.needs, capacity_of(claim.number))
    ]


def shortage(number: int, claims: Iterable[ResourceClaim], capacity: Capacity) -> str:
    """What a queued run waits for, in words: ``2 cores (1 of 4 free), behind 3 runs``; or ``run 12``."""
    claims = list(claims)
    own = next((claim for claim in claims if claim.number == number), None)
    if own is None:
        return ""
    if own.delay_s:
        return f"its next attempt, in {format_duration(own.delay_s)}"
    if own.after:
        return f"run{'s' * (len(own.after) > 1)} {', '.join(map(str, own.after))}"
    before = [one for one in claims if one.needs.asks and one.machine == own.machine]
    started = _Taken()
    for claim in before:
        if claim.started:
            started.add(claim)
    ahead = sum(claim.may_start and not claim.started and claim.number < number for claim in before)
    needed = ", ".join(started.needed(own.needs, capacity))
    return f"{needed}, behind {plural(ahead, 'run')}" if ahead else needed


def _in_order(claims: list[ResourceClaim], machine: str | None) -> Iterator[tuple[ResourceClaim, "_Taken"]]:
    """Runs of a machine that wait, the earliest first, each with what is taken before it."""
    taken = _Taken()
    here = [claim for claim in claims if claim.machine == machine and (claim.in_queue or claim.needs.asks)]
    for claim in here:
        if claim.started:
            taken.add(claim)
    for claim in sorted(here, key=lambda claim: claim.number):
        if claim.may_start and not claim.started:
            yield claim, taken
            taken.add(claim)


class _Taken:
    """What some runs take: started ones have their GPUs, others will get some."""

    def __init__(self) -> None:
        self._cpus = 0.0
        self._memory_bytes = 0
        self._gpu_ids: set[int] = set()
        self._gpus_to_come = 0

    def add(self, claim: ResourceClaim) -> None:
        self._cpus += claim.needs.cpus or 0
        self._memory_bytes += claim.needs.memory_bytes or 0
        if claim.started:
            self._gpu_ids.update(claim.gpu_ids)
        else:
            self._gpus_to_come += claim.needs.gpus or 0

    def leaves(self, needs: ComputeRequest, capacity: Capacity) -> bool:
        """Whether enough is left for these needs; who does not ask for something needs none of it."""
        return (
            _fits(needs.cpus, self._cpus, capacity.cpus)
            and _fits(needs.memory_bytes, self._memory_bytes, capacity.memory_bytes)
            and _fits(needs.gpus, self._gpus_to_come, len(self._free_gpus(capacity)))
        )

    def gpus_for(self, needs: ComputeRequest, capacity: Capacity) -> tuple[int, ...]:
        return tuple(self._free_gpus(capacity)[: needs.gpus or 0])

    def needed(self, needs: ComputeRequest, capacity: Capacity) -> Iterator[str]:
        if needs.cpus is not None:
            free = max(capacity.cpus - self._cpus, 0)
            yield f"{needs.cpus:g} core{'s' * (needs.cpus != 1)} ({free:g} of {capacity.cpus} free)"
        if needs.gpus is not None:
            free = len(self._free_gpus(capacity))
            yield f"{plural(needs.gpus, 'GPU')} ({free} of {len(capacity.gpu_ids)} free)"
        if needs.memory_bytes is not None:
            free = format_size(max(capacity.memory_bytes - self._memory_bytes, 0))
            yield f"{format_size(needs.memory_bytes)} of memory ({free} free)"

    def _free_gpus(self, capacity: Capacity) -> list[int]:
        return [gpu for gpu in capacity.gpu_ids if gpu not in self._gpu_ids]


def _fits(need: float | None, taken: float, available: float) -> bool:
    return need is None or need + taken <= available
