"""What is known of a run: what was asked, what was found, how it went.

Main entry: `RunRecord`, whose `to_dict` is what ``--json`` prints. Invariant: plain values that never change;
how they are stored is for `conjure.runs.database` to say, as a row and as the file ``runs/N/run.json``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from conjure.core.text import to_iso, valid_utf8
from conjure.runs.schema.process_facts import Owner, Usage
from conjure.runs.schema.resource import Resource
from conjure.runs.schema.spec import Mount, RunSpec
from conjure.runs.schema.status import PHASES, Ending, EndReason, RunProgress, RunStatus

_TIMES = tuple((phase, f"{phase}_at") for phase in PHASES)  # put together once: lists are long


@dataclass(frozen=True, slots=True)
class CodeFacts:
    """The snapshot a run started from.

    Attributes:
        tree: The snapshot's git tree, "" for an empty folder.
        subfolder: Where the command starts, relative to the code's root ("" for the root).
        root_name: Name of the folder the code was taken from.
        commit: The commit it is based on, or None outside a repository.
        branch: The branch checked out, or None.
        dirty: Whether it holds more than the commit.
        size_bytes: Size of the files.
        warnings: What the snapshot could not take faithfully.
    """

    tree: str
    subfolder: str = ""
    root_name: str = ""
    commit: str | None = None
    branch: str | None = None
    dirty: bool = False
    size_bytes: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EnvironmentFacts:
    """The environment a run ran with.

    Attributes:
        digest: What it was made from, in one word; of a container image, the digest of its content.
        python: The interpreter; "" in a container, whose own it is to know.
        packages: Every Python package's version; in a container, only where Python packages were added to it.
        base_image: Digest of the content of the image that packages were added to, or None.
        layer: Digest of the content of the image with these packages, or None.
        resolved: Which of the packages were added in a version that the resolver chose; None if nobody knows.
    """

    digest: str
    python: str
    packages: Mapping[str, str] = field(default_factory=dict)
    base_image: str | None = None
    layer: str | None = None
    resolved: tuple[str, ...] | None = None

    @property
    def image_digest(self) -> str:
        """Digest of the image that was asked for, in a container."""
        return self.base_image or self.digest


@dataclass(frozen=True, slots=True)
class OutputFacts:
    """What a run left behind: number and size of the files in ``runs/N/outputs``.

    Attributes:
        files: How many.
        size_bytes: Their size.
        recovered: Whether they were saved by `conjure recover`.
        removed: Whether they were removed since.
        manifest: Where a team's object store has them: the digest of the list of them; None without one.
    """

    files: int = 0
    size_bytes: int = 0
    recovered: bool = False
    removed: bool = False
    manifest: str | None = None


@dataclass(frozen=True, slots=True)
class AttemptFacts:
    """An attempt at a run that was followed by another one.

    Attributes:
        number: Which attempt, from 1.
        host: What people call the machine it was on, or None.
        running_at: When its command started, seconds since the epoch; None if it never did.
        ended_at: When it ended, or was found to have ended.
        end_reason: Why, as for a run.
        exit_code: The command's own exit code, or None.
        signal: The signal that ended it, or None.
        message: One sentence where the reason alone does not say it all.
    """

    number: int
    host: str | None
    running_at: float | None
    ended_at: float
    end_reason: str
    exit_code: int | None = None
    signal: int | None = None
    message: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The attempt as plain JSON values."""
        return asdict(self) | {"running_at": to_iso(self.running_at), "ended_at": to_iso(self.ended_at)}


