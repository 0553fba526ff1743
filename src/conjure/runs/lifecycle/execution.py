"""The second half of a run's life, in its supervisor; `submission` is the first.

    code written out, environment built → mounts placed
    → command started, watched, ended → outputs saved → record closed

Main entry: `supervise`, with `RunContext`; the steps stand below it in order. Invariant: a run that was given
a number ends with exactly one ending, whatever happens in between; a step that cannot be done raises
`EndRun` with it.
"""

import math
import os
import posixpath
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from conjure import metric_logging
from conjure.core.dir_fd import FolderCursor
from conjure.core.files import sha256_bytes
from conjure.core.home import Home
from conjure.core.text import error_text, plural
from conjure.errors import BuildError, ConjureError, NotFoundError, StoreError
from conjure.runs.artifacts import mounts, outputs
from conjure.runs.artifacts.attempts import PassedCheckpoints, pass_checkpoints, remove_passed
from conjure.runs.artifacts.checkpoints import bring_checkpoint
from conjure.runs.artifacts.manifest import Manifest
from conjure.runs.artifacts.mount_sources import identity_of, locate
from conjure.runs.artifacts.run_folders import RunFolders
from conjure.runs.artifacts.team_transfer import bring_code
from conjure.runs.artifacts.team_upload import RunUploader
from conjure.runs.code import snapshot
from conjure.runs.database.base import REASON_OF_REQUEST, Database, SupersededError
from conjure.runs.distributed.connection import publish
from conjure.runs.distributed.node_coordinator import NodeLostError, WorkerNodes
from conjure.runs.distributed.ranked_command import start_ranked
from conjure.runs.environments import environment_build
from conjure.runs.environments.containers import (
    BindMount,
    Container,
    OutputPipes,
    StartedContainer,
    container_name,
    remove_container,
    start_container,
)
from conjure.runs.environments.environment_build import Environment
from conjure.runs.environments.image_build import LayerRequest, build_layer
from conjure.runs.environments.image_layers import layer_digest
from conjure.runs.environments.images import Image, prepare_image
from conjure.runs.environments.local_packages import with_absolute_paths
from conjure.runs.environments.pip_requirements import version_changes
from conjure.runs.executors.command import Exit, Job, NotStartedError, Ranks
from conjure.runs.executors.command_process import start_command
from conjure.runs.executors.contained_command import ENGINE_FAILED, start_contained
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.executors.sandbox_paths import sandbox_of, variables_inside
from conjure.runs.executors.sandboxed_command import start_sandboxed
from conjure.runs.host.disk_reserve import DiskReserve
from conjure.runs.host.orphan_detection import ProcessMarks
from conjure.runs.host.process import KILL_SIGNAL, Process, kill_descendants
from conjure.runs.lifecycle.cancellation import poll_and_raise
from conjure.runs.lifecycle.command_environment import (
    WorkingDirectory,
    command_variables,
    container_variables,
    metric_logging_folder,
)
from conjure.runs.lifecycle.command_monitor import CommandMonitor, CommandResult
from conjure.runs.lifecycle.heartbeat import Heartbeat, when_reachable
from conjure.runs.lifecycle.recovery import collect_outputs, kept_words
from conjure.runs.scheduling.retries import ending_words, may_retry, queue_next_attempt
from conjure.runs.schema.argv import to_arguments, to_image_arguments
from conjure.runs.schema.process_facts import Usage
from conjure.runs.schema.record import EnvironmentFacts, OutputFacts, RunRecord
from conjure.runs.schema.run_folder import BASELINE, RunFolder
from conjure.runs.schema.spec import COMMAND, RunSpec
from conjure.runs.schema.status import PHASES, Ending, EndReason, RunStatus
from conjure.runs.schema.stop_conditions import StopWatch, parse_stop_condition
from conjure.runs.telemetry.logs import LogWriter
from conjure.runs.telemetry.metric_column_file import ColumnWriter
from conjure.runs.telemetry.metrics import MetricTail, Summary
from conjure.runs.telemetry.rungs import RungLadder

_FEW_PACKAGES = 5
_INSIST_S = 30.0
_TRY_AGAIN_AFTER_S = 1.0
_TOO_MUCH_IMPORTED = (
    "identical runs cannot be recognized: there is too much to compare in editable packages and PYTHONPATH"
)
_Result = TypeVar("_Result")


