"""How fast the run half is: prints a Markdown table of medians beside the goals, and the machine's facts.

Main entry: ``python benchmarks/runs.py [--repeats N]``. Invariant: everything happens in temporary folders
and a home of its own; nothing is fetched, for the one package that is installed is made here.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from machine import facts
from processes import environment

from conjure.core.home import HOME_VARIABLE, Home
from conjure.runs.artifacts.manifest import take_manifest
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.host.capacity import Capacity
from conjure.runs.host.process_usage import measure
from conjure.runs.scheduling.scheduler_start import scheduler_of
from conjure.runs.schema.record import CodeFacts, EnvironmentFacts, OutputFacts, RunRecord
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import PHASES, Ending, EndReason, RunProgress, RunStatus

CONJURE = Path(sys.executable).with_name("conjure")
RECORDED_RUNS = 20_000
OUTPUT = b"4.2\n" * 250  # of each of them
POINTS = 10_000
MANY_FILES = 100_000
QUEUED_RUNS, QUEUED_SHORT_RUNS = 1_000, 300
WATCHED_S = 30.0
OUTPUT_BYTES = 1_000_000_000
_LOG_POINTS = f"""
import time
from conjure import log_metric
log_metric("warm-up", 0.0)
started = time.perf_counter()
for step in range({POINTS}):
    log_metric("loss", 0.5, step)
print(time.perf_counter() - started)
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One measured thing: its goal in words, and every time it took, or amount in another unit."""

    what: str
    goal: str
    amounts: tuple[float, ...]
    unit: str = "s"

    def __str__(self) -> str:
        low, middle, high = min(self.amounts), statistics.median(self.amounts), max(self.amounts)
        shown = f"{middle:.3f} {self.unit} | {low:.3f} – {high:.3f} {self.unit}"
        return f"| {self.what} | {shown} | {len(self.amounts)} | {self.goal} |"


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="how often each is measured (default: 7)")
    parser.add_argument("--queue", action="store_true", help="measure only runs that wait for resources")
    parser.add_argument("--growth", action="store_true", help="measure only commands with many runs recorded")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="conjure-benchmark-") as folder:
        measured = _measure_queue if options.queue else _measure_growth if options.growth else _measure
        print("| what | median | range | times | goal |\n|---|---|---|---|---|", flush=True)
        for row in measured(Path(folder), options.repeats):
            print(row, flush=True)  # at once: the last ones come after minutes
    print(f"\n{machine_line(facts(Path('no-peers')))}")


def _measure(folder: Path, repeats: int) -> Iterator[Row]:
    home, conjure = _measured_conjure(folder, **own_package(folder / "packages"))
    yield Row("`conjure --help`", "≤ 0.2 s", times(repeats, lambda: conjure("--help")))
    plain, layered = _run_times(conjure, repeats, "--pip", "tiny-package")
    yield Row("`conjure run true`, small repository, end to end", "≤ 0.8 s", plain)
    added = tuple(with_layer - without for with_layer, without in zip(layered, plain, strict=True))
    yield Row("what a cached environment adds", "≤ 0.1 s", added)
    if shutil.which("bwrap") is not None:
        plain, sandboxed = _run_times(conjure, 3 * repeats, "--sandbox")
        added = tuple(inside - outside for inside, outside in zip(sandboxed, plain, strict=True))
        yield Row("what `--sandbox` adds", "≤ 0.03 s", added)
    yield Row(f"{POINTS:,} points by `log_metric`", "≤ 1 s", times(repeats, lambda: _log_points(folder)))
    yield from _saving(home, conjure, folder, max(repeats // 2, 1))
    yield from _measure_growth(folder / "growth", repeats)
    yield from _measure_queue(folder / "queue", repeats)


def _measure_growth(folder: Path, repeats: int) -> Iterator[Row]:
    """What commands cost with many runs recorded, and how long it takes to remove many files."""
    home, conjure = _measured_conjure(folder)

    def both(what: str, goal: str, measured: Callable[[], tuple[float, ...]]) -> Iterator[Row]:
        used = _processor_seconds()
        seconds = measured()
        yield Row(what, goal, seconds)
        # A first measurement, which is not among the times, warms the disk's cache.
        times = len(seconds) + (len(seconds) > 1)
        yield Row(f"{what}: processor time", "", ((_processor_seconds() - used) / times,))

    conjure("run", "true")
    _record_runs(home, RECORDED_RUNS)
    for command, goal in (
        ("ps", "≤ 0.3 s"),
        ("ps --all", "≤ 2 s"),
        ("ls runs", "≤ 0.5 s"),
        ("prune --force", "≤ 2 s"),
        ("doctor --reindex", "≤ 20 s"),
    ):
        yield from both(
            f"`conjure {command}`, {RECORDED_RUNS:,} runs recorded",
            goal,
            lambda command=command: times(max(repeats // 2, 2), lambda: conjure(*command.split())),
        )
    number = _run_many_files(home, conjure)
    yield from both(
        f"`conjure rm -f` of a run with {MANY_FILES:,} files",
        "≤ 10 s",
        lambda: (conjure("rm", "-f", f"runs/{number}"),),
    )


def _processor_seconds() -> float:
    """What all processes that were started and have ended have used, in user and system mode."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _measure_queue(folder: Path, repeats: int) -> Iterator[Row]:
    """What runs that wait for resources cost, and how soon they start."""
    home, conjure = _measured_conjure(folder)
    cores = Capacity.of_this_machine().cpus
    conjure("run", "-b", "--cpus", str(cores), "sleep 100000")
    for _ in range(QUEUED_SHORT_RUNS):
        conjure("run", "-b", "--cpus", "1", "true")
    conjure("kill", "1")
    drained = _drained(home)
    yield Row(
        f"{QUEUED_SHORT_RUNS} queued runs of `true` with `--cpus 1`, first start to last end",
        "≤ 45 s on 2 cores",
        (max(record.facts.ended_at or 0 for record in drained) - min(map(_started_at, drained)),),
    )
    conjure("run", "-b", "--cpus", str(cores), "sleep 100000")
    # Such that go on once they are started, so that only what ends a run makes the next one start.
    submitted = tuple(conjure("run", "-b", "--cpus", "1", "sleep 100000") for _ in range(QUEUED_RUNS))
    yield Row(f"`conjure run -b --cpus 1 …` while up to {QUEUED_RUNS:,} wait", "≤ 0.3 s", submitted)
    yield Row(
        f"`conjure ps` beside {QUEUED_RUNS:,} that wait", "≤ 0.15 s", times(repeats, lambda: conjure("ps"))
    )
    processor, memory = _cost_of_waiting(home)
    yield Row(f"processor time of {QUEUED_RUNS:,} waiting runs", "< 1 % of a core", (processor,), "%")
    yield Row(f"memory of {QUEUED_RUNS:,} waiting runs", "< 100 MB", (memory,), "MB")
    yield Row(
        "from the end of a run to the next one's start",
        "≤ 0.3 s",
        tuple(_gaps(home, conjure, max(repeats, 3))),
    )
    while True:  # what is left is of no interest
        with SqliteDatabase.open(home) as store:
            left = [str(number) for number in sorted(store.active_numbers(), reverse=True)]
        if not left:
            break
        conjure("kill", *left)


