"""`conjure info`: everything about one run."""

import shutil
import textwrap
from collections.abc import Iterable, Iterator
from signal import strsignal
from typing import Any

import click

from conjure.cli.parameter_types import optional_number
from conjure.cli.render import on_terminal, visible, write_json
from conjure.cli.run_view import elapsed, heartbeat_age_s, metric_value, status_cell
from conjure.cli.tables import Cell, heading, show_facts
from conjure.cli.times import moment
from conjure.core.home import Home
from conjure.core.units import format_duration, format_size
from conjure.runs.database.base import Lease, Link
from conjure.runs.inspect.lineage import Edge, Products, Tie, run_number, source_text
from conjure.runs.lifecycle.ownership import open_store
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.resource import Resource
from conjure.runs.schema.status import RunStatus
from conjure.runs.telemetry.metrics import Summary

Fact = tuple[str, str | Cell]


@click.command
@optional_number
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(number: int, *, as_json: bool) -> None:
    """Show the details of run NUMBER (default: the newest): settings, status, times and outputs."""
    home = Home.from_environment()
    with open_store(home) as store:
        record = store.get(number)
        summaries = store.summaries(number)
        uses = Products(store).of(number)
        links = [link for link in store.links() if _names_run(link, number)]
        lease = store.leases().get(number)
    if as_json:
        write_json(_to_dict(record, summaries, uses, links) | {"heartbeat_age_s": heartbeat_age_s(lease)})
        return
    show_facts(_facts(record, lease))
    for title, facts in _sections(record, summaries, uses, links):
        if facts:
            heading(title)
            show_facts([(f"  {name}", value) for name, value in facts])
    if record.environment is not None and record.environment.packages:
        heading(f"packages ({len(record.environment.packages)})")
        click.echo(_paragraph(f"{name} {version}" for name, version in record.environment.packages.items()))


def _names_run(link: Link, number: int) -> bool:
    return Resource.of_source(link.resource).number == number


def _to_dict(
    record: RunRecord, summaries: dict[str, Summary], uses: list[Edge], links: list[Link]
) -> dict[str, Any]:
    return record.to_dict() | {
        "metrics": {name: summary.to_dict() for name, summary in summaries.items()},
        "made_from_it": [edge.to_dict() for edge in uses],
        "links": [{"name": link.name, "resource": link.resource} for link in links],
    }


def _facts(record: RunRecord, lease: Lease | None) -> list[Fact]:
    return [
        ("run", str(record.number)),
        ("status", status_cell(record.facts, lease)),
        *_ending(record),
        ("command", record.spec.stored().command_text),
        *_optional("description", record.spec.description),
        *_optional("labels", ", ".join(record.labels)),
        *_times(record),
        *_code(record),
        *_environment(record),
        *_asked(record),
        *_outputs(record),
        *_usage(record),
        *([("archived", moment(record.archived_at))] if record.archived_at is not None else []),
    ]


def _optional(name: str, value: str | None) -> list[Fact]:
    return [(name, value)] if value else []


def _ending(record: RunRecord) -> Iterator[Fact]:
    ending = record.ending
    if ending is None:
        return
    yield "end reason", str(ending.reason) + (f": {ending.message}" if ending.message else "")
    if ending.exit_code is not None:
        yield "exit code", str(ending.exit_code)
    if ending.signal is not None:
        yield "signal", f"{ending.signal} ({strsignal(ending.signal)})"


def _times(record: RunRecord) -> Iterator[Fact]:
    started = record.facts.entered.get(RunStatus.RUNNING)
    yield "requested", moment(record.requested_at)
    if started is not None:
        yield "started", moment(started)
    if record.facts.ended_at is not None:
        yield "ended", moment(record.facts.ended_at)
    in_all = elapsed(record.facts, record.total_s)
    command = "" if record.command_s is None else f", the command {format_duration(record.command_s)}"
    yield "duration", f"{in_all}{command}"


def _code(record: RunRecord) -> Iterator[Fact]:
    yield "folder", str(record.spec.folder)
    code = record.code
    if record.spec.code.git_url is not None:
        yield "repository", record.spec.code.git_url
    if code is None or not code.tree:
        yield "code", "none"
        return
    if code.commit is not None:
        branch = f" on {code.branch}" if code.branch else ""
        more = ", with uncommitted changes" if code.dirty else ""
        yield "commit", f"{code.commit[:12]}{branch}{more}"
    yield "code", f"tree {code.tree[:12]}, {format_size(code.size_bytes)}"
    for warning in code.warnings:
        yield "", Cell(warning, "yellow")


