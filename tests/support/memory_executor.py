"""An executor in memory: a test decides when a supervisor starts, what it does, and when it is lost.

Main entries: `MemoryExecutor`, `play_supervisor`. Its supervisors are no processes: they write what one on
another machine would.
"""

from conjure.core.home import Home
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.executors.base import Executor, SupervisorState
from conjure.runs.executors.supervisor_request import SupervisorRequest
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.status import PHASES, Ending, EndReason, RunStatus

ELSEWHERE = Owner("elsewhere", "boot", 7, "7")


class MemoryExecutor(Executor):
    """Keeps requests, and says what a test has set."""

    name = "memory"

    def __init__(self) -> None:
        self.requests: dict[int, SupervisorRequest] = {}
        self.states: dict[int, SupervisorState] = {}

    def start(self, number: int, request: SupervisorRequest) -> None:
        self.requests[number] = request
        self.states[number] = SupervisorState.WAITING

    def state(self, number: int) -> SupervisorState:
        return self.states[number]

    def end(self, number: int) -> None:
        if self.states[number] is SupervisorState.WAITING:
            self.states[number] = SupervisorState.GONE


def play_supervisor(home: Home, executor: MemoryExecutor, number: int, *, to: RunStatus) -> SqliteDatabase:
    """Take a run over as a supervisor elsewhere would, and bring it so far; its own way to the database."""
    executor.states[number] = SupervisorState.STARTED
    store = SqliteDatabase.open(home)
    store.write_as(number, store.begin_attempt(number, ELSEWHERE))
    for phase in PHASES[1 : PHASES.index(to) + 1]:
        store.move(number, phase)
    return store


def complete(store: SqliteDatabase, number: int) -> None:
    """End a run that `play_supervisor` has brought to saving."""
    with store:
        store.end_run(number, Ending(EndReason.COMPLETED, 0))
