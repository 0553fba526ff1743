"""The first half of a run's life, in the process that wants it; `execution` is the second.

    RunSpec → number given → code recorded → supervisor started, or left to the queue

Main entries: `submit`, `rerun`; the steps stand below them. Invariant: a run that could not be submitted
after all is closed before its lock is let go.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from conjure.core.config import configured_project, repository_name
from conjure.core.files import real_path
from conjure.core.held_interrupts import interrupts_held
from conjure.core.home import HOME_VARIABLE, Home
from conjure.core.quoting import shell_words
from conjure.core.team_settings import objects_team
from conjure.core.text import error_text
from conjure.errors import ConjureError, NotFoundError, SnapshotError, StoreError, UsageError, option
from conjure.metric_logging import OWN_VARIABLES, RUN_VARIABLE
from conjure.runs.artifacts.mount_sources import active_sources, identity_of, resolve_mounts
from conjure.runs.artifacts.team_transfer import bring_code, send_inputs
from conjure.runs.code import snapshot
from conjure.runs.database.base import Database
from conjure.runs.database.sqlite_connection import NO_ROOM_ERRORS, full_disk
from conjure.runs.database.sweep_rows import TrialClaim, TrialRefusedError
from conjure.runs.environments import image_layers, images
from conjure.runs.environments.container_engine import require_engine
from conjure.runs.environments.local_packages import local_packages, with_absolute_paths
from conjure.runs.environments.pip_requirements import canonical_name
from conjure.runs.executors.base import Executor
from conjure.runs.executors.cluster_executor import ClusterExecutor
from conjure.runs.executors.local import LocalExecutor
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.executors.sandbox import require_sandbox
from conjure.runs.executors.supervisor_request import LOCAL, Program, SupervisorRequest
from conjure.runs.host.capacity import Capacity
from conjure.runs.host.process import boot_id, this_process
from conjure.runs.host.process_settings import ProcessSettings
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.scheduling.run_queue import enqueue, has_room
from conjure.runs.scheduling.scheduler import refuse_impossible
from conjure.runs.scheduling.scheduler_start import (
    dependency_failed,
    remove_request,
    start_dispatcher,
    start_scheduler,
    wake_scheduler,
)
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.record import CodeFacts, MountFacts, RunRecord
from conjure.runs.schema.run_folder import WORK
from conjure.runs.schema.spec import (
    COMMAND,
    CodeChoice,
    EnvironmentChoice,
    RunSpec,
    part_in_words,
    project_fault,
    split_withheld,
)
from conjure.runs.schema.status import Ending, EndReason, IllegalMoveError, RunStatus

_BARE_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?")


@dataclass(frozen=True, slots=True)
class Submission:
    """What became of a wish: a new run, or an equal one that had completed already (`reused`)."""

    record: RunRecord
    reused: bool = False


def submit(
    home: Home,
    spec: RunSpec,
    *,
    announce: Callable[[int], None] = lambda _: None,
    rerun_of: int | None = None,
    executor: Executor | None = None,
    trial: TrialClaim | None = None,
) -> Submission:
    """Give a run its number, record its code, and hand it to a supervisor; it then goes on by itself.

    Args:
        spec: What is asked.
        announce: Told the number as soon as there is one.
        rerun_of: The run this one repeats.
        executor: Where the supervisor is started; what the spec names, or this machine, if None.
        trial: The trial of a sweep that it is.

    Raises:
        TrialRefusedError: That trial must not be started now; no run is made.
        ConjureError: It cannot be; what could be checked was checked before a number was given.
        KeyboardInterrupt: After a number was announced: the record tells whether the run was called off, or
            goes on because it had been handed over.
    """
    requested = time.monotonic()
    executor = executor if executor is not None else _executor_of(home, spec, must_answer=trial is None)
    is_local = executor.name == LOCAL
    with open_store(home) as store:
        refuse_own_folder(home, spec)
        spec = with_cores(spec, is_local=is_local)
        _refuse_where(home, spec, is_local=is_local)
        mounts = resolve_mounts(home, store, spec.mounts)
        spec = _with_dependencies(home, store, spec, mounts)
        spec = spec if rerun_of is not None else _with_project(home, store, spec)
        if spec.after and not is_local and spec.on is None:
            raise UsageError(f"a run with {option('after')} can only be executed on this machine")
        equal = find_identical_run(home, store, spec, mounts) if spec.idempotent else None
        if equal is not None:
            return Submission(equal, reused=True)
        # A ^C either calls the run off, and then its record says so, or comes after it was handed over.
        with interrupts_held() as interrupts:
            number, lock = allocate_run(home, store, spec, rerun_of, trial)

            def record() -> None:
                with interrupts.let_through():
                    announce(number)
                    code = snapshot_code(home, store, number, spec)
                    store.set_facts(number, code=code, mounts=mounts)
                    if spec.on is not None:
                        send_inputs(home, number)  # for minutes, maybe: until it is in a queue, it is ours
                    elif not is_local:
                        store.set_facts(number, owner=Owner.of_executor(executor.name))

            with _handing_over(store, number, lock):
                request = request_of_this_process(home, spec, requested, executor.name)
                if not is_local or has_room(store, number, request):
                    with executor.prepare(number, lock, request) as start:
                        record()
                        start()
                else:
                    record()
                    enqueue(home, store, number, request)
            record_now = store.get(number)
            if spec.on is not None:
                start_dispatcher(home)
            elif record_now.waits_in_queue and not start_scheduler(home):
                wake_scheduler(home)
        return Submission(record_now)


@contextmanager
def _handing_over(store: Database, number: int, lock: RunLock) -> Iterator[None]:
    """A block that hands a run over: where it fails, the run is closed; its lock is let go."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, IllegalMoveError) and store.facts(number).status.is_final:
            remove_request(store.home, number)
            return  # somebody ended it meanwhile, and its record says so
        close_failed_submission(store, number, error)
        raise
    finally:
        lock.release()


