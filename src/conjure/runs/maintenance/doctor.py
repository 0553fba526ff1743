"""Whether conjure's home, database and tools are in order, and rebuilding the database from the run folders.

Main entries: `examine`, `rebuild`. Invariant: looking mends nothing but runs whose carrier is gone, and a
fault in one place does not hide what is known of the others.
"""

import os
import re
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from conjure.core.files import parse_json
from conjure.core.home import HOME_VARIABLE, Home
from conjure.core.quoting import shell_words
from conjure.core.team_settings import objects_team, read_team
from conjure.core.text import plural, valid_utf8
from conjure.core.units import format_size
from conjure.errors import BuildError, ConjureError, StoreError
from conjure.installation import pip_install
from conjure.runs.artifacts.manifest import Manifest
from conjure.runs.artifacts.resource_paths import upload_content, versions
from conjure.runs.artifacts.team_transfer import is_left_over, rebuild_records
from conjure.runs.artifacts.uploads import read_upload
from conjure.runs.code import code_store
from conjure.runs.code.code_store import provisional_references
from conjure.runs.database.base import Database, KeptParts, RunFilter
from conjure.runs.database.migrations import NEWEST
from conjure.runs.database.open_database import open_database, shared_address
from conjure.runs.database.record_files import folder_numbers, foreign_entries, read_record
from conjure.runs.database.sqlite_connection import files_of, is_damaged
from conjure.runs.environments.container_engine import engine_version
from conjure.runs.environments.uv import uv_program
from conjure.runs.executors.sandbox import sandbox_fault
from conjure.runs.host.gpu_meter import GpuMeter
from conjure.runs.lifecycle.abandoned_runs import mark_interrupted
from conjure.runs.maintenance.pruning import find_leftovers, unused_folders
from conjure.runs.schema.run_folder import LOG_FILE, MANIFEST, OUTPUTS
from conjure.runs.schema.status import RunStatus

_OLDEST_GIT = (2, 32)
_LITTLE_ROOM_BYTES = 1_000_000_000
_FEW_FILES = 1000
_ALL = RunFilter(archived=True)
_REINDEX = "conjure doctor --reindex"


class State(StrEnum):
    """How a thing is."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one thing, and what to do about it: a command to type, or in words."""

    name: str
    state: State
    text: str
    fix: str | None = None
    hint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What rebuilding the database did.

    Attributes:
        numbers: Runs whose rows are new.
        unreadable: Runs whose folder holds no readable record; their numbers are not given again.
        set_aside: Where the damaged file is now, or None if it was not damaged.
    """

    numbers: tuple[int, ...]
    unreadable: tuple[int, ...]
    set_aside: Path | None = None


def examine(home: Home) -> Iterator[Finding]:
    """Look at everything the run half needs, one thing after another."""
    yield _home(home)
    yield from _database(home)
    yield _code(home)
    yield _uploads(home)
    yield _disk(home)
    yield _git()
    yield _uv()
    yield _sandbox()
    yield _containers()
    yield _environments(home)
    yield _gpus()


def rebuild(home: Home) -> Rebuilt:
    """Make the database anew from the run folders; a damaged file is kept beside it.

    Records whose file alone is lost are written from the database, and what the code store lacks is made.

    Raises:
        StoreError: The home cannot be written, or a newer conjure wrote the database.
        SnapshotError: The code store cannot be mended.
    """
    aside = None
    if objects_team(home) is not None:
        numbers, unreadable = rebuild_records(home)
    else:
        aside = _set_aside(home) if _is_damaged(home) else None
        with open_database(home) as store:
            numbers, unreadable = store.reindex()
    if home.code_repository.exists():
        code_store.repair_store(home)
    return Rebuilt(tuple(numbers), tuple(unreadable), aside)


def _set_aside(home: Home) -> Path:
    path = home.database
    aside = next(
        candidate
        for candidate in (path.with_name(f"{path.name}.damaged-{count}") for count in range(1, 1 << 30))
        if not candidate.exists()
    )
    for part, kept in zip(files_of(path), files_of(aside), strict=True):
        if part.exists():
            part.rename(kept)
    return aside


def _home(home: Home) -> Finding:
    root = home.root
    if root.exists() and not root.is_dir():
        hint = f"set {HOME_VARIABLE} to a folder"
        return Finding("home", State.FAULT, f"{root} is not a folder", hint=hint)
    if not root.exists():
        return Finding("home", State.OK, f"{root} (created by the first run)")
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        return Finding(
            "home", State.FAULT, f"{root} cannot be written", shell_words("chmod", "u+rwx", str(root))
        )
    if stat.S_IMODE(root.stat().st_mode) & 0o077:
        return Finding(
            "home", State.WARNING, f"{root} can be read by others", shell_words("chmod", "700", str(root))
        )
    return Finding("home", State.OK, str(root))


def _database(home: Home) -> Iterator[Finding]:
    if not home.database.exists() and not folder_numbers(home.runs):
        yield Finding("database", State.OK, "created by the first run")
        return
    try:
        if _is_damaged(home):
            yield Finding("database", State.FAULT, f"{home.database} is damaged", _REINDEX)
            return
        with open_database(home) as store:
            elsewhere = _elsewhere(home, store)
            # Of a team with an object store, the copies of the records are there.
            suspects = [] if objects_team(home) is not None else store.suspects()
            yield _integrity(home, store, suspects)
            yield _runs(store)
            yield from _run_folders(home, store, suspects, elsewhere)
            yield from _leftovers(home, store)
    except StoreError as error:
        fix = error.fix if error.fix or error.hint else _REINDEX
        yield Finding("database", State.FAULT, str(error), fix, error.hint)


def _is_damaged(home: Home) -> bool:
    """Whether the home's own file is damaged; a database that is shared has a server to look after it."""
    return shared_address(home) is None and is_damaged(home.database)


