"""The process that supervises a run: in its own session, so that it outlives the terminal.

Main entries: `main` (``python -m conjure.runs.lifecycle.supervisor NUMBER [LOCK]``), started by an executor;
and `become_supervisor`, called in a copy of a process that starts many, such as `scheduler_loop`, or of a job
of a cluster's, by `first_node`. Two processes stand behind a run: the supervisor, which takes it through
and holds its lock; and above it a guard, which only waits, and ends every process of the run should the
supervisor be killed.

Invariant: whatever ends the supervisor, no process of the run is left and its record gets closed.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, Protocol

from conjure.core.config import heartbeat_interval_s
from conjure.core.home import HOME_VARIABLE, Home
from conjure.errors import ConjureError, StoreError
from conjure.metric_logging import RUN_VARIABLE
from conjure.runs.artifacts.attempts import archive_attempt
from conjure.runs.artifacts.team_upload import RunUploader
from conjure.runs.database.base import Database, SupersededError
from conjure.runs.database.open_database import import_database, open_database
from conjure.runs.distributed.node_coordinator import WorkerNodes
from conjure.runs.environments.containers import keeps_containers
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.executors.supervisor_request import LOCAL, SupervisorRequest
from conjure.runs.host.cgroup import leave_cgroup
from conjure.runs.host.process import Process, boot_id, kill_descendants, machine_id, this_process
from conjure.runs.host.process_control import adopt_orphans, set_name
from conjure.runs.lifecycle.abandoned_runs import (
    ignore_signals,
    is_other_supervisor,
    kill_orphans,
    process_name,
)
from conjure.runs.lifecycle.execution import RunContext, supervise
from conjure.runs.lifecycle.heartbeat import GIVE_UP_AFTER, Heartbeat, when_reachable
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.scheduling.run_queue import admit, enqueue, write_request
from conjure.runs.scheduling.scheduler_start import (
    is_scheduler,
    remove_request,
    scheduler_is_missing,
    wake_scheduler,
)
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import Ending, EndReason, IllegalMoveError


def main() -> NoReturn:
    """Read the request from stdin, leave the caller behind, and supervise the run.

    Where the caller hands no lock over, as on another machine, it is taken here, and so are the surroundings
    that the request names.
    """
    number, given = int(sys.argv[1]), sys.argv[2:]
    if given:
        with suppress(StoreError):  # it is told where the database is opened
            import_database(Home.from_environment())  # while the caller still records the code
    written = sys.stdin.buffer.read()
    if not written:
        os._exit(0)  # the caller gave up, or died, before there was a request
    request = SupervisorRequest.from_json(written)
    if given:
        _leave_caller(Home.from_environment(), number, RunLock(int(given[0])), request)
    home = Home(Path(request.variables[HOME_VARIABLE]))
    lock = RunLock.take_when_free(home.run_folder(number))
    if lock is None or lock.descriptor is None:
        sys.exit(f"run {number} has a supervisor, or no folder in {home.root}")
    if request.boot_id != boot_id():
        request = replace(request, requested=time.monotonic())  # another machine's clock says nothing here
    os.chdir(home.root)
    _take_surroundings(RunFolder.of(home, number), request)
    _leave_caller(home, number, lock, request)


def _take_surroundings(folder: RunFolder, request: SupervisorRequest) -> None:
    """Have the variables that the run was submitted with, and a log of its own for what goes wrong here."""
    os.environ.clear()
    os.environ.update(request.variables)
    log = os.open(folder.supervisor_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def become_supervisor(
    home: Home,
    number: int,
    lock: RunLock,
    request: SupervisorRequest,
    attempt: int | None = None,
    part: "PartOfRun | None" = None,
) -> NoReturn:
    """Make this process, a copy of one that has all that a supervisor imports, supervise a run.

    Args:
        home: Where conjure keeps things; no database of it is open here.
        number: The run.
        lock: Its lock.
        request: The run, and what its command is given.
        attempt: The attempt that this must become, where another process may have begun it.
        part: What is to be supervised here where another node's supervisor has the run.
    """
    folder = RunFolder.of(home, number) if part is None else part.folder
    try:
        os.setsid()
        os.chdir(home.root)
        request.settings.put_in_force()
        _take_surroundings(folder, request)
        _leave_caller(home, number, lock, request, attempt, part)
    except BaseException:  # noqa: BLE001 - a copy must never go on as what it was copied from
        traceback.print_exc()
    finally:
        os._exit(1)


class PartOfRun(Protocol):
    """What a supervisor does on a worker node of a run."""

    @property
    def folder(self) -> RunFolder:
        """What it has there instead of the run's folder."""
        ...

    def supervise(self, exclude: Callable[[Process], bool]) -> None:
        """Do it, to its end.

        Args:
            exclude: Descendants that are not this run's to end.
        """
        ...


def _leave_caller(
    home: Home,
    number: int,
    lock: RunLock,
    request: SupervisorRequest,
    attempt: int | None = None,
    part: PartOfRun | None = None,
) -> NoReturn:
    """Make this process the guard of a run, with its supervisor below it; see `become_supervisor`."""
    leave_cgroup()  # of the run that may have started this one: it ends without us
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a caller that ignores it would have us lose our children
    ignore_signals()
    set_name(process_name(number))  # before it is orphaned: a run that ends spares other runs' by their names
    if os.fork():
        os._exit(0)  # the caller waits for this: it means that the run is in our hands
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    adopt_orphans()
    supervisor = os.fork()
    if supervisor:
        lock.release()
        _guard(home, number, request, supervisor)
    os.setsid()
    adopt_orphans()
    os.environ[RUN_VARIABLE] = str(number)  # what we start can be found by it, should guard and we both die
    if part is not None:
        _supervise_part(home, number, part)
    _supervise(home, number, request, attempt)


