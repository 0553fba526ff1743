"""How fast a team's home is: prints a Markdown table of medians beside the goals, and the machine's facts.

    .venv/bin/python benchmarks/team.py [--only SECTION...] [--repeats N] [--quick]

Main entry: `main`. It needs what `make test-cluster` installs, and starts a PostgreSQL whose commits wait for
the disk, an S3 server (SeaweedFS) and a Ray cluster of two nodes, all of its own, on this machine. Each
section has a new database; everything is in temporary folders.
"""

import argparse
import csv
import io
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import obstore  # noqa: E402 - tests/ is no package
from machine import facts  # noqa: E402
from processes import environment  # noqa: E402
from runs import CONJURE, Row, ended_record, machine_line, own_package, small_repository, times  # noqa: E402

from conjure.core.config import HEARTBEAT_EVERY_S  # noqa: E402
from conjure.core.home import HOME_VARIABLE, Home  # noqa: E402
from conjure.core.team_settings import objects_team, read_team  # noqa: E402
from conjure.runs.artifacts.manifest import Manifest  # noqa: E402
from conjure.runs.artifacts.team_transfer import shared_files  # noqa: E402
from conjure.runs.database.open_database import open_database  # noqa: E402
from conjure.runs.database.postgres import PostgresDatabase  # noqa: E402
from conjure.runs.executors.cluster import Amounts, JobState  # noqa: E402
from conjure.runs.executors.cluster_executor import ClusterExecutor  # noqa: E402
from conjure.runs.host.process import descendants  # noqa: E402
from conjure.runs.lifecycle.heartbeat import Heartbeat  # noqa: E402
from conjure.runs.maintenance.team import join  # noqa: E402
from conjure.runs.objects.index import ObjectIndex, Streams  # noqa: E402
from conjure.runs.objects.remote import open_objects  # noqa: E402
from conjure.runs.schema.process_facts import Owner, Usage  # noqa: E402
from conjure.runs.schema.record import RunRecord  # noqa: E402
from conjure.runs.schema.run_folder import RunFolder  # noqa: E402
from conjure.runs.schema.spec import RunSpec  # noqa: E402
from conjure.runs.schema.status import PHASES, RunStatus  # noqa: E402
from support.postgres_server import PostgresServer  # noqa: E402
from support.ray_nodes import RayNodes  # noqa: E402
from support.s3_server import S3Server  # noqa: E402

_LARGER_NODE = 2  # cores of one of the two; only it has so many
_POLL_S = 0.05
_FOLLOWED_S, _FIRST_S = 20.0, 3.0
# What a supervisor does how often, as `command_monitor` and `team_upload` say.
_SEND_EVERY_S, _NOTE_USAGE_EVERY_S, _EXPORT_EVERY_S, _RECORDS = 0.7, 5.0, 5.0, 100
_PROCESSES = 4  # that the fake supervisors share, so that they do not wait for one interpreter
_LONGER_S = 3.0  # supervisors go on after they were watched, so that all of the server's processes are there
_FILE_BYTES = 1000
_PRINT_CLOCK = f"""
import time
from conjure import log_metric
until = time.time() + {_FOLLOWED_S + _FIRST_S}
step = 0
while time.time() < until:
    now = time.time()
    print(now, flush=True)
    log_metric("clock", now, step)
    step += 1
    time.sleep(0.2)
"""
_MAKE_FILES = """
import sys
from pathlib import Path
count, size, seed = map(int, sys.argv[1:])
for number in range(count):
    folder = Path(f"folder-{number // 1000}")
    if number % 1000 == 0:
        folder.mkdir()
    text = f"{seed} {number} "
    (folder / f"file-{number}").write_text((text * (size // len(text) + 1))[:size])
"""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each thing is measured."""

    runs: int = 10_000
    output_bytes: int = 1_000_000_000
    files: tuple[int, int] = (20_000, 83_000)
    supervisors: int = 200
    active_runs: int = 4_000
    watched_s: float = 60.0


QUICK = Sizes(1_000, 100_000_000, (2_000, 8_300), 40, 400, 15.0)


class Member:
    """One home of a team, and the installed command in it.

    Args:
        folder: Where the home is made, and a small repository that commands are called in.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.home = Home(folder / "home")
        self.project = small_repository(folder / "repository")
        self._variables = environment({HOME_VARIABLE: str(self.home.root)})

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            [CONJURE, *arguments],
            cwd=self.project,
            env=self._variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read(self, *arguments: str) -> str:
        """Run a command that must succeed; what it prints."""
        process = self.start(*arguments)
        shown, told = process.communicate()
        if process.returncode:
            raise RuntimeError(f"conjure {' '.join(arguments)}: {shown}{told}")
        return shown

    def time(self, *arguments: str) -> float:
        """Run a command that must succeed; the seconds it took."""
        started = time.perf_counter()
        self.read(*arguments)
        return time.perf_counter() - started

    def newest(self) -> RunRecord:
        """The record of the newest run."""
        with open_database(self.home) as store:
            return store.select()[0]

    def database(self) -> PostgresDatabase:
        """The team's database; a context manager."""
        team = read_team(self.home)
        assert team is not None
        return PostgresDatabase.open(self.home, team.database)