def _integrity(home: Home, store: Database, suspects: list[int]) -> Finding:
    faults = store.stray_rows()
    damaged = store.damaged_rows(suspects)
    if damaged:
        faults.append(f"rows of runs that cannot be read: {_numbers(damaged)}")
    if faults:
        return Finding("database", State.FAULT, "; ".join(faults), _REINDEX)
    team = read_team(home)
    what = f"schema {NEWEST}" if team is None else team.database
    return Finding("database", State.OK, f"{what}, no faults")


def _runs(store: Database) -> Finding:
    """How many runs there are; those whose supervisor is gone are closed on the way."""
    before = store.active()
    mark_interrupted(store, before)
    after = [store.get(record.number) for record in before]
    closed = [record.number for record in after if record.status is RunStatus.INTERRUPTED]
    text = f"{plural(store.count(_ALL), 'run')}, {len(store.active())} active"
    if closed:
        return Finding("runs", State.WARNING, f"{text}; closed as interrupted: {_numbers(closed)}")
    return Finding("runs", State.OK, text)


def _elsewhere(home: Home, store: Database) -> set[int]:
    """Runs of other machines of a team, which have no folder here."""
    return set() if objects_team(home) is None else store.numbers() - set(folder_numbers(home.runs))


def _run_folders(home: Home, store: Database, suspects: list[int], elsewhere: set[int]) -> Iterator[Finding]:
    """Whether rows and folders go together, and the folders hold what they must."""
    rows, folders = store.numbers(), set(folder_numbers(home.runs))
    unused = set(unused_folders(home, store))
    known = {number for number in folders - rows - unused if read_record(home.run_folder(number))}
    if known:
        text = f"run folders with a record that are missing from the database: {_numbers(sorted(known))}"
        yield Finding("run folders", State.WARNING, text, _REINDEX)
    unknown = sorted(folders - rows - unused - known)
    if unknown:
        text = f"run folders that are not in the database and have no readable record: {_numbers(unknown)}"
        hint = f"look into {home.run_folder(unknown[0])}"
        yield Finding("run folders", State.WARNING, text, hint=hint)
    if rows - folders - elsewhere:
        text = f"runs in the database without a folder: {_numbers(sorted(rows - folders - elsewhere))}"
        yield Finding("run folders", State.WARNING, text)
    foreign = foreign_entries(home.runs)
    if foreign:
        text = f"{home.runs} contains entries that are not runs: {_names(foreign)}"
        yield Finding("run folders", State.WARNING, text, hint="move it elsewhere")
    yield from _records(home, store, folders, suspects)
    yield from _run_files(home, store, folders)


