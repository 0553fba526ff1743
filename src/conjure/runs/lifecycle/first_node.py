"""Supervising a run on its first node, or only one, in a job that an executor has handed to a cluster.

Main entries: `main_on_first_node`, `find_out`. Invariant: what the supervisor needs comes from the team's
database and object store, or from the folder that the nodes share, and nothing from the machine that asked
for the run, which may be gone.
"""

import os
import secrets
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from conjure.core.config import heartbeat_interval_s
from conjure.core.files import locked
from conjure.core.home import HOME_VARIABLE, Home
from conjure.core.team_settings import objects_team
from conjure.core.trees import remove_tree
from conjure.errors import ConjureError
from conjure.metric_logging import OWN_VARIABLES
from conjure.runs.artifacts.team_transfer import is_left_over, move_to_cache, remove_from_cache, shared_files
from conjure.runs.code import snapshot
from conjure.runs.database.base import Database
from conjure.runs.database.open_database import open_database
from conjure.runs.database.record_files import folder_numbers
from conjure.runs.environments.uv import uv_program
from conjure.runs.executors.cluster import JOB_VARIABLE
from conjure.runs.executors.run_lock import RunLock, take_out_of_sight
from conjure.runs.executors.supervisor_request import Program, SupervisorRequest
from conjure.runs.host.capacity import Capacity
from conjure.runs.host.process import boot_id
from conjure.runs.host.process_settings import ProcessSettings
from conjure.runs.lifecycle.heartbeat import GIVE_UP_AFTER, when_reachable
from conjure.runs.lifecycle.supervisor import become_supervisor
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.run_folder import REMOVED, RunFolder

_OF_A_JOB = ("RAY_", "SLURM_", "SLURMD_")
NOT_JOINED = (
    "no home of this account has joined the team: run `conjure team join --database ADDRESS` on the node"
)


def main_on_first_node(home: Home, number: int, attempt: int) -> None:
    """Supervise a run in this job of a cluster's; returns when the supervisor has ended.

    The supervisor is in a session of its own: a cluster that loses the job, or kills it, leaves it alone.

    Args:
        home: Where conjure keeps things on this node.
        number: The run.
        attempt: The attempt that this job was handed over for; another one ends at once.
    """
    patience_s = GIVE_UP_AFTER * heartbeat_interval_s(home)
    until = time.monotonic() + patience_s
    while True:
        request = when_reachable(lambda: _request_for(home, number, attempt), patience_s)
        if request is None:
            return
        lock = _take_folder(home, number)
        # The supervisor of the attempt before has it for as long as it waits for a store that is away.
        if lock is not None or time.monotonic() > until:
            break
    if lock is not None and lock.descriptor is not None:
        supervise_below(lock, lambda: become_supervisor(home, number, lock, request, attempt))


def _request_for(home: Home, number: int, attempt: int) -> SupervisorRequest | None:
    """What an attempt's supervisor is given; None where the run was ended, or started by another job."""
    with open_database(home, must_exist=True) as store:
        text, is_next = store.request(number), store.newest_attempt(number) + 1 == attempt
        if text is None or not is_next or not store.get(number).waits_in_queue:
            return None
        requested = time.monotonic() - store.age_s(number)
        if objects_team(home) is not None:
            _tidy(home, store)
    return replace(as_here(SupervisorRequest.from_json(text), home), requested=requested)


def supervise_below(lock: RunLock, become: Callable[[], NoReturn]) -> None:
    """Have a process of its own supervise a run, or a part of it, and wait until that has ended.

    Args:
        lock: Of its folder, for that process.
        become: Makes a process the supervisor.
    """
    reading, writing = os.pipe()  # held by supervisor and guard, and by nobody else, until they end
    above = os.fork()
    if above == 0:
        try:
            os.close(reading)
            become()
        finally:
            os._exit(1)
    os.close(writing)
    lock.release()
    # The guard is in the group that the process above it began, and passes it on: the run stops and saves.
    signal.signal(signal.SIGTERM, lambda *_: _signal_group(above, signal.SIGTERM))
    os.read(reading, 1)


def _take_folder(home: Home, number: int) -> RunLock | None:
    """Possession of a run's folder, which is made where the machine that asked for the run has its own."""
    if objects_team(home) is None:
        return RunLock.take_when_free(home.run_folder(number))
    folder = home.runs / str(number)
    try:
        lock = RunLock.create(folder)
        RunFolder(folder).log.touch(mode=0o600)
    except FileExistsError:  # of an earlier attempt here
        lock = RunLock.take_when_free(folder)
        if lock is not None and lock.descriptor is None:  # of who asked for it here, and has just removed it
            return _take_folder(home, number)
    if lock is not None:
        remove_from_cache(home, number)  # what was brought here of an attempt on another node
    return lock


