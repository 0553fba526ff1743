"""Runs for tests: records without processes, and real ones with ways to wait for them."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from conjure.core.home import Home
from conjure.python_api import Client, Run
from conjure.runs.database.base import KILL, Database
from conjure.runs.database.open_database import open_database
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.host.process import Process, find_process
from conjure.runs.lifecycle.stop_requests import end_runs
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.run_folder import LOG_FILE
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import PHASES, Ending, RunStatus
from conjure.runs.telemetry.logs import LogTail, lines
from support.repositories import read_files

OWNER = Owner("host", "boot", 1, "1")
# Commands that go on until `release`.
UNTIL_GO = "while [ ! -e ../go ]; do sleep 0.02; done"
MADE_AFTER_GO = f"echo ready; {UNTIL_GO}; echo made > made.txt"
_PATIENCE_S = 60.0


def add_run(store: Database, command: str = "true", **spec: object) -> RunRecord:
    """A run that was only asked for: a row and a folder, no process."""
    return store.create_run(
        RunSpec(command=(command,), folder=Path("/code"), **spec),
        OWNER,
        lambda number: store.home.run_folder(number).mkdir(parents=True),
    )


def advance(store: Database, number: int, to: RunStatus) -> None:
    """Move a run through its phases up to one, as its supervisor would, which also begins the log."""
    (store.home.run_folder(number) / LOG_FILE).touch()
    for phase in PHASES[1 : PHASES.index(to) + 1]:
        store.move(number, phase)


def finish(store: Database, number: int, ending: Ending) -> RunRecord:
    """Take a run that was only asked for to this ending."""
    advance(store, number, RunStatus.SAVING)
    return store.end_run(number, ending)


def wait_until(
    condition: Callable[[], object], what: str, *, patience_s: float = _PATIENCE_S, every_s: float = 0.01
) -> None:
    """Wait for something that is to happen soon; fail with `what` if it does not."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"it never happened: {what}")
        time.sleep(every_s)


def wait_for_status(run: Run, *statuses: RunStatus) -> RunRecord:
    """Wait until a run has one of the statuses; without closing abandoned runs, as a command would."""
    with open_database(run.home) as store:
        wait_until(lambda: store.get(run.number).status in statuses, f"run {run.number} {statuses}")
        return store.get(run.number)


def supervisor_of(run: Run) -> Process:
    """The supervisor's process, once it has taken over from the caller."""
    with open_database(run.home) as store:
        wait_until(lambda: _owner(store, run.number) != os.getpid(), "a supervisor")
        process = find_process(_owner(store, run.number))
    assert process is not None
    return process


def wait_for_supervisors(home: Home) -> None:
    """Wait until no run of a home has a supervisor: after a run's end it still frees and removes files."""
    wait_until(lambda: all(map(_has_no_supervisor, home.runs.iterdir())), "the end of the supervisors")


def _has_no_supervisor(folder: Path) -> bool:
    with RunLock.possession(folder) as nobody_has_it:
        return nobody_has_it


def _owner(store: Database, number: int) -> int:
    owner = store.get(number).owner
    assert owner is not None
    return owner.pid


def release(run: Run) -> None:
    """Let a run's command go on that waits as `UNTIL_GO` does."""
    (run.home.run_folder(run.number) / "go").touch()


def outputs(run: Run) -> dict[str, str]:
    """What a run left behind, by name."""
    return read_files(run.home.run_folder(run.number) / "outputs")


def wait_for_lines(log: Path, seconds: float) -> None:
    """Wait until a command that goes on, and prints ten lines a second at most, has printed for so long."""
    wanted = _count_lines(log) + 10 * seconds
    wait_until(
        lambda: _count_lines(log) >= wanted,
        "further lines",
        patience_s=_PATIENCE_S + 4 * seconds,
        every_s=0.1,
    )


def _count_lines(log: Path) -> int:
    return sum(1 for _ in lines(LogTail(log).read()))


def nap(seconds: int) -> str:
    """So many seconds for `sleep`, as no process of another worker or another suite at work here says it."""
    return f"{seconds}.{os.getpid():07d}"


def is_running(marker: str) -> bool:
    """Whether a process has this among its arguments."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                if marker in (folder / "cmdline").read_bytes().decode(errors="replace").split("\0"):
                    return True
            except OSError:
                continue
    return False


@contextmanager
def ending_runs(home: Home) -> Iterator[Client]:
    """A client whose runs are killed when the test is over, whatever came of it."""
    client = Client(home.root)
    try:
        yield client
    finally:
        with open_database(home) as store:
            going_on = [record.number for record in store.active()]
        for number in going_on:
            end_runs(home, [number], KILL)  # and wait for none whose machine a test has lost
