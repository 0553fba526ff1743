"""Runs from Python, with the options and defaults of the command line.

Main entry: `Client`. Invariant: a `Run` holds a number and nothing else; what it tells is what the record
says at that moment.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import index
from pathlib import Path
from typing import SupportsIndex, TypedDict, Unpack, cast, overload

from conjure.core.config import NOT_WITH_IMAGE, SETTINGS, load_config
from conjure.core.files import expand_user
from conjure.core.home import Home
from conjure.core.quoting import shell_words
from conjure.core.units import parse_duration, parse_size
from conjure.errors import RunFailedError, UsageError, option
from conjure.metric_logging import inside_a_run
from conjure.recipes.finetune_specs import finetune_spec
from conjure.recipes.generation_specs import check_generate, generate_spec, score_spec
from conjure.recipes.lazy_model_checks import changed_model_notes, load_request_checks
from conjure.recipes.options import FinetuneOptions, GenerateOptions, ScoreOptions, refuse_unknown
from conjure.recipes.run_specs import placed
from conjure.runs.artifacts.copy_out import plan_retrieval, retrieve
from conjure.runs.artifacts.team_transfer import bring_streams
from conjure.runs.database.base import KILL, STOP, RunFilter
from conjure.runs.environments.local_packages import keep_packages
from conjure.runs.environments.pip_requirements import read_requirements
from conjure.runs.executors.base import Executor
from conjure.runs.lifecycle.log_following import Printed, follow, wait_for_end
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.lifecycle.stop_requests import end_runs
from conjure.runs.lifecycle.submission import rerun, submit
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.spec import (
    INTERRUPTED,
    CodeChoice,
    ComputeRequest,
    EnvironmentChoice,
    Mount,
    RunSpec,
    current_folder,
)
from conjure.runs.schema.status import EndReason, RunStatus
from conjure.runs.telemetry.logs import NOTE, LogEntry, LogTail, lines
from conjure.runs.telemetry.metrics import Point, Summary, read_all_points
from conjure.sweeps.control import start_sweep
from conjure.sweeps.request import SEED_PARAMETER
from conjure.sweeps.space import Domain, checked_trials
from conjure.sweeps.sweep import Space, Sweep, SweepOptions, domains_of, request_of


@dataclass(frozen=True, slots=True)
class Run:
    """One run, by its number.

    Attributes:
        number: The run's number.
        executor: Where its supervisor was started from here, if not on this machine.
    """

    home: Home
    number: int
    executor: Executor | None = field(default=None, compare=False, repr=False)

    @property
    def record(self) -> RunRecord:
        """Everything that is known of the run now."""
        with open_store(self.home) as store:
            return store.get(self.number)

    @property
    def status(self) -> RunStatus:
        """The run's status now; compares equal to its name, as in ``run.status == "complete"``."""
        return self.record.status

    @property
    def end_reason(self) -> EndReason | None:
        """Why it ended, or None while it goes on."""
        ending = self.record.ending
        return None if ending is None else ending.reason

    @property
    def exit_code(self) -> int | None:
        """The command's own exit status; None while it goes on, or if a signal ended it."""
        ending = self.record.ending
        return None if ending is None else ending.exit_code

    def wait(self, *, check: bool = False) -> "Run":
        """Wait until the run has ended.

        Args:
            check: Raise unless it completed.

        Raises:
            RunFailedError: With `check`, it ended in another way than `complete`.
        """
        record = wait_for_end(self.home, self.number, self.executor)
        if check and record.status is not RunStatus.COMPLETE:
            ending = record.ending
            detail = "" if ending is None or ending.message is None else f": {ending.message}"
            raise RunFailedError(
                f"run {self.number} ended as {record.status}{detail}", fix=f"conjure logs {self.number}"
            )
        return self

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        """Lines the command printed, stdout and stderr as they came; with `follow` until it has ended."""
        if not follow:
            bring_streams(self.home, self.number)
        entries = _printed(self) if follow else LogTail(RunFolder(self._folder).log).read()
        return (line.text for line in lines(entries) if line.stream != NOTE)

    @overload
    def metrics(self) -> dict[str, Summary]: ...

    @overload
    def metrics(self, name: str) -> list[Point]: ...

    def metrics(self, name: str | None = None) -> dict[str, Summary] | list[Point]:
        """All points of one metric, NaN and infinite ones too; without a name, a summary of every metric.

        The summaries are by name, and of finite values.
        """
        if name is not None:
            bring_streams(self.home, self.number)
            return list(read_all_points(self._folder, [name]))
        with open_store(self.home) as store:
            return store.summaries(self.number)

    def cp(self, path: str = "", folder: str | Path = ".", *, overwrite: bool = False) -> Path:
        """Copy what the run made, as ``conjure cp`` does: a file into `folder`, a folder's content into it.

        A warning says so for each entry of a folder that is left out, such as a link that points outside.

        Args:
            path: A file or folder among the run's outputs (its working folder while it runs); all if empty.
            folder: Where to; made if missing.
            overwrite: Let files that are there already be overwritten.

        Returns:
            The copy: the file, or `folder`.

        Raises:
            NotFoundError: There is no such output.
            ConflictError: Files are in the way, and `overwrite` is not set.
            StoreError: The copy cannot be made.
        """
        resource = f"runs/{self.number}/{path}"
        with open_store(self.home) as store:
            plan = plan_retrieval(self.home, resource, expand_user(folder), store.lookup_link)
        for skipped in retrieve(plan, overwrite=overwrite).skipped:
            warnings.warn(f"left out: {skipped}", stacklevel=2)
        return plan.destination

    def stop(self) -> "Run":
        """End the run and save its outputs; returns when it has ended, wherever it is."""
        return self._end(STOP)

    def kill(self) -> "Run":
        """End the run at once, saving nothing; returns when it has ended, wherever it is."""
        return self._end(KILL)

    def _end(self, what: str) -> "Run":
        ((record, _),) = end_runs(self.home, [self.number], what, executor=self.executor)
        if not record.status.is_final:  # on another machine, which is still to hear of it
            wait_for_end(self.home, self.number, self.executor)
        return self

    def rerun(self) -> "Run":
        """Submit the run's exact record again.

        A warning says so if a model that the run used is another one now.
        """
        for sentence in changed_model_notes(self.home, self.number):
            warnings.warn(sentence, stacklevel=2)
        return Run(self.home, rerun(self.home, self.number).record.number)

    @property
    def _folder(self) -> Path:
        return self.home.run_folder(self.number)


