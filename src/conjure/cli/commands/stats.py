"""`conjure stats`: what a run uses of the machine."""

import time
from collections.abc import Iterator
from dataclasses import asdict, replace

import click

from conjure.cli.render import cut, note, on_terminal, terminal_width, write_json
from conjure.cli.run_number_type import RUN_NUMBER
from conjure.cli.status_colors import status_cell
from conjure.cli.tables import Cell, show_facts
from conjure.core.home import Home
from conjure.core.units import format_duration, format_size
from conjure.runs.database.base import Database
from conjure.runs.host.gpu_meter import GpuReading
from conjure.runs.inspect.live_usage import Sample, Sampler
from conjure.runs.lifecycle.abandoned_runs import mark_interrupted
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.process_facts import Usage
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.status import EXIT_DETACHED

_ONE_LOOK_S = 0.5
_EVERY_S = 1.0

Fact = tuple[str, str | Cell]


@click.command
@click.argument("number", type=RUN_NUMBER)
@click.option("-f", "--follow", "following", is_flag=True, help="Follow the run until it ends.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with -f, one object per second.")
def command(number: int, *, following: bool, as_json: bool) -> int:
    """Show the CPU, memory, disk and GPU use of run NUMBER: current, total and peak."""
    home = Home.from_environment()
    with open_store(home) as store:
        show = _write if as_json else _View(in_place=following and on_terminal(), lines=following).show
        try:
            for record, sample in _looks(home, store, number, following=following):
                show(record, sample)
        except KeyboardInterrupt:
            if not following:
                raise
            return EXIT_DETACHED
    return 0


def _looks(
    home: Home, store: Database, number: int, *, following: bool
) -> Iterator[tuple[RunRecord, Sample | None]]:
    """The run with a sample of it, once, or every second until it has ended; the last look has no sample."""
    record = store.get(number)
    sampler = Sampler(home, record)
    while not record.status.is_final:
        time.sleep(_EVERY_S if following else _ONE_LOOK_S)
        sample = sampler.sample()
        mark_interrupted(store, [record])
        record = store.get(number)
        if not record.status.is_final:
            yield record, sample
            if not following:
                return
    yield record, None


def _write(record: RunRecord, sample: Sample | None) -> None:
    """One look as JSON."""
    write_json(
        {
            "number": record.number,
            "status": str(record.status),
            "now": None if sample is None else sample.to_dict(),
            "usage": asdict(_usage(record, sample)),
        }
    )


def _usage(record: RunRecord, sample: Sample | None) -> Usage:
    """Totals and peaks of the record, which may be seconds old, with what is seen now."""
    known = record.usage if record.usage is not None else Usage()
    if sample is None:
        return known
    gpu = [size for size in (known.peak_gpu_memory_bytes, sample.gpu_memory_bytes) if size is not None]
    return Usage(
        cpu_s=known.cpu_s,
        peak_memory_bytes=max(known.peak_memory_bytes, sample.memory_bytes),
        read_bytes=known.read_bytes,
        written_bytes=known.written_bytes,
        peak_gpu_memory_bytes=max(gpu, default=None),
    )


class _View:
    """Shows looks to a person.

    Args:
        in_place: Each look in the place of the one before.
        lines: Otherwise, one line per look while the run goes on.
    """

    def __init__(self, *, in_place: bool, lines: bool) -> None:
        self._in_place = in_place
        self._lines = lines
        self._height = 0

    def show(self, record: RunRecord, sample: Sample | None) -> None:
        """Show one look."""
        if self._lines and not self._in_place and sample is not None:
            click.echo(_line(sample))
            return
        facts = _facts(record, sample)
        facts = _cut(facts) if self._in_place else facts
        if self._in_place and self._height:
            click.echo(f"\x1b[{self._height}F\x1b[J", nl=False)
        show_facts(facts)
        self._height = len(facts)
        if sample is None and not record.status.is_final:
            note(f"Run {record.number} cannot be measured from here; it may be on another machine")


def _cut(facts: list[Fact]) -> list[Fact]:
    """The facts, each of which takes one line of the terminal, so that they can be rewritten in place."""
    room = max(1, terminal_width() - max(len(name) for name, _ in facts) - len("  ") - 1)
    return [
        (name, replace(value, text=cut(value.text, room)) if isinstance(value, Cell) else cut(value, room))
        for name, value in facts
    ]


def _facts(record: RunRecord, sample: Sample | None) -> list[Fact]:
    known = sample is not None or record.usage is not None
    return [
        ("run", str(record.number)),
        ("status", status_cell(record.facts)),
        *([] if sample is None else _now(sample)),
        *(_in_all(_usage(record, sample)) if known else [("usage", "unknown")]),
    ]


def _now(sample: Sample) -> list[Fact]:
    return [
        ("processes", str(sample.processes)),
        ("cpu", f"{sample.cpu_percent:.0f}%"),
        ("memory", format_size(sample.memory_bytes)),
        ("disk", _disk(sample)),
        *((f"gpu {gpu.index}", _gpu(gpu)) for gpu in sample.gpus),
    ]


def _in_all(usage: Usage) -> list[Fact]:
    gpu = usage.peak_gpu_memory_bytes
    return [
        ("peak memory", format_size(usage.peak_memory_bytes)),
        *([] if gpu is None else [("peak gpu memory", format_size(gpu))]),
        ("cpu time", format_duration(usage.cpu_s)),
        ("total read", format_size(usage.read_bytes)),
        ("total written", format_size(usage.written_bytes)),
    ]


def _line(sample: Sample) -> str:
    """A sample where lines cannot be rewritten."""
    gpu = sample.gpu_memory_bytes
    held = "" if gpu is None else f" · gpu memory {format_size(gpu)}"
    return (
        f"cpu {sample.cpu_percent:.0f}% · memory {format_size(sample.memory_bytes)}{held}"
        f" · disk {_disk(sample)} · processes {sample.processes}"
    )


def _disk(sample: Sample) -> str:
    read, written = round(sample.read_bytes_per_s), round(sample.written_bytes_per_s)
    return f"{format_size(read)}/s read, {format_size(written)}/s written"


def _gpu(gpu: GpuReading) -> str:
    """What is known of a GPU, by whomever it is used."""
    facts = [gpu.name]
    if gpu.busy_percent is not None:
        facts.append(f"{gpu.busy_percent}% busy")
    if gpu.used_bytes is not None and gpu.total_bytes is not None:
        facts.append(f"{format_size(gpu.used_bytes)} of {format_size(gpu.total_bytes)}")
    if gpu.temperature_c is not None:
        facts.append(f"{gpu.temperature_c} °C")
    if gpu.power_w is not None:
        facts.append(f"{gpu.power_w:.0f} W")
    return ", ".join(facts)
