"""The values shown of a run, the same for the terminal, a page and ``--json``.

Main entries: `list_runs` for a list, `view_run` for one run. Invariant: what is shown of a run is put into
words here and nowhere else; a row of a list reads no file of the run.
"""

import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from signal import strsignal
from typing import Any

from conjure.core.home_selection import with_home
from conjure.core.text import local_address, plural, to_iso, valid_utf8
from conjure.core.times import format_age, moment
from conjure.core.units import format_duration, format_number, format_size
from conjure.runs.database.base import Database, Lease, Link, ListedRun, RunFilter
from conjure.runs.inspect.lineage import Edge, Products, RelationKind, run_number, source_text
from conjure.runs.lifecycle.heartbeat import is_unreachable
from conjure.runs.schema.record import AttemptFacts, RunRecord
from conjure.runs.schema.resource import Resource
from conjure.runs.schema.spec import FAILED, RunSpec
from conjure.runs.schema.status import PHASES, EndReason, RunProgress, RunStatus
from conjure.runs.telemetry.metrics import Summary

PORT_METRIC = "port"  # what a server reports
_MEASURED = ("eval", "val", "test")


class Tone(StrEnum):
    """How a value is coloured."""

    GOOD = "good"
    ACTIVE = "active"
    CAUTION = "caution"
    BAD = "bad"


