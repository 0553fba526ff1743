"""The queue of a machine: runs that wait for resources, without a process of their own.

    submission, or a supervisor that finds no room ── enqueue ──→ queue ── scheduler_loop ──→ supervisor

Main entries: `enqueue`, `admit`, `has_room`. Invariant: a queued run is a row and a request; whatever process
is killed, both are still there.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from conjure.core.home import Home
from conjure.core.text import error_text
from conjure.errors import ConjureError, ExecutorError
from conjure.runs.database.base import Database
from conjure.runs.executors.supervisor_request import LOCAL, SupervisorRequest
from conjure.runs.scheduling.scheduler import allocate
from conjure.runs.scheduling.scheduler_start import this_queue
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import RunStatus

_PRIVATE = 0o700


def enqueue(home: Home, store: Database, number: int, request: SupervisorRequest) -> None:
    """Leave a run to this machine's queue; the caller possesses it, lets it go, and wakes the scheduler.

    Raises:
        ExecutorError: What its supervisor will need cannot be kept in memory.
        IllegalMoveError: The run is past that already.
    """
    RunFolder.of(home, number).log.touch(mode=0o600)
    write_request(home, number, request)
    store.enqueue(number, this_queue(home))


def has_room(store: Database, number: int, request: SupervisorRequest) -> bool:
    """Whether a run may start now, as far as can be seen; its supervisor asks for resources again."""
    needs, after = request.spec.resources, request.spec.after
    if not (needs.asks or after):
        return True
    claims = store.claims()
    if any(claim.number == number and not claim.may_start for claim in claims):
        return False
    return not needs.asks or allocate(number, claims, request.capacity) is not None


def admit(store: Database, number: int, request: SupervisorRequest) -> bool:
    """Let a run go on to building, if there is room for it; its supervisor, which owns it, asks.

    Raises:
        IllegalMoveError: It has ended meanwhile.
    """
    status = store.facts(number).status
    if status is RunStatus.BUILDING:
        return True  # it was let in, and its supervisor did not hear, for the server went away
    if status is RunStatus.REQUESTED:
        store.move(number, RunStatus.QUEUED)
    if not request.spec.resources.asks or request.executor != LOCAL:  # another executor counts by itself
        store.move(number, RunStatus.BUILDING)
        return True
    return store.admit(number, lambda claims: allocate(number, claims, request.capacity))


def write_request(home: Home, number: int, request: SupervisorRequest) -> None:
    """Keep what the supervisor of a queued run will be given.

    Raises:
        ExecutorError: It cannot be kept.
    """
    folder = home.queued_requests
    try:
        new = folder / f".{number}.{os.getpid()}"
        descriptor = _open_in_own(folder, new)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(request.to_json())
            new.replace(home.queued_request(number))
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:
        raise ExecutorError(f"a waiting run cannot be stored in {folder}: {error_text(error)}") from error


def _open_in_own(folder: Path, file: Path) -> int:
    """A new file in the folder of requests, which whoever removes the last one of them removes too."""
    while True:
        with suppress(FileExistsError):
            folder.mkdir(mode=_PRIVATE)
        with suppress(FileNotFoundError):
            _check_own(folder)
            return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _check_own(folder: Path) -> None:
    """Check that only its owner can use a folder that was made for that: others may write beside it."""
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or stat.S_IMODE(facts.st_mode) & 0o077:
        raise PermissionError(1, "it is not a private folder of yours", str(folder))


def read_request(home: Home, number: int) -> SupervisorRequest | None:
    """What the supervisor of a queued run is to be given; None if it is gone."""
    try:
        return SupervisorRequest.from_json(home.queued_request(number).read_bytes())
    except (OSError, ValueError, KeyError, TypeError, ConjureError):
        return None


def numbers_of_requests(home: Home) -> set[int]:
    """The runs of which something is kept for their supervisors."""
    try:
        names = [path.stem for path in home.queued_requests.iterdir()]
    except OSError:
        return set()
    return {int(name) for name in names if name.isdecimal()}