def _measured_conjure(folder: Path, **variables: str) -> tuple[Home, Callable[..., float]]:
    """A new home, and what runs conjure with it in a small repository and tells the seconds.

    Args:
        folder: Where both are put.
        **variables: Further ones that the command is given.
    """
    folder.mkdir(exist_ok=True)
    repository = small_repository(folder / "repository")
    home = Home(folder / "home")
    settings = environment({HOME_VARIABLE: str(home.root), **variables})

    def conjure(*arguments: str) -> float:
        started = time.perf_counter()
        subprocess.run([CONJURE, *arguments], cwd=repository, env=settings, check=True, capture_output=True)
        return time.perf_counter() - started

    return home, conjure


def _drained(home: Home) -> list[RunRecord]:
    """The records of the runs after the first, once all have ended."""
    while True:
        with SqliteDatabase.open(home) as store:
            if not store.active_numbers():
                return [record for record in store.select() if record.number > 1]
        time.sleep(1.0)


def _started_at(record: RunRecord) -> float:
    return record.facts.entered[RunStatus.BUILDING]


def _cost_of_waiting(home: Home) -> tuple[float, float]:
    """Percent of a core, and megabytes, that the scheduler and what it keeps in memory files take."""
    scheduler = scheduler_of(home)
    assert scheduler is not None
    before = measure(scheduler.pid)
    time.sleep(WATCHED_S)
    after = measure(scheduler.pid)
    kept = sum(path.stat().st_size for path in home.queued_requests.iterdir())
    return 100 * (after.cpu_s - before.cpu_s) / WATCHED_S, (after.memory_bytes + kept) / 1e6


def _gaps(home: Home, conjure: Callable[..., float], repeats: int) -> Iterator[float]:
    """End all that has started, again and again, and see when the next one starts."""
    for _ in range(repeats):
        with SqliteDatabase.open(home) as store:
            going_on = [claim.number for claim in store.claims() if claim.started]
            conjure("kill", *map(str, going_on))
            ended = min(store.get(number).facts.ended_at or 0 for number in going_on)
            while not any(claim.started and claim.number not in going_on for claim in store.claims()):
                time.sleep(0.01)
            starts = [_started_at(record) for record in store.select() if _has_started(record)]
            yield min(start for start in starts if start > ended) - ended


def _has_started(record: RunRecord) -> bool:
    return RunStatus.BUILDING in record.facts.entered


def times(repeats: int, measure: Callable[[], float]) -> tuple[float, ...]:
    """Several measurements, after one that warms the disk's cache."""
    measure()
    return tuple(measure() for _ in range(repeats))