def _records(home: Home, store: Database, folders: set[int], suspects: list[int]) -> Iterator[Finding]:
    """Whether the records of runs that have ended are there, and the database says the same."""
    lost, other = [], []
    for number in suspects:
        written = read_record(home.run_folder(number))
        if number in folders and written is None:
            lost.append(number)
        elif written is not None and written.status.is_final and not store.holds(written):
            other.append(number)
    if lost:
        text = f"run.json is missing or cannot be read: {_numbers(lost)}"
        yield Finding("records", State.FAULT, text, _REINDEX)
    if other:
        text = f"run.json and the database disagree: {_numbers(other)}"
        yield Finding("records", State.FAULT, text, _REINDEX)


def _run_files(home: Home, store: Database, folders: set[int]) -> Iterator[Finding]:
    """Whether the folders of runs that have ended hold what they must."""
    wrong: dict[str, list[int]] = {}
    for kept in store.kept_parts():
        faults = list(_faults_of_folder(home, kept)) if kept.number in folders else []
        if faults and objects_team(home) is not None and is_left_over(home, store.get(kept.number)):
            continue  # what the run made is elsewhere
        for fault in faults:
            wrong.setdefault(fault, []).append(kept.number)
    for fault, numbers in wrong.items():
        yield Finding("run files", State.FAULT, f"{fault}: {_numbers(numbers)}")


def _faults_of_folder(home: Home, kept: KeptParts) -> Iterator[str]:
    folder = f"{home.runs}/{kept.number}"  # there may be very many, and pathlib would take most of the time
    if kept.log and not os.path.exists(f"{folder}/{LOG_FILE}"):  # noqa: PTH110
        yield f"{LOG_FILE} is missing, so the logs of these runs are lost"
    if not kept.outputs:
        return
    if not os.path.isdir(f"{folder}/{OUTPUTS}"):  # noqa: PTH112
        yield "their outputs are missing, but were not removed with `conjure rm`"
    try:
        with open(f"{folder}/{MANIFEST}", "rb") as file:  # noqa: PTH123
            parse_json(file.read())["files"]
    except FileNotFoundError:
        yield f"{MANIFEST} is missing, so outputs cannot be checked"
    except (OSError, ValueError, KeyError, TypeError):
        yield f"{MANIFEST} cannot be read, so outputs cannot be checked"


def _leftovers(home: Home, store: Database) -> Iterator[Finding]:
    left = find_leftovers(home, store)
    references = provisional_references(home)
    if left or references:
        count = plural(len(left) + len(references), "thing")
        first = f"; the first is {left[0]}" if left else ""
        yield Finding(
            "leftovers", State.WARNING, f"{count} that killed processes left{first}", "conjure prune"
        )


def _code(home: Home) -> Finding:
    """Whether the code store is one, and holds the code of every run."""
    repository = home.code_repository
    try:
        if home.database.exists() and not _is_damaged(home):
            with open_database(home, must_exist=True) as store:
                trees = store.code_trees()
        else:
            trees = {}
        if objects_team(home) is not None:
            trees = {number: tree for number, tree in trees.items() if not home.is_elsewhere(number)}
        if not repository.exists() and not trees:
            return Finding("code", State.OK, "none yet")
        if not code_store.is_sound(home):
            return Finding("code", State.FAULT, f"{repository} is damaged", _REINDEX)
        missing = code_store.missing_code(home, trees)
    except ConjureError as error:
        return Finding("code", State.FAULT, str(error), error.fix, error.hint)
    if missing:
        text = f"the code of these runs is lost, so they cannot be run again: {_numbers(missing)}"
        return Finding("code", State.FAULT, text)
    return Finding("code", State.OK, f"of {plural(len(trees), 'run')}")