def _environment(record: RunRecord) -> Iterator[Fact]:
    asked, had = record.spec.environment, record.environment
    if had is not None:
        yield "python", had.python
    if asked.base != "current":
        yield "base", asked.base
    if asked.pip:
        yield "pip", ", ".join(asked.pip)
    if asked.requirements:
        yield "requirements", asked.requirements.strip()


def _asked(record: RunRecord) -> Iterator[Fact]:
    spec, needs = record.spec, record.spec.resources
    if spec.sandbox:
        yield "sandbox", "with network" if spec.network else "without network"
    amounts = [
        *([] if needs.cpus is None else [f"cpus {needs.cpus:g}"]),
        *([] if needs.gpus is None else [f"gpus {needs.gpus}"]),
        *([] if needs.memory_bytes is None else [f"memory {format_size(needs.memory_bytes)}"]),
    ]
    if amounts:
        given = f" (given {', '.join(map(str, record.gpu_ids))})" if record.gpu_ids else ""
        yield "needs", ", ".join(amounts) + given
    if spec.after:
        yield "after", ", ".join(f"run {number}" for number in spec.after)
    if spec.timeout_s is not None:
        yield "timeout", format_duration(spec.timeout_s)
    if spec.stop_conditions:
        yield "stop conditions", "\n".join(spec.stop_conditions)
    if spec.output:
        yield "keeps", ", ".join(spec.output)
    if spec.no_output:
        yield "excluded", ", ".join(spec.no_output)


def _outputs(record: RunRecord) -> Iterator[Fact]:
    outputs = record.outputs
    if outputs is None:
        return
    count = f"{outputs.files:,} file{'s' * (outputs.files != 1)}, {format_size(outputs.size_bytes)}"
    if outputs.removed:
        yield "outputs", f"{count}, since removed"
    elif outputs.files:
        recovered = ", recovered after its end" if outputs.recovered else ""
        yield "outputs", f"{count}{recovered} (conjure ls runs/{record.number})"
    else:
        yield "outputs", "no new files"


def _usage(record: RunRecord) -> Iterator[Fact]:
    usage = record.usage
    if usage is None:
        return
    gpu = usage.peak_gpu_memory_bytes
    peaks = f"{format_size(usage.peak_memory_bytes)} of memory" + (
        "" if gpu is None else f", {format_size(gpu)} of GPU memory"
    )
    yield "peaks", f"{peaks}; {format_duration(usage.cpu_s)} of processor time"


def _sections(
    record: RunRecord, summaries: dict[str, Summary], uses: list[Edge], links: list[Link]
) -> Iterator[tuple[str, list[Fact]]]:
    spec = record.spec.stored()
    yield "params", list(spec.params.items())
    yield "variables", list(spec.variables.items())
    yield (
        "mounts",
        [
            (mount.target, f"{source_text(mount.source)}{', read-only' if mount.read_only else ''}")
            for mount in record.mounts
        ],
    )
    yield "came from", _relatives(record)
    yield "metrics", [(name, _metric(summary)) for name, summary in summaries.items()]
    yield "made from it", [(f"run {run_number(edge.target)}", _use(edge)) for edge in uses]
    yield "links", [(link.name, link.resource) for link in links]


def _relatives(record: RunRecord) -> list[Fact]:
    return [
        *([] if record.rerun_of is None else [(f"run {record.rerun_of}", "this run repeats it")]),
        *([] if record.parent is None else [(f"run {record.parent}", "started this run")]),
    ]


def _metric(summary: Summary) -> str:
    last, lowest, highest = map(metric_value, (summary.last_value, summary.lowest, summary.highest))
    points = f"{summary.points:,} point{'s' * (summary.points != 1)}"
    return f"{last} at step {summary.last_step:,}; lowest {lowest}, highest {highest}; {points}"


def _use(edge: Edge) -> str:
    if edge.tie is Tie.MOUNT:
        return f"{edge.resource} as {edge.place}"
    return "repeats it" if edge.tie is Tie.RERUN else "started by it"


def _paragraph(words: Iterable[str]) -> str:
    """Many short things, filled into lines on a terminal and one per line elsewhere."""
    if not on_terminal():
        return "\n".join(f"  {word}" for word in words)
    width = shutil.get_terminal_size().columns
    # Names stay with their versions: only the blanks between pairs may break.
    text = ", ".join(word.replace(" ", "\xa0") for word in words)
    filled = textwrap.fill(visible(text), width - 2, break_on_hyphens=False)
    return textwrap.indent(filled.replace("\xa0", " "), "  ")