class EndRun(Exception):  # noqa: N818 - not an error: the run simply ends here
    """The run is over before its time: closed with this ending, without saving."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.message)
        self.ending = ending


@dataclass(slots=True)
class RunContext:
    """A run in its supervisor's hands.

    Attributes:
        store: The supervisor's own.
        number: The run.
        spec: What was asked, secrets included.
        requested: When, by `time.monotonic`.
        exclude: Descendants that are not this run's to end.
        heartbeat: What others judge by whether this supervisor lives.
        uploader: What sends to a team's object store.
        worker_nodes: The other nodes that carry it out; None if there are none.
        folders: The run's folder and those in it, held open.
    """

    home: Home
    store: Database
    number: int
    spec: RunSpec
    requested: float
    exclude: Callable[[Process], bool]
    heartbeat: Heartbeat
    uploader: RunUploader
    worker_nodes: WorkerNodes | None = None
    folders: RunFolders = field(init=False)
    log: LogWriter = field(init=False)
    reserve: DiskReserve = field(init=False)
    marks: ProcessMarks = field(init=False)
    told_to_end: bool = False
    told_to_die: bool = False

    def __post_init__(self) -> None:
        """Open the run's folder and the log."""
        self.folders = RunFolders(self.folder)
        self.marks = ProcessMarks(self.folders.run)
        self.reserve = DiskReserve(self.folders.run)
        self.log = LogWriter(RunFolder(self.folder).log)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.home.run_folder(self.number)

    @property
    def work(self) -> Path:
        """Its working folder: the code's root."""
        return RunFolder(self.folder).work

    def requested_end(self) -> EndReason | None:
        """Why somebody wants the run to end, or None."""
        return self.find_wish(self.store)

    def when_reachable(self, act: Callable[[], _Result], *, only: EndReason | None = None) -> _Result:
        """Do something with the store, which may be a server that is away for a while.

        Args:
            act: What to do.
            only: The one wish that ends the run meanwhile; any does if None.

        Raises:
            EndRun: Somebody wants the run to end meanwhile.
            StoreError: It cannot be done, or not for as long as the run is sure to be ours.
        """
        return when_reachable(act, self.heartbeat.give_up_after_s, lambda: _end_if_wanted(self, only))

    def find_wish(self, store: Database | None) -> EndReason | None:
        """Why somebody wants the run to end, or None.

        Args:
            store: Where wishes stand, of the thread this is called in; None where it cannot be read, so that
                only what came by a signal counts.
        """
        self.heartbeat.beat(store)
        # Told to die; or it is another supervisor's now; or its home was removed under it.
        if self.told_to_die or self.heartbeat.superseded or not self.folder.is_dir():
            return EndReason.KILL_REQUESTED
        wanted = None if store is None else self._end_request(store)
        if wanted is not None:
            return REASON_OF_REQUEST[wanted]
        told_to_end = self.told_to_end or (self.worker_nodes is not None and self.worker_nodes.told_to_end)
        return EndReason.STOP_REQUESTED if told_to_end else None

    def _end_request(self, store: Database) -> str | None:
        try:
            return store.end_request(self.number)
        except StoreError:  # it is away, or cannot be read at this moment: the run goes on, and asks again
            _reconnect(store)
            return None

    def index(self, summaries: Iterable[Summary]) -> None:
        """Keep the database's view of the metrics up to date."""
        with suppress(StoreError):  # a full disk: the points themselves are in the run's folder
            self.store.set_summaries(self.number, summaries)

    def note_usage(self, usage: Usage) -> None:
        """Write down what the run has used so far."""
        with suppress(StoreError, NotFoundError):  # the latter while a damaged database is being rebuilt
            self.store.set_facts(self.number, usage=usage)

    def note_rung(self, rung: int, value: float) -> None:
        """Write down how the run stands beside other trials of its sweep."""
        with suppress(StoreError):
            self.store.set_rung(self.number, rung, value if math.isfinite(value) else None)


def supervise(run: RunContext) -> None:
    """Take a run that was let in from building to its closed record."""
    handle_sigterm(run)
    run.uploader.start()
    result, goes_on = None, False
    try:
        invite_worker_nodes(run)
        place, environment = build(run)
        baseline = mount(run)
        lost = wait_for_worker_nodes(run)
        if lost is not None:
            ending = lost
        else:
            result = execute(run, place, environment)
            ending = how_it_ended(result)
        goes_on = _leave_to_queue(run, ending)
        if result is not None and not goes_on and ending.reason is not EndReason.KILL_REQUESTED:
            save(run, baseline, result)
    except EndRun as over:
        ending = over.ending
    close(run, None if goes_on else ending, result)


