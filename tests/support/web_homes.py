"""Homes for the pages: runs with metrics, logs, files and lineage, made without running anything."""

import json
import math
import random
import time
from pathlib import Path

from conjure.core.home import Home
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.database.sweep_rows import TrialClaim
from conjure.runs.schema.process_facts import Usage
from conjure.runs.schema.record import CodeFacts, EnvironmentFacts, MountFacts, OutputFacts
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from conjure.sweeps.request import SweepRequest
from conjure.sweeps.space import Choice, Range
from support.casting import OWNER, add_run, advance, finish

# What no page may take for markup, a script or a command.
HOSTILE = (
    "<script>alert('pwned')</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    "javascript:alert(1)",
    "\x1b]0;title\x07\x1b[31mred\x1b[0m \x07 \x9b31m",
    "a\u202egnp.exe \u2028 \u2029 \ufeff end",
    "'; DROP TABLE runs; -- %_\\",
    '=HYPERLINK("http://evil")',
    "</title></textarea></style></svg>",
)


def log_points(home: Home, number: int, name: str, values, *, every_s: float = 1.0) -> None:
    """Points of a metric, as a run's command writes them; a value may be a text, such as ``nan``."""
    start = time.time() - 600
    with RunFolder.of(home, number).metrics.open("a") as file:
        for step, value in enumerate(values):
            shown = json.dumps(value) if isinstance(value, str) else repr(float(value))
            file.write(
                f'{{"name": {json.dumps(name)}, "step": {step}, "value": {shown},'
                f' "time": {start + step * every_s:.6f}}}\n'
            )


def print_lines(home: Home, number: int, lines, *, stream: str = "stdout") -> None:
    """Lines that a run's command printed."""
    print_pieces(home, number, (f"{line}\n" for line in lines), stream=stream)


def print_pieces(home: Home, number: int, pieces, *, stream: str = "stdout") -> None:
    """What a run's command printed, piece by piece as it came."""
    with RunFolder.of(home, number).log.open("a") as file:
        for place, text in enumerate(pieces):
            entry = {"time": round(time.time() - 600 + place * 0.01, 3), "stream": stream, "text": text}
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def save_file(home: Home, number: int, name: str, content: bytes | str) -> Path:
    """A file among a run's outputs."""
    path = RunFolder.of(home, number).outputs / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def loss_curve(points: int, seed: int, floor: float = 0.4) -> list[float]:
    """A loss as trainings have it: falling, noisy, now and then with a spike."""
    noise = random.Random(seed)
    values = []
    for step in range(points):
        value = floor + 3.2 * math.exp(-6 * step / points) + noise.gauss(0, 0.05)
        values.append(value + (1.5 if noise.random() < 0.002 else 0.0))
    return values


class _Clock:
    """Time that goes on by itself: every look at it is some seconds later, the last about now."""

    def __init__(self) -> None:
        self.now = time.time() - 7200

    def __call__(self) -> float:
        self.now += 3.7
        return self.now


def _finish(store: SqliteDatabase, clock: _Clock, number: int, ending: Ending, runs_s: float = 541.0) -> None:
    advance(store, number, RunStatus.RUNNING)
    clock.now += runs_s
    store.move(number, RunStatus.SAVING)
    store.end_run(number, ending, command_s=runs_s, total_s=runs_s + 24.2)