TONES = {
    RunStatus.COMPLETE: Tone.GOOD,
    RunStatus.RUNNING: Tone.ACTIVE,
    RunStatus.SAVING: Tone.ACTIVE,
    RunStatus.STOPPED: Tone.CAUTION,
    RunStatus.INTERRUPTED: Tone.CAUTION,
    RunStatus.FAILED: Tone.BAD,
    RunStatus.KILLED: Tone.BAD,
    RunStatus.BUILD_FAILED: Tone.BAD,
    RunStatus.MOUNT_FAILED: Tone.BAD,
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One named value, as text."""

    name: str
    value: str
    tone: Tone | None = None


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of a run.

    Attributes:
        status: Its name.
        entered_at: When it began, seconds since the epoch.
        lasted_s: How long it lasted by the clock on the wall, None while it goes on.
    """

    status: RunStatus
    entered_at: float
    lasted_s: float | None


def status_text(facts: RunProgress, lease: Lease | None = None) -> str:
    """The status, with the exit code or signal of a command that failed: ``failed (exit 1)``.

    Args:
        facts: How far the run has come.
        lease: Who has it, where that is known; a supervisor out of reach may be alive or dead.
    """
    status, ending = facts.status, facts.ending
    if ending is None and lease is not None and is_unreachable(lease):
        return f"unreachable (last heartbeat {format_age(lease.heartbeat_age_s)} ago)"
    if ending is not None and ending.reason is EndReason.DEPENDENCY_FAILED:
        return f"{status} ({ending.message})"
    if ending is None or status is not RunStatus.FAILED:
        return str(status)
    if ending.reason is EndReason.SAVE_FAILED:
        return f"{status} (not saved)"
    return f"{status} (signal {ending.signal})" if ending.signal else f"{status} (exit {ending.exit_code})"


def status_tone(facts: RunProgress, lease: Lease | None = None) -> Tone | None:
    """The colour of the status, None for one that is neither good nor bad yet."""
    if facts.ending is None and lease is not None and is_unreachable(lease):
        return Tone.CAUTION
    return TONES.get(facts.status)


def heartbeat_age_s(lease: Lease | None) -> float | None:
    """How long ago a run's supervisor was last heard of; None where that is not told."""
    return None if lease is None else round(lease.heartbeat_age_s, 3)


def elapsed_s(facts: RunProgress, total_s: float | None, now: float | None = None) -> float | None:
    """Seconds from request to end, or until now while it goes on; None where nobody saw the end."""
    if total_s is not None:
        return total_s
    requested = facts.entered.get(RunStatus.REQUESTED)
    if facts.ending is not None or requested is None:
        return None
    return max((now if now is not None else time.time()) - requested, 0.0)


def elapsed(facts: RunProgress, total_s: float | None, now: float | None = None) -> str:
    """`elapsed_s` as text; a dash for None."""
    seconds = elapsed_s(facts, total_s, now)
    return "-" if seconds is None else format_duration(seconds)


def phases(facts: RunProgress) -> list[Phase]:
    """The phases a run entered, in order; a clock that was set back meanwhile makes none negative."""
    entered = [(status, facts.entered[status]) for status in PHASES if status in facts.entered]
    ends = [*(begun for _, begun in entered[1:]), facts.ended_at]
    return [
        Phase(status, begun, None if end is None else max(end - begun, 0.0))
        for (status, begun), end in zip(entered, ends, strict=True)
    ]


def key_metric(values: Mapping[str, float]) -> str | None:
    """The one metric to show of a run: a held-out loss, else one on other data, else a loss, else any."""
    return min(values, key=lambda name: (_rank(name), name), default=None)


def _rank(name: str) -> int:
    lower = name.lower()
    is_loss = "loss" in lower
    if is_loss and "held" in lower:
        return 0
    if is_loss and any(word in lower for word in _MEASURED):
        return 1
    return 2 if is_loss else 3


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run in a list.

    Attributes:
        run: What the database has of it.
        metrics: The newest value of each metric.
        lease: Who has it, where that is known.
    """

    run: ListedRun
    metrics: Mapping[str, float]
    lease: Lease | None = None

    @property
    def number(self) -> int:
        """The run's number."""
        return self.run.number

    @property
    def requested_at(self) -> float | None:
        """When it was asked for, seconds since the epoch."""
        return self.run.facts.entered.get(RunStatus.REQUESTED)

    @property
    def is_active(self) -> bool:
        """Whether it has not ended."""
        return not self.run.facts.status.is_final

    @property
    def status(self) -> str:
        """The status as `status_text` has it."""
        return status_text(self.run.facts, self.lease)

    @property
    def tone(self) -> Tone | None:
        """The status's colour."""
        return status_tone(self.run.facts, self.lease)

    @property
    def elapsed_s(self) -> float | None:
        """Seconds from request to end or until now."""
        return elapsed_s(self.run.facts, self.run.total_s)

    @property
    def key_metric(self) -> str | None:
        """The one metric to show; the port of a server is none."""
        return key_metric({name: value for name, value in self.metrics.items() if name != PORT_METRIC})

    @property
    def address(self) -> str | None:
        """Where a run of ``conjure serve`` can be reached now; None for all others."""
        port = self.metrics.get(PORT_METRIC)
        if self.run.kind != "serve" or self.run.facts.status is not RunStatus.RUNNING or port is None:
            return None
        words = shlex.split(self.run.command)
        host = next((word.partition("=")[2] for word in words if word.startswith("--host=")), "127.0.0.1")
        return local_address(host, port)

    def metric_text(self, name: str | None = None) -> str:
        """A metric with its newest value, ``loss 0.5``; if none is named, of the key metric, "" if none is.

        Of a server that runs, it is the address.
        """
        if name is None and self.address is not None:
            return self.address
        name = name if name is not None else self.key_metric
        return "" if name is None else f"{name} {format_number(self.metrics[name])}"

    def to_dict(self) -> dict[str, Any]:
        """The keys that one run's JSON has too, and every metric's newest value."""
        run, ending = self.run, self.run.facts.ending
        return {
            "number": run.number,
            "status": str(run.facts.status),
            "end_reason": None if ending is None else str(ending.reason),
            "exit_code": None if ending is None else ending.exit_code,
            "signal": None if ending is None else ending.signal,
            "message": None if ending is None else ending.message,
            "kind": run.kind,
            "command": run.command,
            "description": run.description,
            "labels": list(run.labels),
            "project": run.project,
            "params": dict(run.params),
            **{f"{phase}_at": to_iso(run.facts.entered.get(phase)) for phase in PHASES},
            "ended_at": to_iso(run.facts.ended_at),
            "command_s": run.command_s,
            "total_s": run.total_s,
            "archived": run.archived,
            "heartbeat_age_s": heartbeat_age_s(self.lease),
            "address": self.address,
            "metrics": dict(self.metrics),
        }


def list_runs(store: Database, wanted: RunFilter) -> list[RunRow]:
    """The runs that a filter lets through, with the newest values of their metrics."""
    return _rows(store, store.listing(wanted))


def list_page(store: Database, wanted: RunFilter) -> tuple[list[RunRow], int]:
    """As `list_runs`, and how many runs the filter lets through, its limit aside."""
    runs, total = store.listing_page(wanted)
    return _rows(store, runs), total


def _rows(store: Database, runs: list[ListedRun]) -> list[RunRow]:
    values = store.latest_values(run.number for run in runs)
    leases = store.leases() if any(run.facts.ending is None for run in runs) else {}
    return [RunRow(run, values.get(run.number, {}), leases.get(run.number)) for run in runs]


@dataclass(frozen=True, slots=True)
class RunView:
    """One run with what belongs to it.

    Attributes:
        record: The run.
        summaries: How its metrics stand, by name.
        uses: What later runs made of it.
        links: Links that point into it.
        lease: Who has it, where that is known.
    """

    record: RunRecord
    summaries: Mapping[str, Summary]
    uses: list[Edge]
    links: list[Link]
    lease: Lease | None = None

    @property
    def status(self) -> str:
        """The status as `status_text` has it."""
        return status_text(self.record.facts, self.lease)

    @property
    def tone(self) -> Tone | None:
        """The status's colour."""
        return status_tone(self.record.facts, self.lease)

    @property
    def is_active(self) -> bool:
        """Whether it has not ended."""
        return not self.record.status.is_final

    @property
    def phases(self) -> list[Phase]:
        """The phases it entered, as `phases` has them."""
        return phases(self.record.facts)

    @property
    def elapsed_s(self) -> float | None:
        """Seconds from request to end or until now."""
        return elapsed_s(self.record.facts, self.record.total_s)

    @property
    def command(self) -> str:
        """The command, without secrets, as one line for a shell."""
        return valid_utf8(self.record.spec.stored().command_text)

    @property
    def facts(self) -> list[Fact]:
        """What is known of it, in the order of importance."""
        record = self.record
        return [
            Fact("run", str(record.number)),
            Fact("status", self.status, self.tone),
            *ending_facts(record),
            Fact("command", self.command),
            *_optional("description", record.spec.description),
            *_optional("labels", ", ".join(record.labels)),
            *_optional("machine", "" if record.owner is None else record.owner.member),
            *_optional("project", record.project),
            *attempt_facts(record),
            *time_facts(record),
            *code_facts(record),
            *environment_facts(record),
            *requested_facts(record),
            *output_facts(record),
            *usage_facts(record),
            *([Fact("archived", moment(record.archived_at))] if record.archived_at is not None else []),
        ]

    @property
    def sections(self) -> dict[str, list[Fact]]:
        """Further facts by title; a section may be empty."""
        record, spec = self.record, self.record.spec.stored()
        return {
            "earlier attempts": [Fact(str(each.number), attempt_text(each)) for each in record.attempts],
            "params": [Fact(*pair) for pair in spec.params.items()],
            "variables": [Fact(*pair) for pair in spec.variables.items()],
            "mounts": [
                Fact(mount.target, f"{source_text(mount.source)}{', read-only' if mount.read_only else ''}")
                for mount in record.mounts
            ],
            "came from": _relatives(record),
            "metrics": [Fact(name, summary_text(summary)) for name, summary in self.summaries.items()],
            "made from it": [Fact(f"run {run_number(edge.target)}", _use(edge)) for edge in self.uses],
            "links": [Fact(link.name, link.resource) for link in self.links],
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return self.record.to_dict() | {
            "metrics": {name: summary.to_dict() for name, summary in self.summaries.items()},
            "made_from_it": [edge.to_dict() for edge in self.uses],
            "heartbeat_age_s": heartbeat_age_s(self.lease),
            "links": [{"name": link.name, "resource": link.resource} for link in self.links],
        }


def view_run(store: Database, number: int) -> RunView:
    """One run.

    Raises:
        NotFoundError: There is none of that number.
    """
    return RunView(
        store.get(number),
        store.summaries(number),
        Products(store).of(number),
        [link for link in store.links() if Resource.of_source(link.resource).number == number],
        store.leases().get(number),
    )


def ending_facts(record: RunRecord) -> Iterator[Fact]:
    """How it ended; nothing while it goes on."""
    ending = record.ending
    if ending is None:
        return
    yield Fact("end reason", str(ending.reason) + (f": {ending.message}" if ending.message else ""))
    if ending.exit_code is not None:
        yield Fact("exit status", str(ending.exit_code))
    if ending.signal is not None:
        yield Fact("signal", f"{ending.signal} ({strsignal(ending.signal)})")


def attempt_facts(record: RunRecord) -> Iterator[Fact]:
    """Which attempt it is, and where."""
    number, host = len(record.attempts) + 1, record.owner.host_name if record.owner is not None else ""
    if record.spec.retry:
        yield Fact("attempt", str(number))
    if host:
        yield Fact("host", host)


def attempt_text(attempt: AttemptFacts) -> str:
    """How an earlier attempt went, in one line."""
    ending = attempt.end_reason if attempt.message is None else f"{attempt.end_reason}: {attempt.message}"
    code = "" if attempt.exit_code is None else f" (exit status {attempt.exit_code})"
    place = f" on {attempt.host}" if attempt.host else ""
    began = "" if attempt.running_at is None else f", started {moment(attempt.running_at)}"
    return f"{ending}{code}{place}{began}, ended {moment(attempt.ended_at)}"


def time_facts(record: RunRecord) -> Iterator[Fact]:
    """When, and how long."""
    started = record.facts.entered.get(RunStatus.RUNNING)
    yield Fact("requested", moment(record.requested_at))
    if started is not None:
        yield Fact("started", moment(started))
    if record.facts.ended_at is not None:
        yield Fact("ended", moment(record.facts.ended_at))
    in_all = elapsed(record.facts, record.total_s)
    command = "" if record.command_s is None else f", the command {format_duration(record.command_s)}"
    yield Fact("duration", f"{in_all}{command}")


def code_facts(record: RunRecord) -> Iterator[Fact]:
    """Which code it started from."""
    yield Fact("folder", valid_utf8(str(record.spec.folder)))
    code = record.code
    if record.spec.code.git_url is not None:
        yield Fact("repository", record.spec.code.git_url)
    if code is None or not code.tree:
        yield Fact("code", "none")
        return
    if code.commit is not None:
        branch = f" on {code.branch}" if code.branch else ""
        more = ", with uncommitted changes" if code.dirty else ""
        yield Fact("commit", f"{code.commit[:12]}{branch}{more}")
    yield Fact("code", f"tree {code.tree[:12]}, {format_size(code.size_bytes)}")
    for warning in code.warnings:
        yield Fact("", warning, Tone.CAUTION)


def environment_facts(record: RunRecord) -> Iterator[Fact]:
    """Which Python it ran with, packages aside."""
    asked, had = record.spec.environment, record.environment
    if asked.image is not None:
        yield Fact("image", asked.image)
        if had is not None:
            yield Fact("image digest", had.image_digest)
        if had is not None and had.layer is not None:
            yield Fact("layer", had.layer)
    elif had is not None:
        yield Fact("python", had.python)
    if asked.base != "current":
        yield Fact("base", asked.base)
    if asked.apt:
        yield Fact("apt", ", ".join(asked.apt))
    if asked.pip:
        yield Fact("pip", ", ".join(asked.pip))
    if asked.requirements:
        yield Fact("requirements", asked.requirements.strip())


def requested_facts(record: RunRecord) -> Iterator[Fact]:
    """Resources, limits and which outputs to keep."""
    spec, needs = record.spec, record.spec.resources
    if spec.sandbox:
        yield Fact("sandbox", "with network" if spec.network else "without network")
    amounts = [
        *([] if needs.cpus is None else [f"cpus {needs.cpus:g}"]),
        *([] if needs.gpus is None else [f"gpus {needs.gpus}"]),
        *([] if needs.memory_bytes is None else [f"memory {format_size(needs.memory_bytes)}"]),
    ]
    if amounts:
        given = f" (given {', '.join(map(str, record.gpu_ids))})" if record.gpu_ids else ""
        yield Fact("needs", ", ".join(amounts) + given)
    yield from _place_facts(spec)
    if spec.after:
        yield Fact("after", ", ".join(f"run {number}" for number in spec.after))
    yield from _retry_facts(spec)
    if spec.timeout_s is not None:
        yield Fact("timeout", format_duration(spec.timeout_s))
    if spec.stop_conditions:
        yield Fact("stop conditions", "\n".join(spec.stop_conditions))
    if spec.output:
        yield Fact("keeps", ", ".join(spec.output))
    if spec.no_output:
        yield Fact("excluded", ", ".join(spec.no_output))


def _place_facts(spec: RunSpec) -> Iterator[Fact]:
    if spec.distributed is not None:
        each = " on each node" if spec.nodes is not None else ""
        yield Fact("distributed", f"{spec.distributed} process{'es' * (spec.distributed != 1)}{each}")
    if spec.on is not None:
        yield Fact("on", spec.on)
    if spec.nodes is not None:
        yield Fact("nodes", str(spec.nodes))


def _retry_facts(spec: RunSpec) -> Iterator[Fact]:
    if spec.retry:
        also = " or failed" if spec.retry_on == FAILED else ""
        yield Fact("retry", f"up to {spec.retry} times if interrupted{also}")
    if spec.checkpoint and spec.retry:
        yield Fact("checkpoints", ", ".join(spec.checkpoint))


def output_facts(record: RunRecord) -> Iterator[Fact]:
    """What was saved."""
    outputs = record.outputs
    if outputs is None:
        return
    count = f"{plural(outputs.files, 'file')}, {format_size(outputs.size_bytes)}"
    if outputs.removed:
        yield Fact("outputs", f"{count}, since removed")
    elif outputs.files:
        recovered = ", recovered after its end" if outputs.recovered else ""
        yield Fact("outputs", f"{count}{recovered} ({with_home(f'conjure ls runs/{record.number}')})")
    else:
        yield Fact("outputs", "no new files")


def usage_facts(record: RunRecord) -> Iterator[Fact]:
    """The most it used of the machine."""
    usage = record.usage
    if usage is None:
        return
    gpu = usage.peak_gpu_memory_bytes
    peaks = f"{format_size(usage.peak_memory_bytes)} of memory" + (
        "" if gpu is None else f", {format_size(gpu)} of GPU memory"
    )
    yield Fact("peaks", f"{peaks}; {format_duration(usage.cpu_s)} of processor time")


def summary_text(summary: Summary) -> str:
    """How a metric stands, in one line."""
    last, lowest, highest = map(format_number, (summary.last_value, summary.lowest, summary.highest))
    at = f"{last} at step {summary.last_step:,}"
    return f"{at}; lowest {lowest}, highest {highest}; {plural(summary.points, 'point')}"


def _optional(name: str, value: str | None) -> list[Fact]:
    return [Fact(name, value)] if value else []


def _relatives(record: RunRecord) -> list[Fact]:
    return [
        *([] if record.rerun_of is None else [Fact(f"run {record.rerun_of}", "this run repeats it")]),
        *([] if record.parent is None else [Fact(f"run {record.parent}", "started this run")]),
    ]


def _use(edge: Edge) -> str:
    if edge.tie is RelationKind.MOUNT:
        return f"{edge.resource} as {edge.place}"
    return "repeats it" if edge.tie is RelationKind.RERUN else "started by it"