@dataclass(slots=True)
class Setup:
    """What the sections share.

    Attributes:
        folder: For all that is made.
        postgres: The database server.
        sizes: How much is measured.
        repeats: How often each is measured.
    """

    folder: Path
    postgres: PostgresServer
    sizes: Sizes
    repeats: int
    teams: int = field(default=0)

    def members(self, s3: S3Server) -> tuple[Member, Member]:
        """A new team of two, each as on a machine of their own."""
        self.teams += 1
        folder = self.folder / str(self.teams)
        ada, bob = Member(folder / "ada"), Member(folder / "bob")
        address = self.postgres.new_database()
        ada.read("team", "init", "--database", address, "--objects", s3.new_address())
        bob.read("team", "join", "--database", address)
        return ada, bob

    def member(self) -> Member:
        """Somebody with a home of their own."""
        self.teams += 1
        return Member(self.folder / str(self.teams))


def main() -> None:
    """Measure everything, or some sections, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7, help="how often each is measured (default: 7)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=[*SECTIONS], help="measure only these")
    parser.add_argument("--quick", action="store_true", help="a tenth of the sizes: rough figures")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="conjure-benchmark-") as folder,
        PostgresServer.running(durable=True) as postgres,
    ):
        setup = Setup(Path(folder), postgres, QUICK if options.quick else Sizes(), options.repeats)
        print("| what | median | range | times | goal |\n|---|---|---|---|---|", flush=True)
        for name in options.only:
            with S3Server.running() as s3:
                os.environ.update(s3.variables())
                for row in SECTIONS[name](setup, s3):
                    print(row, flush=True)  # at once: the last ones come after minutes
    print(f"\n{machine_line(facts(Path('no-peers')))}")


# ---- commands ----------------------------------------------------------------------------------------------


def _commands(setup: Setup, s3: S3Server) -> Iterator[Row]:
    """Short commands, with many runs recorded."""
    alone = setup.member()
    ada, bob = setup.members(s3)
    pairs = [(ada.time("run", "true"), alone.time("run", "true")) for _ in range(setup.repeats + 1)]
    shared, own = zip(*pairs[1:], strict=True)
    yield Row("`conjure run true` in a team's home", "≤ 0.8 s", shared)
    yield Row("for comparison: in a home of its own", "", own)
    _record_runs(ada, setup.sizes.runs)
    for who, member in (("", ada), (" on another machine", bob)):
        yield Row(
            f"`conjure ps`, {setup.sizes.runs:,} runs recorded{who}",
            "≤ 0.4 s",
            times(setup.repeats, lambda member=member: member.time("ps")),
        )
    yield Row(
        f"`conjure ps --all`, {setup.sizes.runs:,} runs recorded",
        "",
        times(max(setup.repeats // 2, 1), lambda: ada.time("ps", "--all")),
    )
    with ada.database() as store:
        (size,) = store.session.query("SELECT pg_total_relation_size('runs') AS bytes")
        yield Row("size of a run's row, with indexes", "", (size["bytes"] / setup.sizes.runs / 1e3,), "kB")


def _record_runs(member: Member, count: int) -> None:
    with member.database() as store:
        number = (store.newest_number() or 0) + 1
        store.put_record(ended_record(member.home, number))
        store.session.skip_numbers(number)
        _copy_run(store, number, count - 1)


def _copy_run(store: PostgresDatabase, number: int, count: int) -> None:
    """Make copies of the newest run, as if that had been some time ago."""
    last = number + count
    for table, column in (("runs", "number"), ("run_labels", "run"), ("leases", "run")):
        store.session.execute(
            f"INSERT INTO {table}"
            f" SELECT (jsonb_populate_record({table}, jsonb_build_object('{column}', copy))).*"
            f" FROM {table}, generate_series(?::bigint, ?) AS copy WHERE {column} = ?",
            (number + 1, last, number),
        )
    store.session.skip_numbers(last)
    store.session.execute("DELETE FROM unexported")
    store.session.execute("VACUUM ANALYZE")


# ---- files -------------------------------------------------------------------------------------------------


def _large_files(setup: Setup, s3: S3Server) -> Iterator[Row]:
    """Saving a large output, beside what obstore takes to send a file of that size to the same server."""
    ada, _ = setup.members(s3)
    team = objects_team(ada.home)
    assert team is not None
    assert team.objects is not None
    store = open_objects(team.objects).store
    size = setup.sizes.output_bytes
    pairs = []
    for _ in range(max(setup.repeats // 2, 1)):
        alone = _send_alone(store, setup.folder / "file", size)
        ada.read("run", f"head -c {size} /dev/urandom > output.bin")
        pairs.append((alone, _saving_s(ada.newest())))
        (RunFolder(ada.home.run_folder(ada.newest().number)).outputs / "output.bin").unlink()
    alone, saving = zip(*pairs, strict=True)
    shares = tuple(100 * client / ours for client, ours in pairs)
    what = f"{size / 1e9:g} GB"
    yield Row(f"saving {what} of outputs, from the command's end to the record's", "", saving)
    yield Row(f"for comparison: sending {what} with obstore alone", "", alone)
    yield Row(f"speed of saving {what}, of what obstore alone reaches", "≥ 80 %", shares, "%")


def _send_alone(store: object, path: Path, size: int) -> float:
    with path.open("wb") as file:
        subprocess.run(["head", "-c", str(size), "/dev/urandom"], stdout=file, check=True)
    started = time.perf_counter()
    obstore.put(store, "alone", path)  # type: ignore[arg-type]
    seconds = time.perf_counter() - started
    obstore.delete(store, "alone")  # type: ignore[arg-type]
    path.unlink()
    return seconds


def _saving_s(record: RunRecord) -> float:
    """From the end of a run's command until its record is closed."""
    assert record.facts.ended_at is not None, record.number
    assert record.status is RunStatus.COMPLETE, record.facts.ending
    return record.facts.ended_at - record.facts.entered[PHASES[-1]]