def _supervise_part(home: Home, number: int, part: PartOfRun) -> NoReturn:
    status = 1
    try:
        part.supervise(_exclude(home, number))
        status = 0
    except BaseException:  # noqa: BLE001 - the edge of the process; the first node learns that it is gone
        traceback.print_exc()
    finally:
        kill_descendants(exclude=_exclude(home, number))
        sys.stderr.flush()
        os._exit(status)


def _supervise(home: Home, number: int, request: SupervisorRequest, expected: int | None) -> NoReturn:
    status = 1
    try:
        patience_s = GIVE_UP_AFTER * heartbeat_interval_s(home)
        with when_reachable(lambda: open_database(home, must_exist=True), patience_s) as store:
            attempt = when_reachable(lambda: _enter(home, store, number, request, expected), patience_s)
            if attempt is not None:
                when_reachable(lambda: _begin_anew(home, store, number), patience_s)
                exclude = _exclude(home, number)
                heartbeat = Heartbeat(number, attempt, store.is_shared, interval_s=heartbeat_interval_s(home))
                uploader = RunUploader(store, number, attempt)
                several = request.spec.node_count > 1
                worker_nodes = WorkerNodes(request.spec.node_count, attempt, request.job) if several else None
                run = RunContext(
                    *(home, store, number, request.spec, request.requested, exclude, heartbeat, uploader),
                    worker_nodes=worker_nodes,
                )
                supervise(run)
                if request.spec.retry and store.facts(number).status.is_final:
                    remove_request(home, number)
        status = 0
    except SupersededError as error:
        sys.stderr.write(f"{error}\n")
        status = 0
    except BaseException as error:  # noqa: BLE001 - the edge of the process: tell, close, go
        traceback.print_exc()
        _close_after_our_own_fault(home, number, error)
    finally:
        kill_descendants(exclude=_exclude(home, number))
        _remove_if_empty(home, number)
        sys.stderr.flush()
        wake_scheduler(home)  # there is room now; or the run waits again
        os._exit(status)


def _enter(
    home: Home, store: Database, number: int, request: SupervisorRequest, expected: int | None
) -> int | None:
    """Take the run over and begin it: the number of the attempt. It can be done again where it was cut short.

    None where there is no room for it after all, so that it is left to the queue, or where it has ended.
    """
    try:
        owner = this_process(home)
        if store.get(number).owner == owner:
            attempt = store.newest_attempt(number)  # begun before the server went away
        else:
            attempt = store.begin_attempt(number, owner, expected=expected)
        store.write_as(number, attempt)
        if not admit(store, number, request):
            enqueue(home, store, number, request)
            return None
    except IllegalMoveError:
        return None  # it was ended while it waited
    _keep_request(home, number, request)
    return attempt


def _keep_request(home: Home, number: int, request: SupervisorRequest) -> None:
    """Keep what a further attempt will need, and nothing where there will be none."""
    if request.executor != LOCAL:
        return  # it is in the database
    if not request.spec.retry:
        remove_request(home, number)
        return
    try:
        write_request(home, number, request)
    except ConjureError:
        traceback.print_exc()  # then there is no further attempt


def _begin_anew(home: Home, store: Database, number: int) -> None:
    """Leave nothing of an earlier attempt in the way: no process, no file, no metric."""
    attempts = store.get(number).attempts
    if attempts:
        kill_orphans(home, number)
        archive_attempt(home.run_folder(number), len(attempts))
        store.refresh_summaries(number)


def _guard(home: Home, number: int, request: SupervisorRequest, supervisor: int) -> NoReturn:
    """Wait for the supervisor; should it be killed, end what it leaves and close its record."""
    is_local = request.executor == LOCAL  # else the job above hands on what it was told
    signal.signal(signal.SIGTERM, lambda *_: None if is_local else os.kill(supervisor, signal.SIGTERM))
    while True:
        pid, status = os.wait()
        if pid == supervisor:
            break
    kill_descendants(exclude=_exclude(home, number))
    if status != 0:
        _keep_request(home, number, request)  # a session that ended may have taken what was in memory
    if status != 0 or scheduler_is_missing(home):
        try:
            with open_store(home, must_exist=True) as store:
                if store.facts(number).status.is_final:
                    remove_request(home, number)  # somebody may have closed it before it was kept above
        except ConjureError:
            traceback.print_exc()  # the next command that can write will close it
    wake_scheduler(home)
    os._exit(0)


def _exclude(home: Home, number: int) -> Callable[[Process], bool]:
    return lambda process: (
        is_other_supervisor(home, number, process) or is_scheduler(home, process) or keeps_containers(process)
    )


def _close_after_our_own_fault(home: Home, number: int, error: BaseException) -> None:
    where = RunFolder.of(home, number).supervisor_log
    message = f"internal error ({type(error).__name__}: {error}); see {where}"
    try:
        with open_database(home, must_exist=True) as store:
            record = store.get(number)
            if not record.status.is_final and not _is_taken_over(store, record.owner):
                store.end_run(number, Ending(EndReason.SUPERVISOR_DIED, message=message))
    except ConjureError:
        traceback.print_exc()


def _is_taken_over(store: Database, owner: Owner | None) -> bool:
    """Whether another supervisor has the run meanwhile, as only in a shared home."""
    if not store.is_shared or owner is None or owner.is_queue or owner.is_executor:
        return False
    return (owner.machine, owner.pid) != (machine_id(store.home), os.getpid())


def _remove_if_empty(home: Home, number: int) -> None:
    path = RunFolder.of(home, number).supervisor_log
    if path.exists() and path.stat().st_size == 0:
        path.unlink()


if __name__ == "__main__":
    main()