def invite_worker_nodes(run: RunContext) -> None:
    """Let the run's other nodes know where this one is; they get ready while this one does."""
    if run.worker_nodes is not None:
        invitation = run.worker_nodes.invitation
        run.when_reachable(lambda: publish(run.store, run.number, invitation))


def wait_for_worker_nodes(run: RunContext) -> Ending | None:
    """Wait until the other nodes are ready; how the attempt ends where one is lost, or does not come.

    Raises:
        EndRun: The command cannot be executed on one of them.
    """
    if run.worker_nodes is None:
        return None
    try:
        with _ending_with(EndReason.MOUNT_FAILED), _interruptible(run):
            run.worker_nodes.wait()
    except NodeLostError as error:
        return Ending(EndReason.SUPERVISOR_DIED, message=str(error))
    run.log.note(f"nodes: {', '.join([os.uname().nodename, *run.worker_nodes.hosts])}")
    return None


def _leave_to_queue(run: RunContext, ending: Ending) -> bool:
    """Leave the run to its queue for another attempt, if it gets one."""
    found: list[bool] = []
    if run.spec.retry:
        if may_retry(_after_start(run, lambda: run.store.get(run.number)), ending):
            with _interruptible(run, only=EndReason.KILL_REQUESTED):
                run.uploader.send_last_checkpoint()
        _write_result(run, lambda: found.append(_queue_again(run, ending)))
    if found[-1:] != [True]:
        return False
    run.log.note(f"{ending_words(ending)}; another attempt follows")
    return True


def _queue_again(run: RunContext, ending: Ending) -> bool:
    waits = run.store.get(run.number).waits_in_queue  # the server may have gone away after it was done
    return waits or queue_next_attempt(run.store, run.number, ending)


def handle_sigterm(run: RunContext) -> None:
    """Take a SIGTERM to the supervisor, as at a shutdown, for a wish to stop; `KILL_SIGNAL` for a kill."""
    signal.signal(signal.SIGTERM, lambda *_: setattr(run, "told_to_end", True))
    signal.signal(KILL_SIGNAL, lambda *_: setattr(run, "told_to_die", True))


def build(run: RunContext) -> tuple[WorkingDirectory, Environment | Image]:
    """Write out the code and have the environment ready."""
    run.reserve.allocate()
    record = run.when_reachable(lambda: run.store.get(run.number))
    assert record.code is not None
    place = WorkingDirectory(run.work, run.work / record.code.subfolder)
    with _ending_with(EndReason.CODE_FAILED), _interruptible(run):
        write_code(run.home, record, run.folders)
        run.folders.check()
    for warning in record.code.warnings:
        run.log.note(warning)
    with _ending_with(EndReason.BUILD_FAILED), _interruptible(run):
        built, facts = _environment(run, place)
    if record.rerun_of is not None:
        _note_other_packages(run, record.rerun_of, facts)
    imports = built.imports if isinstance(built, Environment) else ()
    with _interruptible(run):  # what it may import is looked at, which may be far away
        identity = identity_of(run.home, run.spec, record.code, facts.digest, record.mounts, imports)
    if identity is None and run.spec.idempotent:
        run.log.note(_TOO_MUCH_IMPORTED)
    run.when_reachable(lambda: run.store.set_facts(run.number, environment=facts, identity=identity))
    return place, built


def write_code(home: Home, record: RunRecord, folders: RunFolders) -> None:
    """Write a run's code into its working folder, which is made.

    Raises:
        ConjureError: It cannot be had.
        OSError: It cannot be written.
    """
    assert record.code is not None
    work = folders.make_work()
    if record.code.tree:
        if record.spec.on is not None:
            bring_code(home, record.number, record.code.tree)
            snapshot.keep_tree(home, record.number, record.code.tree)
        snapshot.checkout(home, record.code.tree, work)
    with FolderCursor(work) as descent:
        descent.go_to(record.code.subfolder.split("/") if record.code.subfolder else (), make=True)