def _small_files(setup: Setup, s3: S3Server) -> Iterator[Row]:
    """Saving, and uploading, many small files."""
    ada, bob = setup.members(s3)
    few, many = setup.sizes.files
    yield from _saved_files(setup, ada, few, "≤ 20 s")
    yield from _saved_files(setup, ada, many, "≤ 180 s")
    number = ada.newest().number
    upload = ("upload", "--name", "many", str(RunFolder(ada.home.run_folder(number)).outputs))
    yield Row(f"`conjure upload` of the {many:,} files", "", (ada.time(*upload),))
    again = tuple(ada.time(*upload) for _ in range(max(setup.repeats // 3, 1)))
    yield Row("the same again, unchanged", "", again)
    copied = bob.time("cp", f"runs/{number}", str(setup.folder / "copy"))
    yield Row(f"`conjure cp` of the {many:,} files on another machine", "", (copied,))


def _saved_files(setup: Setup, member: Member, count: int, goal: str) -> Iterator[Row]:
    what = f"{count:,} files of {_FILE_BYTES / 1e3:g} kB"
    command = ("run", "--", sys.executable, "-c", _MAKE_FILES, str(count), str(_FILE_BYTES), str(count))
    before = _object_count(member)
    member.read(*command)
    yield Row(f"saving {what} of outputs", goal, (_saving_s(member.newest()),))
    sent = _object_count(member) - before
    yield Row(f"objects sent for the {count:,} files", "", (sent,), "objects")
    again = _send_again(member, setup.repeats)
    yield Row(f"sending the {count:,} files again, unchanged", "≤ 2 s", again)
    member.read(*command)
    again = (_saving_s(member.newest()),)
    yield Row(f"for comparison: saving the {count:,} files again, as another run's outputs", "", again)


def _object_count(member: Member) -> int:
    with member.database() as store:
        return ObjectIndex(store.session).size()[0]


def _send_again(member: Member, repeats: int) -> tuple[float, ...]:
    """How long it takes to find out that all outputs of the newest run are in the object store."""
    folder, team = RunFolder(member.home.run_folder(member.newest().number)), objects_team(member.home)
    assert team is not None
    manifest = Manifest.load(folder.manifest)
    with shared_files(member.home, team) as files:
        return times(repeats, lambda: _seconds(lambda: files.store(folder.outputs, manifest)))


def _seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


# ---- following a run on another machine --------------------------------------------------------------------


def _live(setup: Setup, s3: S3Server) -> Iterator[Row]:
    """How far behind somebody is who follows a run on another machine."""
    ada, bob = setup.members(s3)
    ada.read("run", "-b", "--", sys.executable, "-c", _PRINT_CLOCK)
    number = str(ada.newest().number)
    begun = time.time()
    lags: list[float] = []
    with bob.start("logs", "-f", number) as followed:
        asking = threading.Thread(target=lambda: lags.extend(_metric_lags(bob, number, begun)))
        asking.start()
        assert followed.stdout is not None
        shown = [(time.time(), line) for line in followed.stdout]
        asking.join()
    yield Row(
        "`conjure logs -f` on another machine: age of a line when it is shown",
        "≤ 2 s",
        tuple(seen - at for seen, at in _clocks(shown) if at > begun + _FIRST_S),
    )
    yield Row("`conjure metrics` there: age of the newest point when it has printed it", "≤ 2 s", tuple(lags))


def _clocks(shown: Iterable[tuple[float, str]]) -> Iterator[tuple[float, float]]:
    """When a line was seen, and the time it says, of those of the command's own."""
    for seen, line in shown:
        with suppress(ValueError):
            yield seen, float(line)


def _metric_lags(member: Member, number: str, begun: float) -> Iterator[float]:
    while time.time() < begun + _FOLLOWED_S:
        if time.time() > begun + _FIRST_S:
            points = list(csv.DictReader(io.StringIO(member.read("metrics", number, "--csv"))))
            yield time.time() - float(points[-1]["value"])
        time.sleep(random.random())


# ---- Ray ---------------------------------------------------------------------------------------------------


def _ray(setup: Setup, s3: S3Server) -> Iterator[Row]:
    """What a run takes on a cluster beside a job of the cluster's own."""
    ada, _ = setup.members(s3)
    settings = s3.variables() | own_package(setup.folder / "packages")
    with RayNodes.running(settings, HEARTBEAT_EVERY_S) as nodes:
        ada.home.config_file.write_text(f'[executors.gpu]\nkind = "ray"\naddress = "{nodes.address}"\n')
        team = read_team(ada.home)
        assert team is not None
        for node in nodes.homes:
            join(node.named(team.identity), team.database)
        executor = ClusterExecutor.named(ada.home, "gpu")
        rounds = [_ray_round(ada, executor, number) for number in range(setup.repeats + 1)][1:]
    yield Row("Ray's own start of a job, until it runs", "", tuple(each.job_start_s for each in rounds))
    yield Row("Ray's own job of `true`, until Ray says that it is over", "", tuple(e.job_s for e in rounds))
    yield Row("`conjure run --on gpu true`", "", tuple(each.run_s for each in rounds))
    yield Row(
        "the same, over Ray's own start of a job",
        "≤ 1.5 s",
        tuple(each.run_s - each.job_start_s for each in rounds),
    )
    yield Row(
        "what a cached environment on a node adds",
        "≤ 0.2 s",
        tuple(each.layered_build_s - each.build_s for each in rounds),
    )


@dataclass(frozen=True, slots=True)
class _RayRound:
    job_start_s: float
    job_s: float
    run_s: float
    build_s: float
    layered_build_s: float


def _ray_round(member: Member, executor: ClusterExecutor, number: int) -> _RayRound:
    _wait_until_idle(executor)
    start_s, job_s = _own_job(executor, f"own-{number}")
    run_s = member.time("run", "--on", "gpu", "true")
    build_s, layered_build_s = (_building_s(member, *options) for options in ((), ("--pip", "tiny-package")))
    return _RayRound(start_s, job_s, run_s, build_s, layered_build_s)


def _building_s(member: Member, *options: str) -> float:
    """What a run on the larger node takes from the end of waiting until code and environment are there."""
    member.read("run", "--on", "gpu", "--cpus", str(_LARGER_NODE), *options, "true")
    record = member.newest()
    return record.facts.entered[RunStatus.MOUNTING] - record.facts.entered[RunStatus.BUILDING]


def _wait_until_idle(executor: ClusterExecutor) -> None:
    while any(node.free.cpus < node.total.cpus for node in executor.cluster.nodes()):
        time.sleep(_POLL_S)


def _own_job(executor: ClusterExecutor, name: str) -> tuple[float, float]:
    """How long a job of `true` takes to start, and until it is over, asked for as conjure does."""
    started, start_s = time.perf_counter(), None
    executor.cluster.submit(name, "true", Amounts(cpus=1.0))
    while True:
        (job,) = [each for each in executor.cluster.jobs() if each.id == name]
        passed_s = time.perf_counter() - started
        if start_s is None and job.state is not JobState.PENDING:
            start_s = passed_s
        if start_s is not None and job.state is JobState.OVER:
            return start_s, passed_s
        time.sleep(_POLL_S)


# ---- many supervisors --------------------------------------------------------------------------------------


def _heartbeats(setup: Setup, s3: S3Server) -> Iterator[Row]:
    """What many supervisors at once ask of the database."""
    ada, _ = setup.members(s3)
    count = setup.sizes.supervisors
    numbers = _begin_runs(ada, count)
    for prints, kind in ((False, "silent"), (True, "printing")):
        yield from _load(setup, ada, numbers, f"{count} supervisors of {kind} runs", prints=prints)
    yield Row(f"`conjure ps` beside {count} active runs", "", times(setup.repeats, lambda: ada.time("ps")))
    more = setup.sizes.active_runs
    with ada.database() as store:
        _copy_run(store, numbers[-1], more - count)
    yield Row(f"`conjure ps` beside {more:,} active runs", "", times(setup.repeats, lambda: ada.time("ps")))


def _begin_runs(member: Member, count: int) -> list[int]:
    """Runs that go on, each on a machine of its own."""
    home, numbers = member.home, []
    with member.database() as store:
        with store.session.transaction():
            for place in range(count):
                owner = Owner(f"machine-{place}", "boot", 1, "1")
                spec = RunSpec((f"python train.py --seed {place}",), home.root)
                run = store.create_run(
                    spec, owner, lambda number: home.run_folder(number).mkdir(parents=True)
                )
                store.begin_attempt(run.number, owner)
                for phase in PHASES[1 : PHASES.index(RunStatus.RUNNING) + 1]:
                    store.move(run.number, phase)
                store.set_facts(run.number, environment=ended_record(home, run.number).environment)
                numbers.append(run.number)
            store.session.execute("DELETE FROM unexported")
        store.session.execute("VACUUM ANALYZE")
    return numbers


def _load(setup: Setup, member: Member, numbers: list[int], who: str, *, prints: bool) -> Iterator[Row]:
    seconds = setup.sizes.watched_s
    parts = [numbers[place::_PROCESSES] for place in range(_PROCESSES)]
    with (
        member.database() as store,
        ProcessPoolExecutor(_PROCESSES, multiprocessing.get_context("spawn")) as pool,
    ):
        begin = time.time() + 10.0  # once all are connected
        tasks = [
            pool.submit(_supervise_some, str(member.home.root), part, begin, seconds, prints=prints)
            for part in parts
        ]
        time.sleep(begin - time.time())
        before = _Counters.of(setup, store)
        time.sleep(seconds)
        used = _Counters.of(setup, store) - before
        waits = sorted(wait for task in tasks for wait in task.result())
    yield Row(f"{who}: transactions", "", (used.transactions / seconds,), "a second")
    yield Row(f"{who}: latency of one", "", tuple(1e3 * wait for wait in waits), "ms")
    yield Row(f"{who}: latency, 99 of 100 below", "", (1e3 * waits[len(waits) * 99 // 100],), "ms")
    yield Row(f"{who}: processor time of PostgreSQL", "", (100 * used.processor_s / seconds,), "% of a core")
    yield Row(f"{who}: written to its log", "", (used.written_bytes / seconds / 1e3,), "kB a second")


@dataclass(frozen=True, slots=True)
class _Counters:
    """What a server has done."""

    transactions: float
    written_bytes: float
    processor_s: float

    @classmethod
    def of(cls, setup: Setup, store: PostgresDatabase) -> Self:
        (row,) = store.session.query(
            "SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()) AS done,"
            " pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8 AS written"
        )
        processes = [setup.postgres.pid, *(each.pid for each in descendants(setup.postgres.pid))]
        return cls(row["done"], row["written"], sum(map(_processor_s, processes)))

    def __sub__(self, other: Self) -> "_Counters":
        return _Counters(
            self.transactions - other.transactions,
            self.written_bytes - other.written_bytes,
            self.processor_s - other.processor_s,
        )


def _processor_s(pid: int) -> float:
    """Seconds a process has run; `stat` would count whole ticks of each, and these do little."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _supervise_some(
    root: str, numbers: list[int], begin: float, seconds: float, *, prints: bool
) -> list[float]:
    home = Home(Path(root))
    with ThreadPoolExecutor(len(numbers)) as threads:
        found = threads.map(lambda number: _supervise(home, number, begin, seconds, prints=prints), numbers)
        return [wait for waits in found for wait in waits]


def _supervise(home: Home, number: int, begin: float, seconds: float, *, prints: bool) -> list[float]:
    """Ask and tell the database what the supervisor of a run does; how long each took."""
    waits: list[float] = []
    team = read_team(home)
    assert team is not None
    with PostgresDatabase.open(home, team.database) as store:
        heartbeat, index = Heartbeat(number, 1, is_shared=True), ObjectIndex(store.session)

        def look(_turn: int) -> None:
            heartbeat.beat(store)
            store.end_request(number)

        def look_for_records(_turn: int) -> None:
            index.unexported_uploads(_RECORDS)
            index.unexported(_RECORDS)

        acts: list[tuple[float, Callable[[int], object]]] = [
            (heartbeat.look_every_s, look),
            (_EXPORT_EVERY_S, look_for_records),
            (_NOTE_USAGE_EVERY_S, lambda turn: store.set_facts(number, usage=Usage(float(turn)))),
        ]
        if prints:
            acts.append((_SEND_EVERY_S, lambda turn: index.set_streams(number, Streams(1, turn, turn))))
        # Not all at the same moment, and some already before the others watch.
        due = [begin + every * (random.random() - 1) for every, _ in acts]
        turn = 0
        while min(due) < begin + seconds + _LONGER_S:
            place = due.index(min(due))
            time.sleep(max(due[place] - time.time(), 0))
            turn += 1
            started = time.perf_counter()
            acts[place][1](turn)
            waits.append(time.perf_counter() - started)
            due[place] += acts[place][0]
    return waits


SECTIONS: dict[str, Callable[[Setup, S3Server], Iterator[Row]]] = {
    "commands": _commands,
    "large-files": _large_files,
    "small-files": _small_files,
    "live": _live,
    "heartbeats": _heartbeats,
    "ray": _ray,
}


if __name__ == "__main__":
    main()