def _uploads(home: Home) -> Finding:
    """Whether each version of each upload has its list of digests and its files."""
    found = [
        (folder.name, version)
        for folder in sorted(_entries(home.uploads))
        for version in versions(home, folder.name)
    ]
    faulty = [f"{name}@{version}" for name, version in found if not _is_whole(home, name, version)]
    if faulty:
        return Finding("uploads", State.FAULT, f"damaged or without their files: {_names(faulty)}")
    return Finding("uploads", State.OK, plural(len(found), "version"))


def _is_whole(home: Home, name: str, version: int) -> bool:
    try:
        read_upload(home, name, version)
        Manifest.load(home.uploads / name / str(version) / MANIFEST)
    except (ConjureError, OSError):
        return False
    return upload_content(home, name, version) is not None


def _disk(home: Home) -> Finding:
    place = next(folder for folder in (home.root, *home.root.parents) if folder.exists())
    disk = os.statvfs(place)
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    text = f"{format_size(free)} free of {format_size(total)}"
    if disk.f_files:  # some filesystems make inodes as they need them
        text += f", room for {plural(disk.f_favail, 'more file')}"
    if disk.f_flag & os.ST_RDONLY:
        return Finding("disk", State.FAULT, f"{place} is on a read-only disk")
    if free < _LITTLE_ROOM_BYTES or (disk.f_files > 0 and disk.f_favail < _FEW_FILES):
        return Finding("disk", State.WARNING, text, "conjure prune")
    return Finding("disk", State.OK, text)


def _git() -> Finding:
    version = _version("git", "--version")
    if version is None:
        return Finding("git", State.FAULT, "not installed; needed to record code", hint="install git")
    if tuple(map(int, version.split(".")[:2])) < _OLDEST_GIT:
        wanted = ".".join(map(str, _OLDEST_GIT))
        return Finding("git", State.FAULT, f"{version} is older than {wanted}", hint="install a newer git")
    return Finding("git", State.OK, version)


def _uv() -> Finding:
    """Whether environments can be built; nothing else needs it."""
    try:
        version = _version(uv_program(), "--version")
    except BuildError as error:
        return Finding("uv", State.OK, f"not available: {error}", error.fix)
    if version is None:
        return Finding("uv", State.FAULT, "it cannot be run", pip_install("--force-reinstall", "uv"))
    return Finding("uv", State.OK, version)


def _sandbox() -> Finding:
    """Whether --sandbox can be had; nothing else needs it."""
    fault = sandbox_fault()
    if fault is None:
        return Finding("sandbox", State.OK, f"available, bubblewrap {_version('bwrap', '--version')}")
    return Finding("sandbox", State.OK, f"not available: {fault}")


def _containers() -> Finding:
    """Whether --image can be had; nothing else needs it."""
    try:
        return Finding("containers", State.OK, f"available, {engine_version()}")
    except BuildError as error:
        return Finding("containers", State.OK, f"not available: {error}")


def _version(*command: str) -> str | None:
    """The first version number a program tells of itself, or None if it cannot be run."""
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\d+(\.\d+)+", told)
    return match[0] if match else None


def _environments(home: Home) -> Finding:
    built = [path for path in _entries(home.environments) if re.fullmatch("[0-9a-f]{32}", path.name)]
    return Finding("environments", State.OK, f"{len(built)} built")


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _gpus() -> Finding:
    readings = GpuMeter().read()
    if not readings:
        return Finding("gpus", State.OK, "none found")
    names = (
        f"{gpu.name} ({format_size(gpu.total_bytes)})" if gpu.total_bytes else gpu.name for gpu in readings
    )
    return Finding("gpus", State.OK, ", ".join(names))


def _numbers(numbers: Sequence[int]) -> str:
    return _names(list(map(str, numbers)))


def _names(names: Sequence[str], shown: int = 10) -> str:
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(map(valid_utf8, names[:shown])) + more
