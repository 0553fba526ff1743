"""Carrying out a run's part on a node beside the first one, in a job that an executor has handed over.

Main entry: `main_on_worker_node`; `first_node` is for the first one. Invariant: nothing is written of the
run from here. It belongs to the first node's supervisor; what there is to tell, that one is told.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from conjure.core.home import Home
from conjure.core.team_settings import objects_team
from conjure.core.text import error_text
from conjure.core.trees import remove_tree
from conjure.errors import ConjureError, ExecutorError
from conjure.metric_logging import METRICS_VARIABLE
from conjure.runs.artifacts.attempts import remove_passed
from conjure.runs.artifacts.run_folders import RunFolders
from conjure.runs.code import snapshot
from conjure.runs.database.base import Database, DatabaseAwayError
from conjure.runs.database.open_database import open_database
from conjure.runs.distributed.connection import Invitation, accept, find_invitation
from conjure.runs.distributed.node_coordinator import JOIN_WITHIN_S
from conjure.runs.distributed.worker_ranks import Leader, execute_worker_ranks
from conjure.runs.environments import environment_build
from conjure.runs.environments.environment_build import Environment
from conjure.runs.executors.command import Job, NotStartedError
from conjure.runs.executors.contained_command import ENGINE_FAILED
from conjure.runs.executors.supervisor_request import SupervisorRequest
from conjure.runs.host.process import Process
from conjure.runs.lifecycle.cancellation import poll_and_raise
from conjure.runs.lifecycle.command_environment import WorkingDirectory, command_variables
from conjure.runs.lifecycle.execution import place_mounts, ranks_of, take_checkpoints, write_code
from conjure.runs.lifecycle.first_node import as_here, create_part_folder, supervise_below
from conjure.runs.lifecycle.heartbeat import when_reachable
from conjure.runs.lifecycle.supervisor import become_supervisor
from conjure.runs.schema.argv import to_arguments
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.run_folder import RunFolder

_LOOK_EVERY_S = 0.5


def main_on_worker_node(home: Home, number: int, attempt: int, node: int) -> None:
    """Carry out a part of a run in this job of a cluster's; returns when that has ended.

    Args:
        home: Where conjure keeps things on this node.
        number: The run.
        attempt: The attempt that this job was handed over for.
        node: Which of its nodes this is, from 1; the first one has 0.
    """
    found = _wait_for_invitation(home, number, attempt)
    if found is None:
        return  # there is no such attempt any more, or another job's
    request, invitation = found
    folder = home.node_parts / f"{number}-{attempt}-{node}"
    try:
        lock = create_part_folder(home, folder.name)
    except FileExistsError:
        return  # another job of the same attempt has it
    part = _Part(home, number, attempt, node, request, invitation, RunFolder(folder))
    supervise_below(lock, lambda: become_supervisor(home, number, lock, request, attempt, part))


def _wait_for_invitation(
    home: Home, number: int, attempt: int
) -> tuple[SupervisorRequest, Invitation] | None:
    """What the first node's supervisor was given, and where it is, once it is there.

    While the run waits in its queue, the job for its first node may still have to be handed over, or wait for
    room; a job that ended here meanwhile would be missed.
    """
    deadline = time.monotonic() + JOIN_WITHIN_S
    with when_reachable(lambda: open_database(home, must_exist=True), JOIN_WITHIN_S) as store:
        while time.monotonic() < deadline:
            with suppress(DatabaseAwayError):
                text, newest = store.request(number), store.newest_attempt(number)
                if text is None or newest > attempt:
                    return None
                if newest < attempt and store.get(number).waits_in_queue:
                    deadline = time.monotonic() + JOIN_WITHIN_S
                invitation = find_invitation(text, attempt)
                if invitation is not None:
                    request = as_here(SupervisorRequest.from_json(text), home)
                    return (request, invitation) if invitation.job == request.job else None
            time.sleep(_LOOK_EVERY_S)
    return None


class _LeaderLostError(Exception):
    """The first node's supervisor is gone: nothing here is of use any more."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What is carried out here (see `supervisor.PartOfRun`).

    Attributes:
        home: Where conjure keeps things on this node.
        number: The run.
        attempt: Which of its supervisors the first node's is.
        node: Which of the nodes this is.
        request: What the command is given.
        invitation: Where the first node's supervisor is.
        folder: What stands for the run's folder here.
    """

    home: Home
    number: int
    attempt: int
    node: int
    request: SupervisorRequest
    invitation: Invitation
    folder: RunFolder

    @property
    def _has_own_files(self) -> bool:
        """Whether this node has its own copy of what the command works on; else all nodes share a folder."""
        return objects_team(self.home) is not None

    def supervise(self, exclude: Callable[[Process], bool]) -> None:
        """Carry it out, to its end.

        Raises:
            ExecutorError: The first node's supervisor cannot be reached.
        """
        leader = self._join()
        if leader is None:
            return
        signal.signal(signal.SIGTERM, lambda *_: setattr(leader, "told_to_end", True))
        try:
            self._execute(leader, exclude)
            leader.send("ended")
        except NotStartedError as error:
            leader.send("not started", message=str(error), exit_code=error.exit_code)
        except ConjureError as error:
            leader.send("not started", message=error.in_full(), exit_code=ENGINE_FAILED)
        except OSError as error:
            message = error_text(error, with_path=True)
            leader.send("not started", message=message, exit_code=ENGINE_FAILED)
        except _LeaderLostError:
            pass
        finally:
            leader.part()
            self._remove_files()

    def _join(self) -> Leader | None:
        """A connection to the first node's supervisor; None where the attempt is over."""
        deadline = time.monotonic() + JOIN_WITHIN_S
        with when_reachable(lambda: open_database(self.home, must_exist=True), JOIN_WITHIN_S) as store:
            while (connection := accept(self.invitation)) is None:
                if self._is_over(store):
                    return None
                if time.monotonic() > deadline:
                    addresses = ", ".join(self.invitation.addresses)
                    raise ExecutorError(f"no connection to port {self.invitation.port} of {addresses}")
                time.sleep(_LOOK_EVERY_S)
        connection.send("hello", token=self.invitation.token, node=self.node, host=os.uname().nodename)
        return Leader(connection)

    def _is_over(self, store: Database) -> bool:
        with suppress(DatabaseAwayError):
            record = store.get(self.number)
            is_newer = store.newest_attempt(self.number) > self.attempt
            return record.status.is_final or record.waits_in_queue or is_newer
        return False

    def _execute(self, leader: Leader, exclude: Callable[[Process], bool]) -> None:
        def look(_: Database | None) -> Exception | None:
            return _LeaderLostError() if leader.has_ended() else None

        def stay() -> None:
            if leader.has_ended():
                raise _LeaderLostError

        record = when_reachable(self._record, JOIN_WITHIN_S, stay)
        place, environment = self._place(record), None
        if self._has_own_files:
            with poll_and_raise(look, self.home):
                self._prepare_files(record)
                environment = self._environment(place)
        leader.send("ready")
        port = leader.wait_for_start()
        if port is not None:
            environment = environment if environment is not None else self._environment(place)
            execute_worker_ranks(self._job(record, place, environment, leader.address), port, exclude, leader)

    def _record(self) -> RunRecord:
        with open_database(self.home, must_exist=True) as store:
            return store.get(self.number)

    def _place(self, record: RunRecord) -> WorkingDirectory:
        folder = self.folder if self._has_own_files else RunFolder.of(self.home, self.number)
        assert record.code is not None
        return WorkingDirectory(folder.work, folder.work / record.code.subfolder)

    def _prepare_files(self, record: RunRecord) -> None:
        folders = RunFolders(self.folder.path)
        write_code(self.home, record, folders)
        place_mounts(self.home, record, folders, lambda _: None)  # what is skipped, the first node tells
        if record.attempts:
            take_checkpoints(self.home, record, self.attempt, folders)
            remove_passed(self.folder.path, len(record.attempts))

    def _environment(self, place: WorkingDirectory) -> Environment:
        spec = self.request.spec
        variables = {**os.environ, **spec.variables}
        return environment_build.build(self.home, spec.environment, variables=variables, folder=place.folder)

    def _job(self, record: RunRecord, place: WorkingDirectory, environment: Environment, address: str) -> Job:
        spec = self.request.spec
        variables = command_variables(self.home, record, place, environment, spec.variables)
        variables[METRICS_VARIABLE] = str(self.folder.metrics)  # the run's are those of the first process
        arguments = to_arguments(spec.filled_command)
        return Job(arguments, place.folder, variables, ranks=ranks_of(spec, self.node, address))

    def _remove_files(self) -> None:
        if self._has_own_files and self.home.is_elsewhere(self.number):
            snapshot.release_tree(self.home, self.number)
        remove_tree(self.folder.path)