def small_home(root: Path) -> Home:
    """A dozen runs of every kind: complete, failed, running, labelled, mounted, repeated."""
    home, clock = Home(root), _Clock()
    with SqliteDatabase.open(home, clock=clock) as store:
        for rate in ("0.001", "0.003", "0.01"):
            record = add_run(
                store,
                f"python train.py --lr {rate} --data data.txt",
                params={"lr": rate, "batch": "8"},
                labels=("sweep",) if rate != "0.01" else ("sweep", "best"),
                description=f"learning rate {rate}",
            )
            number = record.number
            packages = {"numpy": "2.3.5", "torch": "2.13.0", "tqdm": "4.70.1"}
            if rate == "0.01":
                packages["torch"] = "2.12.1"
            store.set_facts(
                number,
                code=CodeFacts("0" * 40, commit="1f3c9d2e" * 5, branch="main", dirty=False, size_bytes=48213),
                environment=EnvironmentFacts("d" * 64, "3.12.4", packages),
            )
            log_points(home, number, "loss", loss_curve(2500, number, float(rate) * 20))
            log_points(
                home, number, "eval_loss", loss_curve(50, number + 50, float(rate) * 20 + 0.1), every_s=50
            )
            log_points(
                home, number, "tokens_per_s", [2400 + 200 * math.sin(step / 40) for step in range(400)]
            )
            print_lines(
                home,
                number,
                [
                    f"\x1b[32mepoch {step // 100}\x1b[0m step {step} loss \x1b[1m{3 / (step + 1):.4f}\x1b[0m"
                    for step in range(800)
                ],
            )
            print_lines(home, number, ["UserWarning: the tokenizer has no padding token"], stream="stderr")
            save_file(home, number, "model/config.json", '{"n_layer": 2, "n_head": 4}\n')
            save_file(home, number, "model/model.safetensors", bytes(5000))
            save_file(home, number, "scores.csv", "name,loss\nheld out,0.61\ntraining,0.42\n")
            store.set_facts(
                number, outputs=OutputFacts(3, 5061), usage=Usage(cpu_s=812.5, peak_memory_bytes=812_000_000)
            )
            _finish(store, clock, number, Ending(EndReason.COMPLETED, 0))
            store.refresh_summaries(number)
        sampled = add_run(store, "python sample.py --model 3/model --seed 7", labels=("samples",)).number
        store.set_facts(sampled, mounts=(MountFacts("runs/3/model", "model", False, "runs/3/model"),))
        print_lines(home, sampled, ["Why did the chicken cross the road?", "To get to the other slide."])
        _finish(store, clock, sampled, Ending(EndReason.COMPLETED, 0))
        failed = add_run(store, "python evaluate.py --split test").number
        store.set_facts(failed, mounts=(MountFacts("runs/3/model", "model", True, "runs/3/model"),))
        print_lines(
            home,
            failed,
            ["Traceback (most recent call last):", '  File "evaluate.py", line 12', "KeyError: 'label'"],
            stream="stderr",
        )
        _finish(store, clock, failed, Ending(EndReason.NONZERO_EXIT, 1))
        again = store.create_run(
            store.get(1).spec, OWNER, lambda number: home.run_folder(number).mkdir(parents=True), rerun_of=1
        ).number
        log_points(home, again, "loss", [*loss_curve(300, 9), "nan", "nan", *loss_curve(200, 10)])
        _finish(store, clock, again, Ending(EndReason.SIGNALLED, None, 9))
        store.refresh_summaries(again)
        build = add_run(store, "python train.py --fp8").number
        advance(store, build, RunStatus.BUILDING)
        store.end_run(
            build, Ending(EndReason.BUILD_FAILED, message="no version of fp8-kernels works with Python 3.12")
        )
        running = add_run(
            store, "python train.py --lr 0.03 --epochs 20", params={"lr": "0.03", "batch": "16"}
        )
        advance(store, running.number, RunStatus.RUNNING)
        log_points(home, running.number, "loss", loss_curve(900, 77, 0.9))
        print_lines(home, running.number, [f"step {step}" for step in range(120)])
        store.refresh_summaries(running.number)
        waiting = add_run(store, "python train.py --gpus 4").number
        advance(store, waiting, RunStatus.QUEUED)
    return home


# Values of a sweep's parameters, and the metric that came of them.
TRIALS = [("0.1", "adam", 0.9), ("0.01", "sgd", 0.5), ("0.001", "adam", 0.2), ("0.05", "<b>x</b>", None)]


def sweep_home(root: Path) -> Home:
    """A home with one sweep: three trials with a value, one without."""
    home = Home(root)
    spec = RunSpec(command=("python train.py --lr :lr: --optimizer :optimizer:",), folder=Path("/code"))
    request = SweepRequest(
        spec=spec,
        space={"lr": Range(0.001, 0.1, log=True), "optimizer": Choice(("adam", "sgd", "<b>x</b>"))},
        method="random",
        cells=8,
        metric="loss",
        direction="minimize",
    )
    with SqliteDatabase.open(home) as store:
        sweep = store.create_sweep(request.to_dict(), trials=8, parallel=2, rung_metric=None)
        for place, (rate, optimizer, value) in enumerate(TRIALS):
            params = {"lr": rate, "optimizer": optimizer}
            record = store.create_run(
                request.trial_spec(params, sweep),
                OWNER,
                lambda number: home.run_folder(number).mkdir(parents=True),
                trial=TrialClaim(sweep, place, 1, params),
            )
            finish(store, record.number, Ending(EndReason.COMPLETED, 0))
            store.settle_trial(sweep, place, record.number, value, None if value is None else 10)
    return home