class RunOptions(TypedDict, total=False):
    """What `Client.run` takes beside the command: the words of ``conjure run``, plural where they repeat."""

    mounts: Mapping[str, str] | Mapping[Path, str] | Sequence[str | Path]
    """Resource → path in the working folder; or ``RESOURCE[:PATH][:ro]``, each. A `Path` is a local file."""
    pip: Sequence[str]
    """Python packages to add to the environment."""
    pip_req: Sequence[str | Path]
    """Requirements files to add."""
    python: str
    """Version of a clean environment, such as ``3.12``."""
    base: str
    """``current`` (the default) or ``none``."""
    image: str
    """Container image to run the command in, with podman or docker."""
    apt: Sequence[str]
    """Debian packages to add to the image."""
    env: Mapping[str, str]
    """Variables to set."""
    git_url: str
    """Another repository to run the code of."""
    git_ref: str
    """Branch, tag or commit of `git_url`."""
    commit: str
    """Run that commit of the folder's repository."""
    committed: bool
    """Leave uncommitted and untracked files out."""
    folder: str | Path
    """Where the code is, and where in it the command starts; the current folder if not given."""
    description: str
    """Description of the run."""
    labels: Sequence[str]
    """Names to find the run by."""
    project: str
    """Project that the run belongs to; the name of the repository's folder if not given."""
    params: Mapping[str, object]
    """Each replaces ``:NAME:`` in the command."""
    timeout: str
    """Stop the run after so long: ``90m``."""
    stop_conditions: Sequence[str]
    """Stop the run when a metric says so: ``loss > 9 && step > 100``."""
    cpus: float
    """Wait until N cores are free."""
    gpus: int
    """Wait until N GPUs are free."""
    memory: str
    """Wait until so much memory is free: ``8GB``."""
    output: Sequence[str]
    """Globs of new files to keep; all if not given."""
    no_output: Sequence[str]
    """Globs of new files not to keep."""
    idempotent: bool
    """Reuse a completed run with identical code, environment, mounts and command."""
    after: SupportsIndex | Sequence[SupportsIndex]
    """Wait until these runs have completed."""
    retry: int
    """Start the run again up to N times if it is interrupted."""
    retry_on: str
    """``interrupted`` (the default), or ``failed``: also retry if the command fails."""
    checkpoint: Sequence[str]
    """With `retry`, globs of new files to keep for the next attempt."""
    distributed: int
    """Start N processes of the command, with torchrun's variables (``RANK``, ``WORLD_SIZE``)."""
    nodes: int
    """Execute the run on so many nodes of the executor, with the processes of `distributed` on each."""
    on: str
    """Execute the run on this executor."""
    sandbox: bool
    """Hide home folders, other processes and the network from the command; the system is read-only."""
    network: bool
    """Let a sandboxed command reach the network."""