def _tidy(home: Home, store: Database) -> None:
    """Let a node's home hold no more of the runs that were carried out here than it needs.

    What others can have from the object store becomes part of the cache; what an attempt left that was
    followed by one elsewhere goes.
    """
    for removed in home.runs.glob(f"{REMOVED}*"):  # by a job that was killed meanwhile
        with suppress(OSError):
            remove_tree(removed)
    for number in folder_numbers(home.runs):
        with suppress(ConjureError, OSError):  # the next job here tries it again
            useless = None
            with RunLock.possession(home.runs / str(number)) as nobody_has_it:
                record = store.get(number)
                if nobody_has_it and record.spec.on is not None:
                    useless = _release(home, record)
            if useless is not None:
                remove_tree(useless)
    tidy_part_folders(home)


def create_part_folder(home: Home, name: str) -> RunLock:
    """Make the folder of a part of a run and take possession of it; what is left of others is removed.

    Raises:
        FileExistsError: It is there already.
        OSError: It cannot be made.
    """
    tidy_part_folders(home)
    with locked(home.node_parts_lock):
        return RunLock.create(home.node_parts / name)


def tidy_part_folders(home: Home) -> None:
    """Remove what is left here of parts of runs whose supervisors were killed."""
    if not home.node_parts.is_dir():
        return
    with locked(
        home.node_parts_lock
    ):  # one that is being made, maybe on another node, is not yet locked itself
        for folder in home.node_parts.iterdir():
            with suppress(OSError):
                with RunLock.possession(folder) as nobody_has_it:
                    pass
                if nobody_has_it:  # and nobody will; NFS removes no folder in which a file is open
                    remove_tree(folder)


def _release(home: Home, record: RunRecord) -> Path | None:
    """Keep of a run what others may ask for here; what nobody can any more is to be removed."""
    folder = RunFolder(home.runs / str(record.number))
    if is_left_over(home, record):
        snapshot.release_tree(home, record.number)
        return take_out_of_sight(folder.path)
    if record.outputs is not None and record.outputs.manifest is not None and not folder.work.exists():
        move_to_cache(home, record.number)
    return None


def as_here(request: SupervisorRequest, home: Home) -> SupervisorRequest:
    """A request with what this node has in place of what the machine had that it was made on."""
    passed_on = {name: value for name, value in os.environ.items() if _is_the_nodes(name)}
    own_folder = str(Path(sys.executable).parent)  # where this conjure and its Python are
    passed_on["PATH"] = os.pathsep.join([own_folder, os.environ.get("PATH", os.defpath)])
    return replace(
        request,
        capacity=Capacity.of_this_machine(),
        variables=passed_on | {HOME_VARIABLE: str(home.root)},
        settings=ProcessSettings.of_this_process(),
        program=Program.of_this_process(),
        boot_id=boot_id(),
        job=os.environ.get(JOB_VARIABLE, ""),
    )


def _is_the_nodes(name: str) -> bool:
    """Whether a variable is the node's: not one that the cluster set for its job alone."""
    return name not in (*OWN_VARIABLES, JOB_VARIABLE, "PYTHONBREAKPOINT") and not name.startswith(_OF_A_JOB)


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def find_out(home: Home | None) -> dict[str, str | bool]:
    """What `conjure executors check` asks a node for.

    Args:
        home: Of the team; None where none has joined it.

    Returns:
        The version that is here, whether there is a home; and of what else a supervisor needs, what is wrong,
        or an empty text.
    """
    joined = home is not None and home.team_file.is_file()
    return {
        "version": version("conjure"),
        "joined": joined,
        "uv": _fault(uv_program),
        "store": _fault(lambda: _try_store(home)) if home is not None and joined else "",
    }


def _fault(act: Callable[[], object]) -> str:
    try:
        act()
    except ConjureError as error:
        return error.unspelled.message
    return ""


def _try_store(home: Home) -> None:
    """Read from the database; write to the object store, where there is one, and remove it again.

    Raises:
        StoreError: One of them cannot be used.
    """
    open_database(home, must_exist=True).close()
    team = objects_team(home)
    if team is not None:
        with shared_files(home, team, tries=2) as files:
            name = f"probe/{secrets.token_hex(8)}"
            files.objects.put(name, b"")
            files.objects.delete([name])