def _environment(run: RunContext, place: WorkingDirectory) -> tuple[Environment | Image, EnvironmentFacts]:
    choice = run.spec.environment
    report, variables = run.log.note, {**os.environ, **run.spec.variables}
    if choice.image is None:
        built = environment_build.build(run.home, choice, report, variables=variables, folder=place.folder)
        facts = EnvironmentFacts(built.digest, str(built.python), built.packages, resolved=built.resolved)
        return built, facts
    image = prepare_image(choice, report)
    if not choice.adds_packages:
        return image, EnvironmentFacts(image.digest, "")
    variables = with_absolute_paths(variables, place.folder)
    digest = layer_digest(run.home, image, choice, variables)
    layer = build_layer(LayerRequest(run.home, run.number, image, choice, variables, report, digest))
    facts = EnvironmentFacts(
        layer.digest, "", layer.packages, image.digest, layer.image.digest, layer.resolved
    )
    return layer.image, facts


def _note_other_packages(run: RunContext, repeated: int, facts: EnvironmentFacts) -> None:
    """Say in the log of a rerun which packages the run that it repeats had in other versions."""
    try:
        before = run.when_reachable(lambda: run.store.get(repeated)).environment
    except NotFoundError:
        return
    changes = [] if before is None else version_changes(before.packages, facts.packages)
    if changes:
        more = f" …; see `conjure diff {repeated} {run.number}`" if len(changes) > _FEW_PACKAGES else ""
        shown = ", ".join(changes[:_FEW_PACKAGES])
        run.log.note(f"packages that differ from those of run {repeated}: {shown}{more}")


def mount(run: RunContext) -> outputs.Baseline:
    """Put the mounts in place, and note what is there before the command starts."""
    run.when_reachable(lambda: _enter(run, RunStatus.MOUNTING))
    record = run.when_reachable(lambda: run.store.get(run.number))
    with _ending_with(EndReason.MOUNT_FAILED), _interruptible(run):
        place_mounts(run.home, record, run.folders, run.log.note)
        baseline = outputs.scan(run.folders.open_work())
        if record.attempts:
            _go_on_from_checkpoints(run, len(record.attempts))
        baseline.save(run.folders.run.here / BASELINE)  # from now on, this attempt is what is recovered
        remove_passed(run.folder, len(record.attempts))
    return baseline


def place_mounts(home: Home, record: RunRecord, folders: RunFolders, note: Callable[[str], object]) -> None:
    """Put a run's mounts into its working folder.

    Raises:
        ConjureError: One of them cannot be had.
        OSError: It cannot be written.
    """
    for each in record.mounts:
        source, target = locate(home, each.source), _from_root(record, each.target)
        placed = mounts.place_mount(home, source, folders.open_work(), target, each.read_only)
        for skipped in placed.skipped:
            note(f"mount {each.resource}: {skipped}")


def _go_on_from_checkpoints(run: RunContext, earlier: int) -> None:
    """Give this attempt what those before it saved for it."""
    record = run.when_reachable(lambda: run.store.get(run.number))
    handed = take_checkpoints(run.home, record, run.heartbeat.attempt, run.folders)
    run.when_reachable(lambda: run.store.refresh_summaries(run.number))
    given = f" with {plural(handed.files, 'file')} of the one before" if handed.files else ""
    run.log.note(f"attempt {earlier + 1}{given}")


def take_checkpoints(home: Home, record: RunRecord, attempt: int, folders: RunFolders) -> PassedCheckpoints:
    """Give an attempt what those before it saved for it.

    Args:
        record: The run.
        attempt: Which of its supervisors asks.
        folders: The run's folders, on a worker node those that stand for them.

    Raises:
        ConjureError: It cannot be had.
        OSError: It cannot be written.
    """
    spec, folder = record.spec, folders.run.path
    # Several nodes must go on from the same state: the one that all of them can have.
    bring_checkpoint(home, record.number, attempt, folder=folder, only_sent=spec.node_count > 1)
    # Commands of conjure's own name first what they go on from; without it, they start anew.
    needs_first = spec.kind != COMMAND
    earlier = len(record.attempts)
    return pass_checkpoints(folder, earlier, spec.checkpoint, folders.open_work(), needs_first=needs_first)


