"""What a sweep costs beside its trials, and how good its proposals are beside Optuna's own loop.

python benchmarks/sweeps.py [--trials 100] [--seeds 30]
"""

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import optuna

from conjure.core.home import Home
from conjure.python_api import Client
from conjure.runs.schema.spec import CodeChoice, RunSpec
from conjure.sweeps.control import start_sweep
from conjure.sweeps.proposals import PastCell, propose
from conjure.sweeps.request import SweepRequest
from conjure.sweeps.space import Choice, Range

COUNT = 60  # proposals for each test function
Function = Callable[[float, float], float]


def branin(x: float, y: float) -> float:
    """Branin (1972); its lowest value is 0.397887."""
    b, c = 5.1 / (4 * math.pi**2), 5 / math.pi
    return (y - b * x**2 + c * x - 6) ** 2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def camel(x: float, y: float) -> float:
    """The six-hump camel function (Dixon and Szegő 1978), raised so that its lowest value is 0.4."""
    return (4 - 2.1 * x**2 + x**4 / 3) * x**2 + x * y + (-4 + 4 * y**2) * y**2 + 1.0316 + 0.4


FUNCTIONS: dict[str, tuple[Function, Range, Range]] = {
    "Branin": (branin, Range(-5.0, 10.0), Range(0.0, 15.0)),
    "six-hump camel": (camel, Range(-3.0, 3.0), Range(-2.0, 2.0)),
}


def asked(seed: int, space: dict, method: str = "tpe") -> SweepRequest:
    spec = RunSpec(
        command=("true", *(f":{name}:" for name in space)), folder=Path.cwd(), code=CodeChoice(none=True)
    )
    return SweepRequest(spec, space, method, cells=10_000, seed=seed, metric="loss", direction="minimize")


def best_of_ours(function: Function, x: Range, y: Range, seed: int) -> float:
    request, past = asked(seed, {"x": x, "y": y}), []
    for cell in range(COUNT):
        params = propose(request, cell, past)
        past.append(PastCell(params, "complete", function(float(params["x"]), float(params["y"]))))
    return min(one.value for one in past)


def best_of_optuna(function: Function, x: Range, y: Range, seed: int) -> float:
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(
        lambda trial: function(
            trial.suggest_float("x", x.low, x.high), trial.suggest_float("y", y.low, y.high)
        ),
        n_trials=COUNT,
    )
    return study.best_value


def quality(seeds: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    heads = (
        f"test function, {COUNT} trials, {seeds} seeds",
        "median best, conjure",
        "median best, Optuna's loop",
    )
    print(f"| {' | '.join(heads)} |")
    print("|---|---|---|")
    for name, (function, x, y) in FUNCTIONS.items():
        ours = statistics.median(best_of_ours(function, x, y, seed) for seed in range(seeds))
        theirs = statistics.median(best_of_optuna(function, x, y, seed) for seed in range(seeds))
        print(f"| {name} | {ours:.4f} | {theirs:.4f} |", flush=True)


def asking() -> None:
    space = {"lr": Range(1e-5, 1e-1, log=True), "n": Range(1.0, 64.0, whole=True), "o": Choice(("a", "b"))}
    drawn = asked(3, space, "random")
    past = [PastCell(propose(drawn, cell), "complete", float(cell % 17)) for cell in range(1000)]
    propose(asked(0, space), 1000, past)  # imports Optuna
    started = time.perf_counter()
    propose(asked(0, space), 1000, past)
    print(f"asking after 1,000 finished trials: {time.perf_counter() - started:.2f} s", flush=True)


def overhead(trials: int) -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each run's processes would compile our modules anew
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        space = {"x": Choice(tuple(map(str, range(trials))))}
        spec = RunSpec(command=("true", ":x:"), folder=Path(folder), code=CodeChoice(none=True))
        started = time.perf_counter()
        number = start_sweep(home, SweepRequest(spec, space, "grid", parallel=2))
        Client(home.root).get_sweep(number).wait(check=True)
        each = (time.perf_counter() - started) / trials
        print(f"{trials} trials of `true`, 2 at a time: {each:.2f} s a trial", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=30)
    options = parser.parse_args()
    overhead(options.trials)
    asking()
    quality(options.seeds)


if __name__ == "__main__":
    main()