def _executor_of(home: Home, spec: RunSpec, *, must_answer: bool) -> Executor:
    """Where a run is to be carried out.

    Args:
        spec: The run.
        must_answer: Refuse a cluster that is away: somebody may have mistyped its address. A sweep's next
            trial waits for it instead.

    Raises:
        UsageError: The user has defined no such executor, it cannot be used with this home, or is too small.
        ExecutorError: It does not answer.
    """
    if spec.on is None:
        return LocalExecutor(home)
    executor = ClusterExecutor.named(home, spec.on)
    if must_answer:
        executor.refuse_impossible(with_cores(spec, is_local=False))
    return executor


def refuse_unfit(home: Home, spec: RunSpec) -> None:
    """Refuse a spec that cannot be carried out where it says, before anything is made of it.

    Raises:
        UsageError: There is no such executor, or more is asked for than it has or can do.
        ExecutorError: It does not answer.
    """
    executor = _executor_of(home, spec, must_answer=True)
    _refuse_where(home, spec, is_local=executor.name == LOCAL)


def with_cores(spec: RunSpec, *, is_local: bool) -> RunSpec:
    """The spec with the cores that its processes share, where it says nothing: all of this machine's.

    Processes that wait for one another are as slow as the slowest, so they are given cores that no other run
    asks for; on another machine, whose size is not known here, one for each.
    """
    processes = spec.distributed
    if processes is None or spec.resources.cpus is not None:
        return spec
    cores = Capacity.of_this_machine().cpus if is_local else processes
    wanted = min(cores, processes * max(1, cores // processes))
    return replace(spec, resources=replace(spec.resources, cpus=float(wanted)))


def _refuse_where(home: Home, spec: RunSpec, *, is_local: bool) -> None:
    """Say at once what cannot be done where the run is to be carried out.

    Raises:
        UsageError: More is asked for than there is, or than an executor can do.
    """
    if spec.nodes is not None and spec.on is None:
        raise UsageError(
            f"{option('nodes', spec.nodes)} needs {option('on', 'NAME')}: the executor whose nodes are meant"
        )
    if not is_local:
        if spec.retry and spec.on is None:
            raise UsageError(f"a run with {option('retry')} can only be executed on this machine")
        if spec.on is not None and objects_team(home) is not None:
            _refuse_own_packages(spec)
            if spec.kind != COMMAND:
                _refuse_own_paths(spec)
        return
    refuse_impossible(spec.resources)
    if spec.sandbox:
        require_sandbox()
    if spec.environment.image is not None:
        require_engine()


def _refuse_own_packages(spec: RunSpec) -> None:
    """Refuse packages that are files of this machine where the environment is built on another one.

    Raises:
        UsageError: There are some.
    """
    for package in local_packages(spec.environment):
        raise UsageError(
            f"{option('on', spec.on or '')}: {package} is a package on this machine, and packages are not"
            " sent to the nodes",
            hint="give the name of a package that an index has, or an address",
        )


def _refuse_own_paths(spec: RunSpec) -> None:
    """Refuse language-model work elsewhere that names a model or data by its place on this machine.

    Raises:
        UsageError: It does; files of data are mounted, so this is a folder, or a model's file.
    """
    for word in spec.command:
        path = Path(word)
        if word.startswith("/") and path.exists():
            raise UsageError(
                f"{option('on', spec.on or '')}: {path} is on this machine, but not on the nodes",
                hint=f"upload it, and give uploads/{path.resolve().name} instead",
                fix=shell_words("conjure", "upload", word),
            )


def request_of_this_process(home: Home, spec: RunSpec, requested: float, executor: str) -> SupervisorRequest:
    """What a supervisor is to be given so that it runs the command as this process would.

    Args:
        spec: What is asked, secrets included.
        requested: When, by `time.monotonic`.
        executor: Name of the executor that starts the supervisor.
    """
    variables = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}
    variables = with_absolute_paths(variables, Path.cwd())
    variables[HOME_VARIABLE] = str(home.root)
    return SupervisorRequest(
        spec,
        requested,
        Capacity.of_this_machine(),
        variables,
        ProcessSettings.of_this_process(),
        Program.of_this_process(),
        executor,
        boot_id(),
    )


def _with_dependencies(home: Home, store: Database, spec: RunSpec, mounts: tuple[MountFacts, ...]) -> RunSpec:
    """The spec with all runs that have to complete first, those that it mounts among them.

    Raises:
        NotFoundError: There is no such run.
        UsageError: One of them ended otherwise, or is the run that this is called in.
    """
    for number in spec.after:
        status = store.facts(number).status
        if status.is_final and status is not RunStatus.COMPLETE:
            reason = dependency_failed(number, status).message
            raise UsageError(f"{reason}, so a run after it would never start", field="after")
    after = tuple(sorted({*spec.after, *active_sources(store, mounts)}))
    if _parent(home) in after:
        raise UsageError(f"a run started by run {_parent(home)} cannot wait for it to complete")
    return replace(spec, after=after)


def rerun(
    home: Home,
    number: int,
    *,
    announce: Callable[[int], None] = lambda _: None,
    variables: Mapping[str, str] | None = None,
) -> Submission:
    """Submit a run's exact record again: same code, environment, mounts, command.

    Args:
        number: The run.
        announce: Told the new run's number as soon as there is one.
        variables: Secret variables the run was given; those that are set here count too.

    Raises:
        NotFoundError: There is no such run, or something it needs is gone.
        UsageError: It held a secret that is not stored, not given and not set here either.
    """
    with open_store(home) as store:
        spec = spec_of_record(store.get(number), variables)
    return submit(home, spec, announce=announce, rerun_of=number)


def spec_of_record(record: RunRecord, variables: Mapping[str, str] | None = None) -> RunSpec:
    """What to ask for so that a recorded run is done again, exactly.

    Args:
        record: The run.
        variables: Secret variables that it was given; this process's own count too.

    Raises:
        UsageError: Its code was never recorded, or it held secrets that are not set here.
    """
    if record.code is None:
        raise UsageError(f"run {record.number} cannot be repeated: its code was not recorded")
    return replace(
        _with_secrets(record, variables or {}),
        code=record.spec.code if record.spec.code.none else CodeChoice(run=record.number),
        environment=_same_environment(record),
        mounts=record.pinned_mounts,
        idempotent=False,
        after=(),
    )


def _same_environment(record: RunRecord) -> EnvironmentChoice:
    """The environment that was asked for, with the versions it had should it have to be built again."""
    choice, had = record.spec.environment, record.environment
    if had is not None and choice.image is not None:
        choice = replace(choice, image_digest=had.image_digest)
    if had is None or not choice.adds_python_packages:
        return choice
    versions = {canonical_name(name): version for name, version in had.packages.items()}
    names = _asked_by_name(choice) if had.resolved is None else set(map(canonical_name, had.resolved))
    constraints = tuple(f"{name}=={versions[name]}" for name in sorted(names & versions.keys()))
    return replace(choice, constraints=constraints)


def _asked_by_name(choice: EnvironmentChoice) -> set[str]:
    """The packages that were asked for by their names, in whatever version."""
    lines = [*choice.pip, *(choice.requirements or "").splitlines()]
    found = (_BARE_REQUIREMENT.fullmatch(line.partition(" #")[0].strip()) for line in lines)
    return {canonical_name(match["name"]) for match in found if match}


def _with_secrets(record: RunRecord, given: Mapping[str, str]) -> RunSpec:
    """The recorded spec with what was withheld put back: from what is given, or this process's variables.

    Raises:
        UsageError: Something of it is neither here nor there, or is no variable.
    """
    spec = record.spec
    withheld = [part for part in spec.withheld or () if part != "code.git_url"]  # its code is recorded
    names, others = split_withheld(withheld)
    _refuse_unknown(given, names, record.number)
    if others:
        places = " and ".join(map(part_in_words, others))
        raise UsageError(
            f"run {record.number} has a secret in {places}, and secrets are not stored",
            hint="run the command again with the secret in a variable:"
            f" {option('env')}, and $KEY in the command",
        )
    known = {name: given.get(name, os.environ.get(name)) for name in names}
    missing = [name for name, value in known.items() if value is None]
    if missing:
        raise UsageError(
            f"run {record.number} has secrets, which are not stored: {', '.join(missing)}",
            hint=f"give them, as in conjure rerun -e {missing[0]}=VALUE {record.number}",
        )
    put_back = {name: value for name, value in known.items() if value is not None}
    return replace(spec, variables={**spec.variables, **put_back}, withheld=None)


def _refuse_unknown(given: Mapping[str, str], withheld: Iterable[str], number: int) -> None:
    """Refuse variables that would make a rerun another run than the recorded one.

    Raises:
        UsageError: One of them was not withheld.
    """
    for name in given.keys() - {*withheld}:
        raise UsageError(
            f"{option('env')} {name}: a rerun uses the recorded variables; only secrets of run {number},"
            " which are not stored, can be given"
        )


def refuse_own_folder(home: Home, spec: RunSpec) -> None:
    """Keep runs from copying conjure's own home; a run's working folder in it is as good as any other.

    Raises:
        UsageError: The spec's folder is conjure's own.
    """
    takes_folder = not (spec.code.none or spec.code.run is not None or spec.code.git_url is not None)
    folder, root = real_path(spec.folder), home.root.resolve()
    if not takes_folder or not folder.is_relative_to(root):
        return
    kind, _, place, *_ = *folder.relative_to(root).parts, "", "", ""
    if (kind, place) != ("runs", WORK):
        raise UsageError(
            f"{folder} is conjure's home folder, and a run would copy all of it",
            hint="cd to the project's own folder",
        )


def allocate_run(
    home: Home, store: Database, spec: RunSpec, rerun_of: int | None, trial: TrialClaim | None = None
) -> tuple[int, RunLock]:
    """A number for a new run, and possession of its folder."""
    taken: dict[int, RunLock] = {}

    def take(number: int) -> None:
        taken[number] = RunLock.create(home.run_folder(number))

    try:
        record = store.create_run(
            spec, this_process(home), take, parent=_parent(home), rerun_of=rerun_of, trial=trial
        )
    except BaseException as error:
        for number, lock in taken.items():
            if isinstance(error, TrialRefusedError):
                shutil.rmtree(home.run_folder(number), ignore_errors=True)  # there is no such run
            lock.release()
        raise
    return record.number, taken[record.number]


def _parent(home: Home) -> int | None:
    """The run this is called in, if it is one of the same home."""
    number = os.environ.get(RUN_VARIABLE, "")
    same_home = os.environ.get(HOME_VARIABLE) == str(home.root)
    return int(number) if same_home and number.isdecimal() else None


def _with_project(home: Home, store: Database, spec: RunSpec) -> RunSpec:
    """The spec with what the run belongs to if nobody said so: its parent's project, else its folder's."""
    if spec.project is not None:
        return spec
    parent = _parent(home)
    if parent is not None:
        with suppress(NotFoundError):
            return replace(spec, project=store.get(parent).project)
    folder = real_path(spec.folder)
    project = configured_project(home, folder)
    if project is None:
        name = repository_name(folder)
        project = name if name is not None and project_fault(name) is None else None
    return replace(spec, project=project)


def snapshot_code(home: Home, store: Database, number: int, spec: RunSpec) -> CodeFacts:
    """Record the code a run is to start from, under the run's number.

    Raises:
        SnapshotError: It cannot be recorded.
        StoreError: The disk is full.
        UsageError: There is no such commit, or no such code.
    """
    try:
        return _take_code(home, store, number, spec)
    except OSError as error:
        if error.errno in NO_ROOM_ERRORS:
            raise full_disk(home) from error
        raise SnapshotError(f"the code cannot be recorded: {error_text(error, with_path=True)}") from error


def _take_code(home: Home, store: Database, number: int, spec: RunSpec) -> CodeFacts:
    choice = spec.code
    if choice.none:
        return CodeFacts(tree="")
    if choice.run is not None:
        taken = store.get(choice.run).code
        if taken is None or not taken.tree:
            raise UsageError(f"run {choice.run} has no recorded code")
        bring_code(home, choice.run, taken.tree)
        snapshot.keep_tree(home, number, taken.tree)
        return taken
    if choice.git_url is not None:
        recorded = snapshot.snapshot_remote(home, number, choice.git_url, choice.git_ref)
    else:
        recorded = snapshot.snapshot(
            home, spec.folder, number=number, committed=choice.committed, commit=choice.commit
        )
    return CodeFacts(**{name: getattr(recorded, name) for name in CodeFacts.__dataclass_fields__})


def find_identical_run(
    home: Home, store: Database, spec: RunSpec, mounted: tuple[MountFacts, ...]
) -> RunRecord | None:
    """A completed run that did just this; found before a number is given, so that none is wasted."""
    # What it imports would cost every other `conjure run` its time.
    from conjure.runs.environments import environment_build

    provisional = -os.getpid()
    try:
        taken = snapshot_code(home, store, provisional, spec)
        variables = with_absolute_paths({**os.environ, **spec.variables}, Path.cwd())
        if spec.environment.image is None:
            built = environment_build.build(home, spec.environment, variables=variables, folder=spec.folder)
            digest, imports = built.digest, built.imports
        else:
            image = images.prepare_image(spec.environment)
            digest, imports = image_layers.layer_digest(home, image, spec.environment, variables), ()
        identity = identity_of(home, spec, taken, digest, mounted, imports)
    finally:
        snapshot.release_tree(home, provisional)
    return None if identity is None else store.completed_equal(identity)


def close_failed_submission(store: Database, number: int, error: BaseException) -> None:
    """Close the record of a run that never reached a supervisor."""
    if isinstance(error, KeyboardInterrupt):
        ending = Ending(EndReason.KILL_REQUESTED, message="cancelled during submission")
    elif isinstance(error, StoreError):  # a server that is away, for one: no fault of the code
        ending = Ending(EndReason.SUBMISSION_FAILED, message=error.in_full())
    elif isinstance(error, ConjureError):
        ending = Ending(EndReason.CODE_FAILED, message=error.in_full())
    else:
        message = f"it could not be submitted: {type(error).__name__}: {error}"
        ending = Ending(EndReason.SUBMISSION_FAILED, message=message)
    try:
        store.end_run(number, ending)
    except IllegalMoveError:
        return  # somebody has ended it
    except ConjureError:
        store.presume_ended(number, ending)  # the next command that can write will close it