def execute(run: RunContext, place: WorkingDirectory, environment: Environment | Image) -> CommandResult:
    """Start the command and watch it to its end."""
    job = _job(run, place, environment)
    _end_if_wanted(run)
    _after_start(run, lambda: _enter(run, RunStatus.RUNNING))
    if run.spec.retry and run.spec.on is not None:
        earlier = len(_after_start(run, lambda: run.store.get(run.number)).attempts)
        run.uploader.watch_checkpoints(earlier + 1, run.spec.checkpoint)
    run.marks.begin(f"{sha256_bytes(os.fsencode(run.home.root))[:12]}-{run.number}")
    try:
        if isinstance(job, NotStartedError):
            raise job
        return _watch(run, job)
    except NotStartedError as error:
        run.log.note(str(error))
        return CommandResult(Exit(code=error.exit_code), None, str(error), 0.0, Usage())
    finally:
        run.uploader.end_checkpoints()
        remove_container(run.home, run.number)
        _regain_access(run)


def _regain_access(run: RunContext) -> None:
    """Let us look into the run's folder, should its command have closed it."""
    with suppress(OSError):
        run.folders.run.give_owner_access()


def _enter(run: RunContext, phase: RunStatus) -> None:
    """Enter a phase, unless that was done when the database's server went away.

    A database that was rebuilt meanwhile knows only how the run began, so the phases between are entered too.
    """
    furthest = run.store.facts(run.number).phase
    for following in PHASES[PHASES.index(furthest) + 1 : PHASES.index(phase) + 1]:
        run.store.move(run.number, following)


def _job(run: RunContext, place: WorkingDirectory, environment: Environment | Image) -> Job | NotStartedError:
    """The command, ready to start; or why it cannot be."""
    record = run.when_reachable(lambda: run.store.get(run.number))
    command = run.spec.filled_command
    try:
        if isinstance(environment, Image):
            with _interruptible(run):
                return _contained(run, to_image_arguments(command), place, environment, record)
        variables = command_variables(run.home, record, place, environment, run.spec.variables)
        job = Job(to_arguments(command), place.folder, variables, ranks=_ranks(run))
        return _sandboxed(run, job, environment, record) if run.spec.sandbox else job
    except (BuildError, NotFoundError, OSError) as error:
        return NotStartedError(error_text(error, with_path=True), ENGINE_FAILED)


def _ranks(run: RunContext) -> Ranks | None:
    """The processes that carry out a run's command together, if it asks for them."""
    if run.spec.distributed is None:
        return None
    return ranks_of(run.spec, 0, None if run.worker_nodes is None else run.worker_nodes.own_address)


def ranks_of(spec: RunSpec, node: int, address: str | None) -> Ranks:
    """The processes of a distributed command on one of its nodes.

    Args:
        spec: The run.
        node: Which node, from 0.
        address: Of the first one; None where there is only that.
    """
    assert spec.distributed is not None
    ranks = Ranks(spec.distributed, labelled=spec.kind == COMMAND)
    return ranks if address is None else replace(ranks, node=node, nodes=spec.node_count, address=address)


def _sandboxed(run: RunContext, job: Job, environment: Environment, record: RunRecord) -> Job:
    """The same command, in a sandbox."""
    callers = {**os.environ, **run.spec.variables}
    interpreter = environment_build.find_interpreter(run.home, run.spec.environment, callers, job.folder)
    metrics = RunFolder(run.folder).metrics
    metrics.touch(0o600)  # it is shown in the sandbox by itself, so it must be there
    sandbox = sandbox_of(
        run.home,
        environment,
        interpreter,
        job.variables,
        writable=[run.work, metrics],
        mounted=[locate(run.home, each.source) for each in record.mounts if each.read_only],
        network=run.spec.network,
    )
    return replace(job, variables=variables_inside(job.variables, interpreter), sandbox=sandbox)


def _contained(
    run: RunContext, arguments: tuple[str, ...], place: WorkingDirectory, image: Image, record: RunRecord
) -> Job:
    """The command in a container, which is started for it."""
    metrics = RunFolder(run.folder).metrics
    metrics.touch(0o600)  # it is bound by itself, so it must be there
    sources = [locate(run.home, each.source) for each in record.mounts if each.read_only]
    package = Path(metric_logging.__file__).parent  # what `from conjure import log_metric` imports
    marker = RunFolder(run.folder).container
    pipes = OutputPipes.beside(marker)
    pipes.make()
    container = Container(
        container_name(run.home, run.number),
        image.digest,
        (
            BindMount(run.work, run.work),
            BindMount(metrics, metrics),
            *pipes.bound,
            *(BindMount(source, source, read_only=True) for source in dict.fromkeys(sources)),
            BindMount(package, metric_logging_folder(run.home) / package.name, read_only=True),
        ),
        container_variables(run.home, record, place, image, run.spec.variables),
    )
    start_container(container, marker)
    started = StartedContainer(container.name, pipes)
    return Job(arguments, place.folder, container.variables, container=started)