class RecordingOptions(TypedDict, total=False):
    """How language-model work is recorded as a run: options of ``conjure run``."""

    retry: int
    """Start it again up to N times if it is interrupted; a fine-tune resumes from its last save."""
    on: str
    """Execute it on this executor."""
    cpus: float
    """Wait until N cores are free."""
    gpus: int
    """Wait until N GPUs are free."""
    memory: str
    """Wait until so much memory is free: ``8GB``."""


class Client:
    """Submits runs and looks at them.

    Example:
        >>> client = conjure.Client()
        >>> run = client.run("python train.py --lr :lr:", pip=["tqdm"], params={"lr": 1e-3})
        >>> run.wait().status
        <RunStatus.COMPLETE: 'complete'>

    Args:
        home: Where conjure keeps things; what ``CONJURE_HOME`` names, or the platform's folder, if None.
        executor: Where the supervisors of runs are started; this machine if None.
    """

    def __init__(self, home: str | Path | None = None, *, executor: Executor | None = None) -> None:
        self.executor = executor
        self.home = Home.from_environment() if home is None else Home(Path(home).expanduser().absolute())

    def run(self, command: str | Path | Sequence[object], **options: Unpack[RunOptions]) -> Run:
        """Submit a run; it continues in the background.

        Args:
            command: A line for the shell, or a program and its arguments, turned into text.
            **options: See `RunOptions`.

        Raises:
            ConjureError: It cannot be submitted; the message says why.
        """
        return self._submit(_spec(self.home, _words(command), options))

    def finetune(
        self,
        data: str | Path | Sequence[str | Path],
        *,
        model: str | Path | None = None,
        description: str = "",
        labels: Sequence[str] = (),
        project: str | None = None,
        run: RecordingOptions | None = None,
        **options: Unpack[FinetuneOptions],
    ) -> Run:
        """Submit a fine-tune as a run, as ``conjure finetune`` does; it continues in the background.

        Its checkpoint is ``output`` among the run's outputs, its report ``report.html``.

        Args:
            data: Files, folders or resources (``runs/2/data.csv``).
            model: Model to start from: a name, a folder or a run (``runs/3``); the one that is set if None.
            description: Description of the run.
            labels: Names to find the run by.
            project: Project that the run belongs to; the name of the repository's folder if None.
            run: Where it is carried out, and how often it is tried; see `RecordingOptions`.
            **options: The options of ``conjure finetune``, with underscores; see `FinetuneOptions`.

        Raises:
            ConjureError: It cannot be submitted; the message says why.
        """
        names, base = _texts(data), str(model if model is not None else self._set_model())
        options = load_request_checks().check_finetune(self.home, names, base, options)
        spec = finetune_spec(self.home, names, base, options, description=description, labels=_texts(labels))
        return self._submit(_recorded(spec, project, run or {}))

    def generate(
        self,
        prompt: str = "",
        *,
        model: str | Path | None = None,
        prompt_file: str | Path | None = None,
        description: str = "",
        labels: Sequence[str] = (),
        project: str | None = None,
        run: RecordingOptions | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Run:
        """Submit a generation as a run, as ``conjure generate --save`` does; its output is ``samples.json``.

        Args:
            prompt: What the text continues, exactly.
            model: A name, a folder or a run (``runs/3``); the one that is set if None.
            prompt_file: A file with a prompt on each line, in place of `prompt`.
            description: Description of the run.
            labels: Names to find the run by.
            project: Project that the run belongs to; the name of the repository's folder if None.
            run: Where it is carried out, and how often it is tried; see `RecordingOptions`.
            **options: The options of ``conjure generate``, with underscores; see `GenerateOptions`.

        Raises:
            ConjureError: It cannot be submitted; the message says why.
        """
        if prompt and prompt_file is not None:
            raise UsageError(f"{option('prompt')} and {option('prompt_file')} cannot both be given")
        spec = generate_spec(
            self.home,
            prompt,
            str(model if model is not None else self._set_model()),
            check_generate([prompt] if prompt_file is None else None, options),
            prompt_file=prompt_file,
            description=description,
            labels=_texts(labels),
        )
        return self._submit(_recorded(spec, project, run or {}))

    def score(
        self,
        text: str | None = None,
        *,
        files: str | Path | Sequence[str | Path] = (),
        model: str | Path | Sequence[str | Path] | None = None,
        description: str = "",
        labels: Sequence[str] = (),
        project: str | None = None,
        run: RecordingOptions | None = None,
        **options: Unpack[ScoreOptions],
    ) -> Run:
        """Submit a scoring as a run, as ``conjure score --save`` does; its output is ``score.json``.

        Args:
            text: The text to score.
            files: Files, folders or resources to score in place of a text.
            model: A name, a folder or a run (``runs/3``), of which two are compared; the one that is set if
                None.
            description: Description of the run.
            labels: Names to find the run by.
            project: Project that the run belongs to; the name of the repository's folder if None.
            run: Where it is carried out, and how often it is tried; see `RecordingOptions`.
            **options: The options of ``conjure score``, with underscores; see `ScoreOptions`.

        Raises:
            ConjureError: It cannot be submitted; the message says why.
        """
        names, models = _texts(files), _texts(model if model is not None else self._set_model())
        if (text is None) == (not names):
            raise UsageError("score takes either a text or files", hint='client.score("a text")')
        options = load_request_checks().check_score(self.home, names, models, options)
        given = names if text is None else [text]
        spec = score_spec(
            self.home,
            given,
            models,
            options,
            files=text is None,
            description=description,
            labels=_texts(labels),
        )
        return self._submit(_recorded(spec, project, run or {}))

    def sweep(
        self,
        command: str | Path | Sequence[object],
        space: Space,
        *,
        run: RunOptions | None = None,
        **options: Unpack[SweepOptions],
    ) -> Sweep:
        """Start a sweep: a command with many values of its parameters; it continues in the background.

        Args:
            command: A line for the shell, or a program and its arguments, with ``:NAME:`` where values go.
            space: Values by parameter: a list, or `uniform` or `log_uniform`.
            run: What each trial is given, as for `run`.
            **options: See `SweepOptions`.

        Raises:
            ConjureError: It cannot be started; the message says why.
        """
        return self._sweep(_spec(self.home, _words(command), run or {}), domains_of(space), options)

    def sweep_finetune(
        self,
        data: str | Path | Sequence[str | Path],
        space: Space,
        *,
        model: str | Path | None = None,
        finetune: FinetuneOptions | None = None,
        **options: Unpack[SweepOptions],
    ) -> Sweep:
        """Start a sweep of fine-tunes: each trial is one, recorded as `finetune` does.

        The metric is ``held_out_loss``, to be minimized, if none is named.

        Args:
            data: Files, folders or resources.
            space: Values by option of `finetune`: a list, or `uniform` or `log_uniform`.
            model: Model to start from: a name, a folder or a run (``runs/3``); the one that is set if None.
            finetune: Options that all trials share.
            **options: See `SweepOptions`.

        Raises:
            ConjureError: It cannot be started; the message says why.
        """
        names, domains = _texts(data), domains_of(space)
        trials = checked_trials(domains, {SEED_PARAMETER: "1"} if options.get("seeds", 1) > 1 else {})
        base = str(model if model is not None else self._set_model())
        checks = load_request_checks()
        shared = checks.check_finetune_sweep(self.home, names, base, finetune or {}, trials)
        placeholders = {name: f":{name}:" for name in trials[0]}
        spec = finetune_spec(self.home, names, base, shared, placeholders=placeholders)
        chosen: SweepOptions = {"metric": "held_out_loss", "direction": "minimize", **options}
        return self._sweep(spec, domains, chosen)

    def _sweep(self, spec: RunSpec, space: Mapping[str, Domain], options: SweepOptions) -> Sweep:
        refuse_unknown(options, SweepOptions)
        return Sweep(self.home, start_sweep(self.home, request_of(spec, space, options)))

    def get_sweep(self, number: SupportsIndex) -> Sweep:
        """A sweep by its number.

        Raises:
            NotFoundError: There is none.
        """
        with open_store(self.home) as store:
            return Sweep(self.home, store.sweep(_number("number", number)).number)

    def _set_model(self) -> str:
        """The model that the settings choose; inside a run the default, as on the command line."""
        if inside_a_run():
            return SETTINGS["model"].default
        return load_config(self.home, current_folder()).values["model"]

    def _submit(self, spec: RunSpec) -> Run:
        made = submit(self.home, spec, executor=self.executor)
        return Run(self.home, made.record.number, self.executor)

    def get(self, number: SupportsIndex) -> Run:
        """A run by its number.

        Raises:
            NotFoundError: There is none.
        """
        with open_store(self.home) as store:
            return Run(self.home, store.get(_number("number", number)).number, self.executor)

    def runs(
        self,
        *,
        limit: int | None = 20,
        status: str | None = None,
        labels: Sequence[str] = (),
        project: str | None = None,
    ) -> "RunList":
        """The newest runs, newest first.

        Args:
            limit: At most so many, or None for all.
            status: Only those with this status.
            labels: Only those with any of these labels.
            project: Only those of this project; "" for those without one.
        """
        wanted = RunFilter(
            limit=limit,
            statuses=() if status is None else (_status(status),),
            labels=_texts(labels),
            projects=() if project is None else (project,),
        )
        with open_store(self.home) as store:
            found = store.listing(wanted)
        return RunList(Run(self.home, listed.number, self.executor) for listed in found)


class RunList(list[Run]):
    """Some runs, newest first."""

    def rows(self) -> list[dict[str, object]]:
        """The runs as rows of a table, with a column for each param and for the last value of each metric.

        The columns are ``run``, ``status``, ``command``, ``seconds``, ``param.NAME`` and ``metric.NAME``;
        a run without a param or metric has None there. `pandas.DataFrame` takes them.
        """
        if not self:
            return []
        with open_store(self[0].home) as store:
            found = [store.get(run.number) for run in self]
            metrics = store.latest_values(run.number for run in self)
        rows = [run_row(record, metrics.get(record.number, {})) for record in found]
        names = dict.fromkeys(name for row in rows for name in row)
        return [{name: row.get(name) for name in names} for row in rows]


def run_row(record: RunRecord, metrics: Mapping[str, float]) -> dict[str, object]:
    """A run as a row of a table; see `RunList.rows`."""
    return {
        "run": record.number,
        "status": str(record.status),
        "command": record.spec.stored().command_text,
        "seconds": record.command_s,
        **{f"param.{name}": value for name, value in record.spec.params.items()},
        **{f"metric.{name}": value for name, value in metrics.items()},
    }


def _texts(given: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    """One text or several, where Python would take a text for the list of its characters."""
    return (str(given),) if isinstance(given, str | Path) else tuple(map(str, given))


def _words(command: str | Path | Sequence[object]) -> tuple[str, ...]:
    """A command as a run has it: one text is a line for the shell."""
    if isinstance(command, Path):
        return (shell_words(str(command)),)
    return (command,) if isinstance(command, str) else tuple(map(str, command))


def _number(name: str, given: object) -> int:
    """A run's or sweep's number as Python's own integer: databases take no other, such as NumPy's.

    Args:
        name: Of the argument.
        given: The number.

    Raises:
        UsageError: It is no integer.
    """
    try:
        return index(cast("SupportsIndex", given))
    except TypeError as error:
        raise UsageError(f"{option(name)} must be an integer, not {given!r}") from error


def _numbers(name: str, given: object) -> tuple[int, ...]:
    several = given if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
    return tuple(_number(name, each) for each in several)


def _spec(home: Home, command: tuple[str, ...], options: RunOptions) -> RunSpec:
    unknown = sorted(options.keys() - RunOptions.__annotations__.keys())
    if unknown:
        known = ", ".join(RunOptions.__annotations__)
        raise UsageError(f"there is no option {unknown[0]!r}; allowed: {known}")
    folder = current_folder() / expand_user(options.get("folder", ""))
    options = _configured(home, folder, options)
    requirements, _ = read_requirements(home, map(expand_user, _texts(options.get("pip_req", ()))))
    timeout = options.get("timeout")
    return RunSpec(
        command=command,
        folder=folder,
        code=CodeChoice(
            commit=options.get("commit"),
            committed=options.get("committed", False),
            git_url=options.get("git_url"),
            git_ref=options.get("git_ref"),
        ),
        environment=EnvironmentChoice(
            options.get("base", "current"),
            options.get("python"),
            keep_packages(home, _texts(options.get("pip", ())), current_folder()),
            requirements or None,
            options.get("image"),
            apt=_texts(options.get("apt", ())),
        ),
        variables={name: str(value) for name, value in options.get("env", {}).items()},
        mounts=_mounts(options.get("mounts", ())),
        resources=_compute_request(options),
        timeout_s=parse_duration(str(timeout)) if timeout is not None else None,
        stop_conditions=_texts(options.get("stop_conditions", ())),
        output=_texts(options.get("output", ())),
        no_output=_texts(options.get("no_output", ())),
        description=options.get("description", ""),
        labels=_texts(options.get("labels", ())),
        project=options.get("project"),
        params={name: str(value) for name, value in options.get("params", {}).items()},
        idempotent=options.get("idempotent", False),
        sandbox=options.get("sandbox", False),
        network=options.get("network", False),
        after=_numbers("after", options.get("after", ())),
        retry=options.get("retry", 0),
        retry_on=options.get("retry_on", INTERRUPTED),
        checkpoint=_texts(options.get("checkpoint", ())),
        distributed=options.get("distributed"),
        nodes=options.get("nodes"),
        on=options.get("on"),
    )


def _recorded(spec: RunSpec, project: str | None, run: RecordingOptions) -> RunSpec:
    refuse_unknown(run, RecordingOptions)
    spec = replace(spec, project=project, retry=run.get("retry", 0))
    return placed(spec, run.get("on"), _compute_request(run))


def _compute_request(options: RunOptions | RecordingOptions) -> ComputeRequest:
    memory = options.get("memory")
    return ComputeRequest(
        options.get("cpus"), options.get("gpus"), parse_size(str(memory)) if memory is not None else None
    )


def _configured(home: Home, folder: Path, options: RunOptions) -> RunOptions:
    """Options with those that the settings set beside; none inside a run, as on the command line."""
    if inside_a_run():
        return options
    config = load_config(home, folder)
    left_out = NOT_WITH_IMAGE if options.get("image") is not None else ()
    found = {name: value for name, value in config.run_options().items() if name not in left_out}
    configured = cast("RunOptions", found | options)
    if configured.get("sandbox") and "pip" not in options:
        config.refuse_packages_of_project(is_sandbox_typed="sandbox" in options)
    return configured


def _mounts(given: Mapping[str, str] | Mapping[Path, str] | Sequence[str | Path]) -> tuple[Mount, ...]:
    if isinstance(given, Mapping):
        return tuple(Mount.of(_mounted(source), str(path)) for source, path in given.items())
    several = [given] if isinstance(given, str | Path) else given
    return tuple(
        Mount.parse(each) if isinstance(each, str) else Mount.of(_mounted(each), each.name)
        for each in several
    )


def _mounted(source: str | Path) -> str:
    """What to mount; a `Path` has no ``./`` any more by which a local file is known."""
    return source if isinstance(source, str) else str(expand_user(source).absolute())


def _status(name: str) -> RunStatus:
    try:
        return RunStatus(name)
    except ValueError as error:
        raise UsageError(f"{name!r} is not a status; allowed: {', '.join(RunStatus)}") from error


def _printed(run: Run) -> Iterator[LogEntry]:
    for event in follow(run.home, run.number, executor=run.executor):
        if isinstance(event, Printed):
            yield event.entry
