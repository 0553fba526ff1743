"""What a run can be, and how it may move: the state machine every other module obeys.

Main entries: `RunStatus`, `EndReason`, `RunProgress`, `check_move`, `check_ending`. Invariant: a status is
never stored; it follows from facts (which phases were entered, and why it ended), so the two cannot disagree.

    requested ─ queued ─ building ─ mounting ─ running ─ saving ─┬─ complete      exit status 0, nothing else
        │          │         │          │         │         │    ├─ failed
        │          │         │          │         │         │    ├─ stopped
        └──────────┴─────────┴──────────┴─────────┴─────────┴────┼─ killed        nothing saved, work kept
        └──────────┴─────────┴──────────┴─────────┴─────────┴────┼─ interrupted   machine or supervisor died
        └──────────┴─────────┴──────────┴────────────────────────┼─ stopped       before the command started
        └────────────────────┴───────────────────────────────────┼─ build_failed  code or environment
                                        └────────────────────────┴─ mount_failed

An attempt that is followed by another one is no end: from any phase but the first, the run is `queued` again
(`check_retry`).
"""

from dataclasses import dataclass, field
from enum import StrEnum
from signal import SIGKILL, SIGTERM


class RunStatus(StrEnum):
    """The statuses, in the order a run passes through them; the last seven are final."""

    REQUESTED = "requested"
    QUEUED = "queued"
    BUILDING = "building"
    MOUNTING = "mounting"
    RUNNING = "running"
    SAVING = "saving"
    COMPLETE = "complete"
    FAILED = "failed"
    STOPPED = "stopped"
    KILLED = "killed"
    BUILD_FAILED = "build_failed"
    MOUNT_FAILED = "mount_failed"
    INTERRUPTED = "interrupted"

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to the run."""
        return self not in PHASES


PHASES: tuple[RunStatus, ...] = (
    RunStatus.REQUESTED,
    RunStatus.QUEUED,
    RunStatus.BUILDING,
    RunStatus.MOUNTING,
    RunStatus.RUNNING,
    RunStatus.SAVING,
)


class EndReason(StrEnum):
    """Why a run ended; the final status follows from it (`EndReason.status`)."""

    COMPLETED = "completed"
    NONZERO_EXIT = "nonzero_exit"
    SIGNALLED = "signalled"
    SAVE_FAILED = "save_failed"
    STOP_REQUESTED = "stop_requested"
    TIMEOUT = "timeout"
    STOP_CONDITION = "stop_condition"
    DEPENDENCY_FAILED = "dependency_failed"
    PRUNED = "pruned"
    KILL_REQUESTED = "kill_requested"
    SUBMISSION_FAILED = "submission_failed"
    CODE_FAILED = "code_failed"
    BUILD_FAILED = "build_failed"
    MOUNT_FAILED = "mount_failed"
    SUPERVISOR_DIED = "supervisor_died"
    MACHINE_RESTARTED = "machine_restarted"

    @property
    def status(self) -> RunStatus:
        """The final status this reason leads to."""
        return STATUS_OF_REASON[self]


STATUS_OF_REASON: dict[EndReason, RunStatus] = {
    EndReason.COMPLETED: RunStatus.COMPLETE,
    EndReason.NONZERO_EXIT: RunStatus.FAILED,
    EndReason.SIGNALLED: RunStatus.FAILED,
    EndReason.SAVE_FAILED: RunStatus.FAILED,
    EndReason.STOP_REQUESTED: RunStatus.STOPPED,
    EndReason.TIMEOUT: RunStatus.STOPPED,
    EndReason.STOP_CONDITION: RunStatus.STOPPED,
    EndReason.DEPENDENCY_FAILED: RunStatus.STOPPED,
    EndReason.PRUNED: RunStatus.STOPPED,
    EndReason.KILL_REQUESTED: RunStatus.KILLED,
    EndReason.SUBMISSION_FAILED: RunStatus.BUILD_FAILED,
    EndReason.CODE_FAILED: RunStatus.BUILD_FAILED,
    EndReason.BUILD_FAILED: RunStatus.BUILD_FAILED,
    EndReason.MOUNT_FAILED: RunStatus.MOUNT_FAILED,
    EndReason.SUPERVISOR_DIED: RunStatus.INTERRUPTED,
    EndReason.MACHINE_RESTARTED: RunStatus.INTERRUPTED,
}

_ALWAYS = frozenset({RunStatus.KILLED, RunStatus.INTERRUPTED})
_ENDINGS: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.REQUESTED: _ALWAYS | {RunStatus.STOPPED, RunStatus.BUILD_FAILED},
    RunStatus.QUEUED: _ALWAYS | {RunStatus.STOPPED},
    RunStatus.BUILDING: _ALWAYS | {RunStatus.STOPPED, RunStatus.BUILD_FAILED},
    RunStatus.MOUNTING: _ALWAYS | {RunStatus.STOPPED, RunStatus.MOUNT_FAILED},
    RunStatus.RUNNING: _ALWAYS,
    RunStatus.SAVING: _ALWAYS | {RunStatus.COMPLETE, RunStatus.FAILED, RunStatus.STOPPED},
}

# status -> the statuses that may follow it; a final status has none
MOVES: dict[RunStatus, frozenset[RunStatus]] = {
    status: _ENDINGS[status] | set(PHASES[place + 1 : place + 2]) for place, status in enumerate(PHASES)
} | {status: frozenset() for status in RunStatus if status not in PHASES}


class IllegalMoveError(ValueError):
    """A bug of ours: a run was asked to move where it cannot."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended.

    Attributes:
        reason: Why.
        exit_code: The command's own exit status, None if a signal ended it or it never started.
        signal: The number of the signal that ended it, or None.
        message: One sentence for people where the reason alone does not say it all.
    """

    reason: EndReason
    exit_code: int | None = None
    signal: int | None = None
    message: str | None = None

    def __post_init__(self) -> None:
        """Refuse contradictions, so that `complete` can mean exit status 0 and nothing else."""
        if (self.reason is EndReason.COMPLETED) and (self.exit_code != 0 or self.signal is not None):
            raise IllegalMoveError(f"completed with exit code {self.exit_code}, signal {self.signal}")
        if self.reason is EndReason.NONZERO_EXIT and not self.exit_code:
            raise IllegalMoveError(f"nonzero_exit with exit code {self.exit_code}")
        if self.reason is EndReason.SIGNALLED and not self.signal:
            raise IllegalMoveError("signalled without a signal")


@dataclass(frozen=True, slots=True)
class RunProgress:
    """What is known of a run's progress: all that its status follows from.

    Attributes:
        entered: Phase -> when it was entered (seconds since the epoch, by the clock of that moment; a clock
            may jump, so nothing is ever concluded from comparing two of these).
        ended_at: When it ended, or None.
        ending: How it ended, or None.
    """

    entered: dict[RunStatus, float] = field(default_factory=dict)
    ended_at: float | None = None
    ending: Ending | None = None

    @property
    def status(self) -> RunStatus:
        """The status that follows: how it ended, else the furthest phase entered."""
        return self.ending.reason.status if self.ending else self.phase

    @property
    def phase(self) -> RunStatus:
        """The furthest phase the run entered, ended or not."""
        return max(self.entered, key=PHASES.index, default=RunStatus.REQUESTED)


def check_move(current: RunStatus, wanted: RunStatus) -> None:
    """Raise `IllegalMoveError` unless a run may go from one status to the other."""
    if wanted not in MOVES[current]:
        raise IllegalMoveError(f"a run cannot go from {current} to {wanted}")


def check_retry(current: RunStatus) -> None:
    """Raise `IllegalMoveError` unless an attempt at a run can end from where it is."""
    if current.is_final or current is RunStatus.REQUESTED:
        raise IllegalMoveError(f"a run that is {current} cannot be queued for another attempt")


EXIT_BEFORE_START = 125
EXIT_DETACHED = 130


def exit_status(ending: Ending) -> int:
    """The status a command line ends with for a run that ended so.

    The command's own code; 128 + n when signal n ended it (stop, kill and timeout included); 125 when it is
    conjure that failed: before the command started, while saving, or by being interrupted.
    """
    if ending.signal is not None:
        return 128 + ending.signal
    if ending.exit_code is not None and (ending.exit_code or ending.reason is not EndReason.SAVE_FAILED):
        return ending.exit_code
    if ending.reason is EndReason.DEPENDENCY_FAILED:
        return EXIT_BEFORE_START
    before_start = {RunStatus.STOPPED: 128 + SIGTERM, RunStatus.KILLED: 128 + SIGKILL}
    return before_start.get(ending.reason.status, EXIT_BEFORE_START)