def _run_times(
    conjure: Callable[..., float], repeats: int, *options: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Runs without and with some options, in turn, so that both meet the same machine."""
    pairs = [(conjure("run", "true"), conjure("run", *options, "true")) for _ in range(repeats + 1)]
    plain, changed = zip(*pairs[1:], strict=True)  # the first builds the environment
    return plain, changed


def _log_points(folder: Path) -> float:
    settings = os.environ | {"CONJURE_METRICS_FILE": str(folder / "metrics.jsonl")}
    (folder / "metrics.jsonl").unlink(missing_ok=True)
    told = subprocess.run([sys.executable, "-c", _LOG_POINTS], env=settings, check=True, capture_output=True)
    return float(told.stdout)


def _saving(home: Home, conjure: Callable[..., float], folder: Path, repeats: int) -> Iterator[Row]:
    """How long a run with a large output spends in ``saving``, beside hashing and copying the same file."""
    saving, hashing, copying = [], [], []
    for _ in range(repeats):
        conjure("run", f"head -c {OUTPUT_BYTES} /dev/urandom > output.bin")
        with SqliteDatabase.open(home) as store:
            record = store.select()[0]
        entered, ended = record.facts.entered, record.facts.ended_at
        saving.append((ended or 0) - entered[PHASES[-1]])
        output = home.run_folder(record.number) / "outputs" / "output.bin"
        hashing.append(_seconds(lambda file=output: _sha256(file)))
        copying.append(_seconds(lambda file=output: _copy(file, folder / "copy.bin")))
        output.unlink()
    size = f"{OUTPUT_BYTES / 1e9:g} GB"
    yield Row(f"saving {size} of outputs", "a rename and a hash", tuple(saving))
    yield Row(f"for comparison: SHA-256 of {size}", "", tuple(hashing))
    yield Row(f"for comparison: copying {size} to the disk", "", tuple(copying))


def _seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _copy(file: Path, copy: Path) -> None:
    with file.open("rb") as source, copy.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())
    copy.unlink()


def small_repository(folder: Path) -> Path:
    """A git repository with twenty files, one of them not committed."""
    folder.mkdir()
    for number in range(20):
        (folder / f"module_{number}.py").write_text(f"NUMBER = {number}\n" * 50)
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "files"]):
        author = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost"]
        subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True)
    (folder / "uncommitted.py").write_text("NUMBER = 20\n")
    return folder


def own_package(folder: Path) -> dict[str, str]:
    """A package of one module, and the settings with which pip and uv find it and nothing else."""
    folder.mkdir()
    info = "tiny_package-1.0.dist-info"
    files = {
        "tiny_package.py": "",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: us\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / "tiny_package-1.0-py3-none-any.whl", "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
        wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD")))
    return {"PIP_FIND_LINKS": str(folder), "PIP_NO_INDEX": "1"}


def _record_runs(home: Home, count: int) -> None:
    """Records of runs as large as real ones, with a metric each."""
    with SqliteDatabase.open(home) as store:
        first = (store.newest_number() or 0) + 1
        for number in range(first, first + count):
            record = ended_record(home, number)
            _write_folder(home, record)
            store.put_record(record)


def ended_record(home: Home, number: int) -> RunRecord:
    """A record as large as a real one, of a run that completed just now."""
    packages = {f"package-{number}": f"{number}.0" for number in range(100)}
    now = time.time()
    entered = {phase: now - 3600 + place for place, phase in enumerate(PHASES)}
    return RunRecord(
        number,
        RunSpec((f"python train.py --lr {number}",), home.root, labels=("sweep",)),
        RunProgress(entered, now, Ending(EndReason.COMPLETED, 0)),
        CodeFacts("", commit="0" * 40, branch="main"),
        EnvironmentFacts("0" * 32, "/usr/bin/python3", packages),
        outputs=OutputFacts(1, len(OUTPUT)),
        command_s=1.0,
        total_s=2.0,
    )


def _write_folder(home: Home, record: RunRecord) -> None:
    """What a run leaves in its folder."""
    folder = home.run_folder(record.number)
    folder.mkdir(parents=True)
    for name in ("lock", "log.jsonl", "metrics.jsonl"):
        (folder / name).touch()
    (folder / "run.json").write_text(json.dumps(record.to_dict(), indent=1) + "\n")
    (folder / "outputs").mkdir()
    (folder / "outputs" / "loss.txt").write_bytes(OUTPUT)
    take_manifest(folder / "outputs").save(folder / "manifest.json")


def _run_many_files(home: Home, conjure: Callable[..., float]) -> int | None:
    """A run with many outputs; its number."""
    line = f"for i in range({MANY_FILES}): open(f'{{i}}', 'w').close()"
    conjure("run", "python3", "-c", line)
    with SqliteDatabase.open(home) as store:
        return store.newest_number()


def machine_line(machine: dict) -> str:
    shown = ("date", "processor", "cores", "system", "python", "conjure", "load_average")
    memory = f"{machine['memory_bytes'] / 1e9:.0f} GB of memory"
    return " · ".join([*(f"{name.replace('_', ' ')} {machine[name]}" for name in shown), memory])


if __name__ == "__main__":
    main()