def _watch(run: RunContext, job: Job) -> CommandResult:
    metric = _after_start(run, lambda: run.store.rung_metric(run.number))
    start = start_command if job.sandbox is None else start_sandboxed
    if job.container is not None:
        start = start_contained
    elif job.ranks is not None:
        start = partial(start_ranked, worker_nodes=run.worker_nodes)
    execution = start(job, run.exclude, run.marks)
    conditions = StopWatch(map(parse_stop_condition, run.spec.stop_conditions))
    metrics = MetricTail(RunFolder(run.folder).metrics)
    ladder = None if metric is None else RungLadder(metric)
    return CommandMonitor(
        *(execution, run.log, metrics, run, conditions, run.spec.timeout_s),
        ladder=ladder,
        look_every_s=run.heartbeat.look_every_s,
        columns=ColumnWriter(run.folder),
    ).until_end()


def how_it_ended(result: CommandResult) -> Ending:
    """The ending that follows from how the command ended."""
    exit_code, signal_number = result.exit.code, result.exit.signal
    reason = result.reason
    if reason is None and result.exit.is_lost:
        return Ending(EndReason.SUPERVISOR_DIED, message=result.message)
    if reason is None:
        reason = EndReason.SIGNALLED if signal_number else EndReason.NONZERO_EXIT
        if exit_code == 0:
            reason = EndReason.COMPLETED
    return Ending(reason, exit_code, signal_number, result.message)


def save(run: RunContext, baseline: outputs.Baseline, result: CommandResult) -> None:
    """Move what the command made to the run's outputs; then the working folder goes, if nothing is left."""
    run.reserve.release()
    _write_result(run, lambda: _enter(run, RunStatus.SAVING))
    failed = Ending(EndReason.SAVE_FAILED, result.exit.code, result.exit.signal)
    with _ending_with(failed.reason, failed), _interruptible(run, only=EndReason.KILL_REQUESTED):
        saved, unsaved = collect_outputs(run.folders, baseline, run.spec)
        digest = _share_outputs(run, saved)
    for skipped in saved.skipped:
        run.log.note(f"not saved: {skipped}")
    facts = OutputFacts(len(saved.entries), saved.size_bytes, manifest=digest)
    _write_result(run, lambda: run.store.set_facts(run.number, outputs=facts))
    if unsaved:
        run.log.note(kept_words(run.home, run.number))
        return
    with suppress(OSError):  # a container's files may be another user's; what was to be saved is saved
        run.folders.remove_work()


def _share_outputs(run: RunContext, saved: Manifest) -> str | None:
    """Send what was saved to the team's object store, waiting for one that is away.

    Raises:
        StoreError: It was away for too long; the working folder is kept for `conjure recover`.
    """
    patience_s = run.heartbeat.give_up_after_s
    until: float | None = None
    while True:
        began, sent_before = time.monotonic(), run.uploader.sent_outputs
        try:
            return run.uploader.store_outputs(RunFolder(run.folder).outputs, saved)
        except StoreError:
            now = time.monotonic()
            # Sending may take hours. A store that is away has a try fail sooner than our patience ends, so a
            # longer one got through with a part of a large file at least.
            if until is None or run.uploader.sent_outputs > sent_before or now - began > patience_s:
                until = now + patience_s
            if now > until:
                raise
            time.sleep(_TRY_AGAIN_AFTER_S)


