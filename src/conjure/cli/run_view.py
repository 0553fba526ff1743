"""How a run is shown wherever one is: its status, how long it took, its metrics.

Main entries: `status_cell`, `elapsed`, `key_metric`. Invariant: these take what a listing has of a run, so no
file of the run is read.
"""

import time
from collections.abc import Mapping

from conjure.cli.tables import Cell
from conjure.core.units import format_duration, format_number
from conjure.runs.database.base import Lease
from conjure.runs.lifecycle.heartbeat import is_unreachable
from conjure.runs.schema.status import EndReason, Facts, RunStatus

_COLOURS = {
    RunStatus.COMPLETE: "green",
    RunStatus.RUNNING: "cyan",
    RunStatus.SAVING: "cyan",
    RunStatus.STOPPED: "yellow",
    RunStatus.INTERRUPTED: "yellow",
    RunStatus.FAILED: "red",
    RunStatus.KILLED: "red",
    RunStatus.BUILD_FAILED: "red",
    RunStatus.MOUNT_FAILED: "red",
}
_MEASURED = ("eval", "val", "test")


def status_cell(facts: Facts, lease: Lease | None = None) -> Cell:
    """The status, with the exit code or signal of a command that failed: ``failed (exit 1)``.

    Args:
        facts: How far the run has come.
        lease: Who has it, where that is known; a supervisor out of reach may be alive or dead.
    """
    status, ending = facts.status, facts.ending
    if ending is None and lease is not None and is_unreachable(lease):
        return Cell(f"unreachable (last heartbeat {lease.heartbeat_age_s:.0f} s ago)", "yellow")
    how = ""
    if ending is not None and status is RunStatus.FAILED:
        how = f" (signal {ending.signal})" if ending.signal else f" (exit {ending.exit_code})"
        how = " (not saved)" if ending.reason is EndReason.SAVE_FAILED else how
    if ending is not None and ending.reason is EndReason.DEPENDENCY_FAILED:
        how = f" ({ending.message})"
    return Cell(f"{status}{how}", _COLOURS.get(status))


def heartbeat_age_s(lease: Lease | None) -> float | None:
    """How long ago a run's supervisor was last heard of; None where that is not told."""
    return None if lease is None else round(lease.heartbeat_age_s, 3)


def elapsed(facts: Facts, total_s: float | None, now: float | None = None) -> str:
    """From request to end, or until now while it goes on; a dash where nobody saw the end."""
    if total_s is not None:
        return format_duration(total_s)
    requested = facts.entered.get(RunStatus.REQUESTED)
    if facts.ending is not None or requested is None:
        return "-"
    return format_duration((now if now is not None else time.time()) - requested)


def key_metric(values: Mapping[str, float]) -> str | None:
    """The one metric to show of a run: a held-out loss, else one on other data, else a loss, else any."""
    return min(values, key=lambda name: (_rank(name), name), default=None)


def _rank(name: str) -> int:
    lower = name.lower()
    is_loss = "loss" in lower
    if is_loss and "held" in lower:
        return 0
    if is_loss and any(word in lower for word in _MEASURED):
        return 1
    return 2 if is_loss else 3


def metric_value(value: float) -> str:
    """A metric's value in six digits at most."""
    return format_number(value)
