"""What is written into every tool: the same runs and points for all.

Main entries: `asked`, `curve`, `log_lines`. Only the standard library is used, for each tool's writer runs in
the environment of that tool.
"""

import json
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

METRICS = ("loss", "accuracy", "grad_norm", "learning_rate", "tokens_per_s")
PROJECT = "bench"
LIVE = "live"
_FIRST_POINTS = 100


def asked() -> tuple[Path, int, int]:
    """Where to write, how many runs, and how many points of each metric: the words of the command line."""
    folder, runs, points = sys.argv[1:4]
    return Path(folder), int(runs), int(points)


def is_live() -> bool:
    """Whether one run is to be logged while somebody watches, instead of many."""
    return sys.argv[4:] == [LIVE]


def run_name(run: int) -> str:
    """The name of a run, counted from 1."""
    return f"run-{run:02d}"


def params(run: int) -> dict[str, float]:
    """What a run was asked to do."""
    return {"lr": round(10 ** (-4 + run / 10), 6), "batch_size": 8 * (1 + run % 4)}


def curve(run: int, metric: int, points: int) -> list[float]:
    """A metric as trainings have it: it falls, noisily."""
    noise = random.Random(100 * run + metric)
    return [1 + metric + 3 * math.exp(-6 * step / points) + noise.gauss(0, 0.05) for step in range(points)]


def rows(run: int, points: int) -> "zip[tuple[float, ...]]":
    """Of each step the values of all metrics."""
    return zip(*(curve(run, metric, points) for metric in range(len(METRICS))), strict=True)


def tell(**facts: Any) -> None:
    """Tell the benchmark something, as a line of JSON."""
    print(json.dumps(facts), flush=True)


def log_lines(log: Callable[[float, int], object]) -> None:
    """Log some points of a run that somebody watches, then one for each line of standard input."""
    for step, value in enumerate(curve(0, 0, _FIRST_POINTS)):
        log(value, step)
    tell(ready=True)
    for step, line in enumerate(sys.stdin, _FIRST_POINTS):
        log(float(line), step)