def close(run: RunContext, ending: Ending | None, result: CommandResult | None) -> None:
    """Leave nothing running, and close the record.

    Args:
        run: The run.
        ending: How it ended; None where only an attempt did, and the run waits for the next one.
        result: What became of its command, if it started.

    Raises:
        SupersededError: Another supervisor has the run; nothing more is written of it, and its files stay.
    """
    if run.worker_nodes is not None:
        run.worker_nodes.close()
    kill_descendants(exclude=run.exclude)
    remove_container(run.home, run.number)
    _regain_access(run)
    if run.heartbeat.superseded:
        raise SupersededError(f"run {run.number} was taken over: another supervisor has it now")
    run.marks.end()
    run.reserve.release()
    run.log.close()
    RunLock.make_usable(run.folder)  # for who starts the next attempt, recovers or removes files
    if not run.home.database.exists():
        return  # the home was removed under the run: there is nothing to record its end in
    was_killed = ending is not None and ending.reason is EndReason.KILL_REQUESTED
    patience_s = 0.0 if was_killed else run.heartbeat.give_up_after_s
    run.uploader.finish(patience_s, lambda: run.heartbeat.beat(run.store))
    if ending is None:
        return
    if result is None and not _may_hold_checkpoints(run):
        with suppress(OSError):
            run.folders.remove_work()  # the command never started, so there is nothing of its own in there
    command_s = None if result is None else round(result.command_s, 3)
    total_s = round(time.monotonic() - run.requested, 3)
    if result is not None:
        _write_result(run, lambda: run.store.set_facts(run.number, usage=result.usage))

    def end() -> None:
        if run.store.facts(run.number).ending is None:  # as in `_enter`
            run.store.end_run(run.number, ending, command_s=command_s, total_s=total_s)

    _write_result(run, end)
    run.uploader.export_record()


def _may_hold_checkpoints(run: RunContext) -> bool:
    """Whether the working folder may have what earlier attempts made, and the only copy of it."""
    try:
        return bool(run.store.get(run.number).attempts)
    except StoreError:
        return True


def _from_root(record: RunRecord, target: str) -> str:
    """A mount's target, which is relative to where the command starts, relative to the code's root."""
    subfolder = record.code.subfolder if record.code is not None else ""
    return posixpath.normpath(posixpath.join(subfolder, target))


@contextmanager
def _ending_with(reason: EndReason, ending: Ending | None = None) -> Iterator[None]:
    """Whatever goes wrong inside ends the run for this reason."""
    try:
        yield
    except (ConjureError, OSError) as error:
        words = error.in_full() if isinstance(error, ConjureError) else error_text(error, with_path=True)
        raise EndRun(replace(ending or Ending(reason), message=words)) from error


@contextmanager
def _interruptible(run: RunContext, *, only: EndReason | None = None) -> Iterator[None]:
    """Let a stop or kill cut the work inside short, by looking for one several times a second."""

    def look(store: Database | None) -> EndRun | None:
        wanted = run.find_wish(store)
        return EndRun(Ending(wanted)) if wanted is not None and only in (None, wanted) else None

    at_once = look(run.store)
    if at_once is not None:
        raise at_once
    with poll_and_raise(look, run.home):
        yield


def _end_if_wanted(run: RunContext, only: EndReason | None = None) -> None:
    wanted = run.requested_end()
    if wanted is not None and only in (None, wanted):
        raise EndRun(Ending(wanted))


def _reconnect(store: Database) -> None:
    """Open a home's own database anew: a damaged file may have been rebuilt in another one."""
    if not store.is_shared:  # a server is connected to again in any case
        with suppress(StoreError):
            store.reconnect()


def _after_start(run: RunContext, act: Callable[[], _Result]) -> _Result:
    """As `RunContext.when_reachable`, for a run that is running: it is killed, or else what it made is saved.

    So a wish to stop ends no wait; whoever watches the command looks for one next.

    Raises:
        EndRun: Somebody wants the run to be killed meanwhile.
        StoreError: It cannot be done.
    """
    return run.when_reachable(act, only=EndReason.KILL_REQUESTED)


def _write_result(run: RunContext, act: Callable[[], object]) -> None:
    """Do it, waiting for room on a full disk, a server that is away, or a database that is being rebuilt.

    What comes now is the result.
    """
    until = time.monotonic() + (run.heartbeat.give_up_after_s if run.store.is_shared else _INSIST_S)
    while True:
        try:
            act()
        except (StoreError, NotFoundError) as error:
            was_removed = isinstance(error, NotFoundError) and not run.folder.is_dir()
            if was_removed or time.monotonic() > until:
                raise
            time.sleep(_TRY_AGAIN_AFTER_S)
            _reconnect(run.store)
            run.heartbeat.beat(run.store)
        else:
            return
