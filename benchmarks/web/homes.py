"""Large homes, made without running anything.

Main entries: `many_runs`, `long_curves`, `long_log`. They take some GB of disk.
"""

import json
import random
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from conjure.core.home import Home
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from conjure.runs.telemetry.metric_column_file import ColumnWriter
from conjure.runs.telemetry.metrics import MetricTail, Summary, metric_summaries
from support.casting import OWNER, add_run, advance
from support.web_homes import loss_curve

CURVES = 50
METRICS = 10
_AT_ONCE = 1000


def many_runs(home: Home, scale: float) -> None:
    """10,000 runs that have ended, each with two params."""
    with SqliteDatabase.open(home) as store:
        for number in range(int(10_000 * scale)):
            spec = RunSpec(
                command=(f"python train.py --seed {number}",),
                folder=Path("/code"),
                params={"lr": str(10 ** -random.uniform(1, 5)), "seed": str(number)},
            )
            store.create_run(spec, OWNER, lambda given: home.run_folder(given).mkdir(parents=True))
            store.end_run(number + 1, Ending(EndReason.KILL_REQUESTED))


def long_curves(home: Home, scale: float) -> None:
    """50 running runs with 10 metrics of 100,000 points each, kept as a supervisor does, and a short log."""
    with SqliteDatabase.open(home) as store:
        for _ in range(CURVES):
            number = add_run(store, "python train.py").number
            advance(store, number, RunStatus.RUNNING)
            store.set_summaries(number, _report(RunFolder.of(home, number), int(100_000 * scale)).values())
            RunFolder.of(home, number).log.write_text(line(0, "begin"))


def _report(run: RunFolder, points: int) -> Mapping[str, Summary]:
    tail, writer = MetricTail(run.metrics), ColumnWriter(run.path)
    summaries: dict[str, Summary] = {}
    values = loss_curve(points, int(run.path.name))
    for start in range(0, points, _AT_ONCE):
        with run.metrics.open("a") as file:
            for step, value in enumerate(values[start : start + _AT_ONCE], start):
                file.writelines(point(f"loss{metric}", step, value) for metric in range(METRICS))
        found = list(tail.read_all())
        writer.add(found, tail.offset)
        summaries = metric_summaries(found, summaries.values())
    writer.finish()
    return summaries


def long_log(home: Home, scale: float) -> None:
    """A running run with a log of 1,000,000 lines."""
    with SqliteDatabase.open(home) as store:
        number = add_run(store, "python train.py").number
        advance(store, number, RunStatus.RUNNING)
    with RunFolder.of(home, number).log.open("w") as file:
        for place in range(int(1_000_000 * scale)):
            file.write(line(place, f"step {place} loss {1 / (place + 1):.6f}"))


def point(metric: str, step: int, value: float) -> str:
    """A point as a run's command writes it."""
    return f'{{"name": "{metric}", "step": {step}, "value": {value!r}, "time": {1.7e9 + step:.6f}}}\n'


def line(place: int, text: str) -> str:
    """A line of a log as a run's supervisor writes it."""
    return json.dumps({"time": 1.7e9 + place, "stream": "stdout", "text": f"{text}\n"}) + "\n"