@dataclass(frozen=True, slots=True)
class MountFacts:
    """A mount as it was resolved: `source` is the resource with links followed (``runs/2/data.txt``)."""

    resource: str
    target: str
    read_only: bool
    source: str

    @property
    def source_run(self) -> int | None:
        """The run the resource belongs to, if it belongs to one."""
        return Resource.of_source(self.source).number


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Everything conjure knows of one run.

    Attributes:
        number: The run's number; ``runs/<number>`` is its resource path.
        spec: What was asked, without secrets.
        facts: How far it came and how it ended; `status` follows from them.
        code: The snapshot, once taken.
        environment: The environment, once built.
        mounts: The mounts, resolved.
        outputs: What was saved, once it was.
        owner: The process that supervises it, or did.
        command_s: Seconds the command ran, by a clock that does not jump; None until it has ended.
        total_s: Seconds from request to end, by the same clock.
        gpu_ids: GPUs it was given.
        end_request: ``stop``, ``prune`` or ``kill`` when somebody asked for one.
        parent: The run that started this one, or None.
        rerun_of: The run this one repeats, or None.
        usage: What it used of the machine, once known.
        archived_at: When it was put away, or None.
        attempts: The attempts before the present or last one.
        retry_at: When the next attempt may start, seconds since the epoch; None if nothing keeps it.
        identity: Digest of code, environment, mounts, command and params: equal runs have equal ones.
    """

    number: int
    spec: RunSpec
    facts: RunProgress = field(default_factory=RunProgress)
    code: CodeFacts | None = None
    environment: EnvironmentFacts | None = None
    mounts: tuple[MountFacts, ...] = ()
    outputs: OutputFacts | None = None
    owner: Owner | None = None
    command_s: float | None = None
    total_s: float | None = None
    gpu_ids: tuple[int, ...] = ()
    end_request: str | None = None
    parent: int | None = None
    rerun_of: int | None = None
    usage: Usage | None = None
    archived_at: float | None = None
    identity: str | None = None
    attempts: tuple[AttemptFacts, ...] = ()
    retry_at: float | None = None

    @property
    def status(self) -> RunStatus:
        """The run's status, from its facts."""
        return self.facts.status

    @property
    def ending(self) -> Ending | None:
        """How it ended, or None while it goes on."""
        return self.facts.ending

    @property
    def waits_in_queue(self) -> bool:
        """Whether it waits for resources, and has no supervisor yet."""
        return self.owner is not None and self.owner.is_queue and not self.status.is_final

    @property
    def is_unsaved(self) -> bool:
        """Whether its command was started, now or in an earlier attempt, and nothing it made was saved."""
        was_running = any(attempt.running_at is not None for attempt in self.attempts)
        return self.outputs is None and (was_running or RunStatus.RUNNING in self.facts.entered)

    @property
    def pinned_mounts(self) -> tuple[Mount, ...]:
        """What to mount so that another run is given the same content."""
        return tuple(Mount(mount.source, mount.target, mount.read_only) for mount in self.mounts)

    @property
    def requested_at(self) -> float:
        """When it was asked for, seconds since the epoch."""
        return self.facts.entered.get(RunStatus.REQUESTED, 0.0)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names to find it by."""
        return self.spec.labels

    @property
    def project(self) -> str | None:
        """What it belongs to, if anything."""
        return self.spec.project

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON values: status first, what was asked next, then what happened."""
        spec = self.spec.to_dict()
        return {
            "number": self.number,
            "status": str(self.status),
            **ending_to_dict(self.ending),
            "command": valid_utf8(self.spec.stored().command_text),
            "description": spec["description"],
            "labels": spec["labels"],
            "project": spec["project"],
            "params": spec["params"],
            **times_to_dict(self.facts),
            "ended_at": to_iso(self.facts.ended_at),
            "command_s": self.command_s,
            "total_s": self.total_s,
            "code": fact_to_dict(self.code),
            "environment": fact_to_dict(self.environment),
            "mounts": [asdict(mount) for mount in self.mounts],
            "outputs": fact_to_dict(self.outputs),
            "usage": fact_to_dict(self.usage),
            "gpu_ids": list(self.gpu_ids),
            "parent": self.parent,
            "rerun_of": self.rerun_of,
            "archived_at": to_iso(self.archived_at),
            "end_request": self.end_request,
            "identity": self.identity,
            "owner": fact_to_dict(self.owner),
            "attempts": [attempt.to_dict() for attempt in self.attempts],
            "spec": spec,
        }


def ending_to_dict(ending: Ending | None) -> dict[str, Any]:
    """How a run ended, as JSON values."""
    return {
        "end_reason": None if ending is None else str(ending.reason),
        "exit_code": None if ending is None else ending.exit_code,
        "signal": None if ending is None else ending.signal,
        "message": None if ending is None else ending.message,
    }


def times_to_dict(facts: RunProgress) -> dict[str, str | None]:
    """When a run entered its phases, as JSON values."""
    return {name: to_iso(facts.entered.get(phase)) for phase, name in _TIMES}


def facts_from_dict(stored: Mapping[str, Any]) -> RunProgress:
    """The facts among a record's JSON values."""
    ending = None
    if stored.get("end_reason"):
        ending = Ending(
            EndReason(stored["end_reason"]),
            stored.get("exit_code"),
            stored.get("signal"),
            stored.get("message"),
        )
    entered = {
        phase: datetime.fromisoformat(text).timestamp()
        for phase, name in _TIMES
        if (text := stored.get(name)) is not None
    }
    return RunProgress(entered, from_iso(stored.get("ended_at")), ending)


def fact_to_dict(fact: Any) -> dict[str, Any] | None:
    """A dataclass as JSON values; None stays None."""
    return None if fact is None else asdict(fact)


def read_fact(kind: Any, stored: Mapping[str, Any] | None) -> Any:
    """A dataclass from its JSON values, of this version or another; unknown keys are passed over."""
    if stored is None:
        return None
    values = {name: value for name, value in stored.items() if name in kind.__dataclass_fields__}
    return kind(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    )


def from_iso(text: str | None) -> float | None:
    """Seconds since the epoch from what `to_iso` wrote."""
    return None if text is None else datetime.fromisoformat(text).timestamp()
